"""``attention(q, k, v, budget=...)``: one call for NumPy and torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError
from qcluster.q_attention.budgets import Options, by_bytes, by_rows, exactly
from qcluster.q_attention.estimate import Estimate
from qcluster.q_attention.problem import AttentionProblem, state
from qcluster.q_attention.samplers import SAMPLERS

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
    budget: float,
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
    budget: float,
    control_variate: str = "auto",
    criterion: str = "variance",
    certificate: bool = False,
    delta: float = 0.05,
    eps: float | None = None,
    generator: torch.Generator | int | None = None,
) -> tuple[Estimate, dict[str, Any]]:
    """``attention`` on a checked problem: the estimate and a report of what was done."""
    _check_options(sampler, budget, delta, eps, criterion)
    wanted = certificate or eps is not None
    warnings: list[str] = []
    chosen = Options(sampler, control_variate, criterion, delta if wanted else None, eps)
    if budget >= (1 if isinstance(budget, float) else problem.n):
        estimate, method = exactly(problem, wanted), "exact"
    elif isinstance(budget, int):
        estimate, method = by_rows(problem, budget, chosen, _seeded(generator, problem))
    else:
        estimate, method, warnings = by_bytes(problem, budget, chosen, _seeded(generator, problem))
    read = float(estimate.bytes_read.sum())
    rows = problem.rows if method == "exact" else 0
    if wanted and method != "exact" and estimate.bound is not None:
        rows = int((estimate.bound == 0).sum())
    return estimate, {
        "bytes_read": read,
        "share": read / (problem.fp16_bytes * problem.rows),
        "method": method,
        "exact_rows": rows,
        "bound": estimate.bound,
        "warnings": warnings,
    }


def _seeded(generator: torch.Generator | int | None, problem: AttentionProblem) -> torch.Generator:
    import torch

    if isinstance(generator, torch.Generator):
        return generator
    if generator is not None and (isinstance(generator, bool) or generator < 0):
        raise InputError(f"wants a generator or a seed, got {generator!r}", field="generator")
    return torch.Generator(device=problem.q.device).manual_seed(generator or 0)


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
