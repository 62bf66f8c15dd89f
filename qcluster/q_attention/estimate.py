"""Attention from all scores and a few value rows: sum_j p_j h_j + sum_j m_j p_j (v_j - h_j).

Scores are exact here, so every key is read; values are read where a sampler says so. The chosen
rows are constants of the gradient: backward through p and v sees the same draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.samplers import SAMPLERS, Sampler
from qcluster.q_attention.variates import Variate

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["Estimate", "chance_bound", "predicted_variance", "sampled"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """``out`` (groups, rows, dv); ``bound`` (groups, rows) or None; ``bytes_read`` (groups, rows);
    ``weights`` (groups, rows, n) that stand for the softmax.
    """

    out: torch.Tensor
    bound: torch.Tensor | None
    bytes_read: torch.Tensor
    weights: torch.Tensor


def chance_bound(variance: torch.Tensor, largest: torch.Tensor, delta: float) -> torch.Tensor:
    """What the length of a sum of independent zero-mean vectors exceeds with chance <= delta.

    ``variance`` is the expected square of that length, ``largest`` bounds each vector. Talagrand's
    inequality in Bousquet's form (2002), with the weak variance bounded by the strong one.
    """
    t = math.log(1 / delta)
    mean = variance.clamp(min=0).sqrt()
    return mean + (2 * t * (variance.clamp(min=0) + 2 * largest * mean)).sqrt() + largest * t / 3


def sampled(
    problem: AttentionProblem,
    sampler: str,
    budget: int,
    variate: Variate,
    *,
    generator: torch.Generator | None = None,
    delta: float | None = None,
    criterion: str | None = None,
) -> Estimate:
    """Estimate with ``budget`` value rows a query.

    ``criterion`` "variance" or "entropy" shares ``budget * rows`` unequally over the rows of a
    group. With ``delta`` every row has a bound; rows whose draws are dependent (systematic,
    hybrid) are drawn by strata then. Bytes are of 16-bit keys and values.
    """
    import torch

    weights = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
    with torch.no_grad():
        size, norms = _sizes(weights, problem.v, variate)
        shares = _budgets(size, weights, budget, criterion)
        method = _independent(sampler) if delta is not None else SAMPLERS.get(sampler)
        multipliers = method.draw(size, shares, generator)
        bound = None if delta is None else _bound(method, size, norms, shares, delta)
        seen = (weights > 0).sum(-1).to(weights.dtype)
        rows = (multipliers > 0).sum(-1).to(weights.dtype)
        d, dv = problem.k.shape[-1], problem.v.shape[-1]
        # Lengths of the values are one more number a key, where the certificate needs them.
        lengths = 2 * seen if delta is not None and variate.left is None else 0
        read = 2 * d * seen + 2 * dv * rows + lengths + variate.bytes_read
    picked = weights * multipliers
    if sampler == "topk":
        picked = picked / picked.sum(-1, keepdim=True).clamp(min=1e-30)
    out = picked @ problem.v
    if variate.values is not None and sampler != "topk":
        out = out + (weights - picked) @ variate.values
    return Estimate(out, bound, read, weights)


def predicted_variance(
    problem: AttentionProblem, sampler: str, budget: int, variate: Variate
) -> torch.Tensor | None:
    """Expected squared error of every row, (groups, rows), in closed form; None without one."""
    weights = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
    method = SAMPLERS.get(sampler)
    if method.variance is None:
        return None
    size, _ = _sizes(weights, problem.v, variate)
    shares = _budgets(size, weights, budget, None)
    rest = problem.v if variate.values is None else problem.v - variate.values
    return method.variance(size, weights.unsqueeze(-1) * rest.unsqueeze(1), shares)


def _sizes(
    weights: torch.Tensor, v: torch.Tensor, variate: Variate
) -> tuple[torch.Tensor, torch.Tensor]:
    """What draws are proportional to, and lengths of the terms that are drawn."""
    if variate.left is not None:
        # A value that its copy hits exactly has nothing left to sample.
        size = weights * variate.left
        return size, size
    rest = v if variate.values is None else v - variate.values
    return weights, weights * rest.norm(dim=-1).unsqueeze(1)


def _budgets(
    size: torch.Tensor, weights: torch.Tensor, budget: int, criterion: str | None
) -> torch.Tensor:
    import torch

    n, rows = size.shape[-1], size.shape[-2]
    flat = torch.full((*size.shape[:-1], 1), min(budget, n), device=size.device)
    if criterion is None or rows < 2:
        return flat
    if criterion == "entropy":
        share = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
    else:
        # Neyman (1934): in proportion to the deviation of what one draw would give.
        share = (size.sum(-1).square() - size.square().sum(-1)).clamp(min=0).sqrt()
    share = share / share.sum(-1, keepdim=True).clamp(min=1e-30)
    spread = (budget * rows * share).floor().long().clamp(min=max(1, budget // 4), max=n)
    over = budget * rows / spread.sum(-1, keepdim=True).clamp(min=1)
    return (spread * over.clamp(max=1)).floor().long().clamp(min=1).unsqueeze(-1)


def _independent(sampler: str) -> Sampler:
    method = SAMPLERS.get(sampler)
    if method.tail is not None:
        return method
    return SAMPLERS.get("stratified" if sampler == "systematic" else "varopt")


def _bound(
    method: Sampler, size: torch.Tensor, norms: torch.Tensor, shares: torch.Tensor, delta: float
) -> torch.Tensor:
    assert method.tail is not None
    variance, largest = method.tail(size, norms, shares)
    return chance_bound(variance, largest, delta)
