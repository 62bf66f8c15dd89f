"""``attention(q, k, v, budget=...)``: one call for NumPy and torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError
from qcluster.q_attention.estimate import Estimate, sampled
from qcluster.q_attention.exact import exact
from qcluster.q_attention.problem import AttentionProblem, state
from qcluster.q_attention.samplers import SAMPLERS
from qcluster.q_attention.variates import make_variate

if TYPE_CHECKING:
    import torch

__all__ = ["AttentionOutput", "attention", "attention_on"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AttentionOutput:
    """The result of ``attention``; arrays are of the caller's kind.

    Attributes
    ----------
    out: (..., nq, dv), of q's dtype.
    bound: (..., nq) absolute L2 error that a row exceeds with chance at most delta; 0 for exact
        rows, None without a certificate.
    bytes_read: over all queries, of keys, values, copies, scales and summaries, with keys and
        values in 16 bits; making copies and summaries is not counted.
    share: bytes_read over what exact attention reads.
    method: what ran.
    exact_rows: rows that were computed exactly.
    warnings: what was asked for and not done, and why.
    """

    out: Any
    bound: Any
    bytes_read: float
    share: float
    method: str
    exact_rows: int
    warnings: tuple[str, ...] = ()


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    sampler: str = "varopt",
    budget: int | float,
    certificate: bool = False,
    delta: float = 0.05,
    eps: float | None = None,
    mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    control_variate: str = "auto",
    criterion: str = "variance",
    generator: torch.Generator | int | None = None,
) -> AttentionOutput:
    """Attention from part of its keys and values.

    Parameters
    ----------
    q, k, v: (..., nq, d), (..., n, d), (..., n, dv); fewer key/value heads are grouped queries.
    sampler: naive, stratified, systematic, hybrid, varopt, adaptive, topk, or a registered one.
    budget: an int is value rows a query, with exact scores; a float in (0, 1] the share of the
        keys' and values' 16-bit bytes that a query may read, scores included.
    certificate: bound every row's error, wrong with chance at most ``delta``.
    eps: refine each row until its bound is at most eps times its length, or compute it exactly;
        implies a certificate.
    mask, is_causal, scale: as of ``scaled_dot_product_attention``; a row without keys gives zeros.
    control_variate: auto, none, constant, block, lowbit.
    criterion: of ``adaptive``: variance (Neyman) or entropy.
    generator: a torch generator or a seed; None is seed 0. The same one gives the same draw.

    Raises InputError naming the argument.
    """
    problem = state(q, k, v, mask=mask, is_causal=is_causal, scale=scale)
    estimate, report = attention_on(
        problem,
        sampler=sampler,
        budget=budget,
        control_variate=control_variate,
        criterion=criterion,
        certificate=certificate,
        delta=delta,
        eps=eps,
        generator=generator,
    )
    bound = None if estimate.bound is None else problem.give(estimate.bound, row=True)
    return AttentionOutput(
        out=problem.give(estimate.out),
        bound=bound,
        bytes_read=report["bytes_read"],
        share=report["share"],
        method=report["method"],
        exact_rows=report["exact_rows"],
        warnings=tuple(report["warnings"]),
    )


def attention_on(
    problem: AttentionProblem,
    *,
    sampler: str,
    budget: int | float,
    control_variate: str = "auto",
    criterion: str = "variance",
    certificate: bool = False,
    delta: float = 0.05,
    eps: float | None = None,
    generator: torch.Generator | int | None = None,
) -> tuple[Estimate, dict[str, Any]]:
    """``attention`` on a checked problem: the estimate and a report of what was done."""
    import torch

    _check_options(sampler, budget, delta, eps, criterion)
    if generator is None or isinstance(generator, int):
        seed = 0 if generator is None else generator
        generator = torch.Generator(device=problem.q.device).manual_seed(seed)
    wanted = certificate or eps is not None
    whole = (
        isinstance(budget, float)
        and budget >= 1
        or (isinstance(budget, int) and budget >= problem.n)
    )
    if whole:
        estimate, method = _exactly(problem, wanted), "exact"
    else:
        name = _variate_name(control_variate, sampler)
        variate = make_variate(problem.v, name)
        estimate = sampled(
            problem,
            "varopt" if sampler == "adaptive" else sampler,
            int(budget),
            variate,
            generator=generator,
            delta=delta if wanted else None,
            criterion=criterion if sampler == "adaptive" else None,
        )
        method = f"{sampler} + {name}" if name != "none" else sampler
    read = float(estimate.bytes_read.sum())
    return estimate, {
        "bytes_read": read,
        "share": read / (problem.fp16_bytes * problem.rows),
        "method": method,
        "exact_rows": problem.rows if whole else 0,
        "warnings": [],
    }


def _exactly(problem: AttentionProblem, wanted: bool) -> Estimate:
    out, weights = exact(problem.q, problem.k, problem.v, problem.bias, problem.scale)
    seen = (weights.detach() > 0).sum(-1).to(weights.dtype)
    read = seen * 2 * (problem.k.shape[-1] + problem.v.shape[-1])
    zero = seen.new_zeros(seen.shape)
    return Estimate(out, zero if wanted else None, read, weights)


def _variate_name(name: str, sampler: str) -> str:
    # The naive sampler is the reference, and top-k has no use for one.
    if name == "auto":
        return "none" if sampler in ("naive", "topk") else "lowbit"
    return name


def _check_options(
    sampler: str, budget: float, delta: float, eps: float | None, criterion: str
) -> None:
    SAMPLERS.get(sampler)
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise InputError(f"wants an int or a float, got {budget!r}", field="budget")
    if isinstance(budget, int) and budget < 1:
        raise InputError(f"wants at least 1 row, got {budget}", field="budget")
    if isinstance(budget, float) and not 0 < budget <= 1:
        raise InputError(f"a share is in (0, 1], got {budget}", field="budget")
    if not 0 < delta < 1:
        raise InputError(f"wants a number in (0, 1), got {delta}", field="delta")
    if eps is not None and not (eps > 0 and eps < float("inf")):
        raise InputError(f"wants a positive number, got {eps}", field="eps")
    if criterion not in ("variance", "entropy"):
        raise InputError(f"'{criterion}' is none of variance, entropy", field="criterion")
