"""Samplers within a share of bytes: keys in few bits propose rows, the rows are read exactly.

Self-normalised importance sampling (Hesterberg, 1995): with multipliers m_j of mean one for the
proposals, numerator and denominator are both estimated from the rows that were read,

    o' = sum_j m_j w_j v_j / sum_j m_j w_j,

which has a bias of order 1 / rows. Without bytes enough for low-bit keys the proposal is uniform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcluster.q_attention.estimate import Estimate
from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.lowbit import shrink
from qcluster.q_attention.samplers import SAMPLERS

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["scored_by_copy"]


def scored_by_copy(
    problem: AttentionProblem, sampler: str, share: float, generator: torch.Generator
) -> Estimate:
    """Estimate within ``share`` of 16-bit bytes a query; rows proposed by low-bit keys."""
    import torch

    d, dv, n = int(problem.k.shape[-1]), int(problem.v.shape[-1]), problem.n
    whole, row = problem.fp16_bytes, 2 * (d + dv)
    # Half of what there is for proposals, in whole bits a number, up to 6.
    bits = min(6, int(8 * (0.5 * share * whole - 4 * d) / (n * d)))
    with torch.no_grad():
        if bits >= 1:
            copy = shrink(problem.k, bits * d, dither=False)
            proposal = safe_softmax(scores_of(problem.q, copy.values, problem.bias, problem.scale))
            # A key that its copy hides must still be found at times.
            seen = torch.isfinite(proposal) & (proposal > 0)
            flat = seen / seen.sum(-1, keepdim=True).clamp(min=1)
            proposal = 0.95 * proposal + 0.05 * flat
            fixed = n * copy.row_bytes + copy.scale_bytes
        else:
            scores = scores_of(problem.q, problem.k, problem.bias, problem.scale)
            seen = torch.isfinite(scores)
            proposal = seen.to(scores.dtype)
            fixed = 0.0
        rows = max(1, int((share * whole - fixed) / row))
        budget = torch.full((*proposal.shape[:-1], 1), min(rows, n), device=proposal.device)
        multipliers = SAMPLERS.get(sampler).draw(proposal, budget, generator)
        read = fixed + row * (multipliers > 0).sum(-1)
    weights = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
    picked = weights * multipliers
    picked = picked / picked.sum(-1, keepdim=True).clamp(min=1e-30)
    return Estimate(picked @ problem.v, None, read.to(picked.dtype), picked)
