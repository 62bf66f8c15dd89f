"""A bound on the error of every row, from what was read to compute it.

``levels`` shows that the error of a row is a sum of independent vectors of mean zero over a known
denominator. Their covariance is estimated from the low-bit copies without bias, and the length of
such a sum, for errors no heavier than normal ones, exceeds

    sqrt(tr C + 2 sqrt(t) |C| + 2 t |C|),  |C| the Frobenius norm,

with chance at most e^-t (Hsu, Kakade and Zhang, 2012). Two things are approximations: the
covariance is estimated, with the estimate of the output in the output's place, and rows that are
read exactly were chosen by the same copies, which leaves a slight tilt in the others. Both grow
with the noise of the scores, so the bound is widened with it, and rows where that noise is large
get none and are computed exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qcluster.q_attention.store import score_noise

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem
    from qcluster.q_attention.store import Store

__all__ = ["MAX_NOISE", "certify"]

MAX_NOISE = 0.3
"""Relative variance of a low-bit weight beyond which a row gets no bound."""
_WIDEN = 4.0
_ROOM = 2**24
"""Numbers that are held at a time."""


def certify(
    problem: AttentionProblem,
    store: Store,
    out: torch.Tensor,
    weights: torch.Tensor,
    delta: float,
) -> torch.Tensor:
    """(groups, rows) bound on the L2 error of ``out`` (groups, rows, dv), wrong with chance delta.

    ``weights`` (groups, rows, n) are those of low-bit rows, 0 elsewhere. Infinite where the scores
    are too noisy for one.
    """
    import torch

    noise, _ = score_noise(problem.q, store.keys, problem.scale)
    covariance = _covariance(store, out, weights, noise)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    norm = covariance.square().sum((-1, -2)).sqrt()
    t = math.log(1 / delta)
    bound = (trace + 2 * norm * (math.sqrt(t) + t)).clamp(min=0).sqrt()
    noise = noise[..., 0]
    bound = bound * (1 + _WIDEN * noise)
    none_read = weights.amax(-1) == 0
    return torch.where(none_read, 0.0, bound.masked_fill(noise > MAX_NOISE, math.inf))


def _covariance(
    store: Store, out: torch.Tensor, weights: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """(groups, rows, dv, dv) of the error.

    A term has variance w_j^2 (noise |v_j - o|^2 + (1 + noise) |r_j|^2), and the square of its
    low-bit weight is on average w_j^2 (1 + noise).
    """
    import torch

    values, step = store.values.values, store.values.step
    share = weights.square() / (1 + noise)
    groups, n, dv = values.shape
    second = share.new_zeros(*share.shape[:2], dv * dv)
    for first in range(0, n, block := max(1, _ROOM // (groups * dv * dv))):
        part = values[:, first : first + block]
        outer = (part.unsqueeze(-1) * part.unsqueeze(-2)).flatten(-2)
        second += share[..., first : first + block] @ outer
    second = second.reshape(*share.shape[:2], dv, dv)
    cross = (share @ values).unsqueeze(-1) * out.unsqueeze(-2)
    mass = share.sum(-1, keepdim=True)
    square = out.unsqueeze(-1) * out.unsqueeze(-2)
    about = second - cross - cross.transpose(-1, -2) + mass.unsqueeze(-1) * square
    # The copies' own errors are in ``about`` as well: counted twice, to be on the safe side.
    rounding = torch.diag_embed(mass * step.square() / 12)
    result: torch.Tensor = noise.unsqueeze(-1) * about + (1 + noise).unsqueeze(-1) * rounding
    return result
