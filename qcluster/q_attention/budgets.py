"""What a budget means: value rows with exact scores, or bytes with everything included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from qcluster.q_attention.estimate import Estimate, sampled
from qcluster.q_attention.exact import exact
from qcluster.q_attention.levels import multilevel
from qcluster.q_attention.plans import build, plan_certified, plan_levels
from qcluster.q_attention.scored import scored_by_copy
from qcluster.q_attention.variates import make_variate

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["Options", "by_bytes", "by_rows", "exactly"]

ROOM = 2**24
"""Scores that are held at a time, over all groups."""
SPLITS = ("varopt", "adaptive", "hybrid")
"""Samplers whose split into exact rows and the rest bytes are spent by."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How to estimate: ``delta`` None asks for no bound."""

    sampler: str
    control_variate: str
    criterion: str
    delta: float | None
    eps: float | None


def exactly(problem: AttentionProblem, wanted: bool) -> Estimate:
    """Exact attention, with a bound of 0 where one is wanted."""
    out, weights = exact(problem.q, problem.k, problem.v, problem.bias, problem.scale)
    seen = (weights.detach() > 0).sum(-1).to(weights.dtype)
    read = seen * 2 * (problem.k.shape[-1] + problem.v.shape[-1])
    return Estimate(out, seen.new_zeros(seen.shape) if wanted else None, read, weights)


def by_rows(
    problem: AttentionProblem, budget: int, options: Options, generator: torch.Generator
) -> tuple[Estimate, str]:
    """``budget`` value rows a query, scores exact."""
    name = options.control_variate
    if name == "auto":
        # The naive sampler is the reference, and top-k has no use for one.
        name = "none" if options.sampler in ("naive", "topk") else "lowbit"
    variate = make_variate(problem.v, name)

    def one(part: AttentionProblem) -> Estimate:
        found = sampled(
            part,
            options.sampler,
            budget,
            variate,
            generator=generator,
            delta=options.delta,
            criterion=options.criterion if options.sampler == "adaptive" else None,
        )
        return _settle(part, found, options.eps)

    method = options.sampler if name == "none" else f"{options.sampler} + {name}"
    return _in_parts(problem, one), method


def by_bytes(
    problem: AttentionProblem, share: float, options: Options, generator: torch.Generator
) -> tuple[Estimate, str, list[str]]:
    """A share of 16-bit bytes a query, scores included."""
    import torch

    d, dv = int(problem.k.shape[-1]), int(problem.v.shape[-1])
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
    budget = share * problem.fp16_bytes
    if options.sampler not in SPLITS and options.delta is None:
        estimate = _in_parts(
            problem, lambda part: scored_by_copy(part, options.sampler, share, generator)
        )
        return estimate, f"{options.sampler}, scores from low-bit keys", []
    certified = options.delta is not None
    plan = (plan_certified if certified else plan_levels)(problem.n, d, dv, share)
    store = build(problem, plan, seed=seed)

    def one(part: AttentionProblem) -> Estimate:
        found = multilevel(part, store, budget, delta=options.delta)
        for more in (0.02, 0.05, 0.1, 0.2, 0.4):
            short = _short(found, options.eps)
            if short is None or not bool(short.any()):
                break
            extra = short.unsqueeze(-1) * more * part.fp16_bytes
            found = _take(found, multilevel(part, store, budget, delta=options.delta, extra=extra),
                          short)  # fmt: skip
        return _settle(part, found, options.eps)

    method = "low-bit + exact rows" if certified else "clusters + low-bit + exact rows"
    estimate = _in_parts(problem, one)
    warnings = list(plan.warnings)
    most = float(estimate.bytes_read.max()) / problem.fp16_bytes
    if not certified and not warnings and most > share * 1.001:
        warnings.append(f"the mask cuts through clusters: up to {most:.3g} was read")
    return estimate, method, warnings


def _short(found: Estimate, eps: float | None) -> torch.Tensor | None:
    """Rows whose bound is above eps of their length, (groups, rows); None without eps."""
    if eps is None or found.bound is None:
        return None
    short: torch.Tensor = found.bound > eps * found.out.detach().norm(dim=-1)
    return short


def _take(found: Estimate, other: Estimate, where: torch.Tensor) -> Estimate:
    import torch

    assert found.bound is not None
    assert other.bound is not None
    wide = where.unsqueeze(-1)
    return Estimate(
        torch.where(wide, other.out, found.out),
        torch.where(where, other.bound, found.bound),
        torch.where(where, other.bytes_read, found.bytes_read),
        torch.where(wide, other.weights, found.weights),
    )


def _settle(part: AttentionProblem, found: Estimate, eps: float | None) -> Estimate:
    """Exact rows where no bound could be had, or where it is still above eps."""
    if found.bound is None:
        return found
    open_ = found.bound.isinf()
    short = _short(found, eps)
    if short is not None:
        open_ = open_ | short
    if not bool(open_.any()):
        return found
    whole = exactly(part, True)
    both = dataclasses.replace(whole, bytes_read=whole.bytes_read + found.bytes_read)
    return _take(found, both, open_)


def _in_parts(problem: AttentionProblem, one: Callable[[AttentionProblem], Estimate]) -> Estimate:
    """``one`` over slices of the rows, so that memory stays bounded in their number."""
    import torch

    groups, rows = problem.q.shape[:2]
    step = max(1, ROOM // (groups * problem.n))
    if rows <= step:
        return one(problem)
    parts = []
    for first in range(0, rows, step):
        here = slice(first, first + step)
        bias = problem.bias
        if bias is not None and bias.shape[1] > 1:
            bias = bias[:, here]
        parts.append(one(dataclasses.replace(problem, q=problem.q[:, here], bias=bias)))
    bounds = [part.bound for part in parts if part.bound is not None]
    return Estimate(
        torch.cat([part.out for part in parts], 1),
        torch.cat(bounds, 1) if bounds else None,
        torch.cat([part.bytes_read for part in parts], 1),
        torch.cat([part.weights for part in parts], 1),
    )
