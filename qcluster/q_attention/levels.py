"""Attention at three levels of detail, within a number of bytes a query.

Level 0 is cluster means, read whole. Level 1 is low-bit copies of the keys and values of the
clusters that matter most; level 2 is exact rows. After level 0 each next read has a price in bytes
and an estimated fall of the squared error; what is read is everything above one price, which
bisection sets so that the budget is just kept.

Without clusters level 1 is read whole. Its errors are then independent and of mean zero, and their
sum is bounded: see ``certificate``.

    o = N / D with N = sum_j w_j v_j, D = sum_j w_j, w_j = exp(s_j)

With w'_j = w_j (1 + eta_j) from low-bit keys, E eta_j = 0 after division by the known mean of
exp(error), and v'_j = v_j + r_j, the identity

    N' / D' - o = (1 / D') sum_j w_j (eta_j (v_j - o) + (1 + eta_j) r_j)

holds exactly, whatever the size of the errors: D' is known, and the sum is of independent vectors
of mean zero whose covariance can be estimated from what was read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.q_attention.certificate import certify
from qcluster.q_attention.clusters import Clusters
from qcluster.q_attention.estimate import Estimate
from qcluster.q_attention.exact import scores_of
from qcluster.q_attention.store import Store, score_noise

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["multilevel"]

_KAPPA = 0.5
"""Level 0's estimated error is an overestimate by about this factor (measured)."""
_MOST = 4.0
"""Score variances beyond this say no more than that the estimate is worthless."""
_FREE, _DEAR, _STEPS = -80.0, 30.0, 44
"""Where the logarithm of the price is looked for."""


@dataclass(frozen=True, eq=False)
class _Levels:
    """What a query knows before it chooses: scores, and the fall of squared error a byte buys."""

    score0: torch.Tensor | None
    score1: torch.Tensor
    score2: torch.Tensor
    gain0: torch.Tensor | None
    gain1: torch.Tensor


def multilevel(
    problem: AttentionProblem,
    store: Store,
    budget: float,
    *,
    delta: float | None = None,
    extra: torch.Tensor | None = None,
) -> Estimate:
    """Estimate within ``budget`` bytes a query, those that are always read included.

    With ``delta`` level 1 is read whole and every row has a bound; the store must be dithered.
    ``extra`` (groups, rows, 1) is added to the budget of single rows.
    """
    import torch

    with torch.no_grad():
        known = _look(problem, store)
        row = store.row_bytes
        seen = torch.isfinite(known.score1)
        left = torch.full_like(known.score1[..., :1], budget - store.fixed_bytes)
        left = left if extra is None else left + extra
        price = _price(problem, store, known, left, whole=delta is not None)
        coarse, fine, exact = _chosen(store, known, price, whole=delta is not None)
        read = (
            store.fixed_bytes + row * (fine & seen).sum(-1) + _exact_bytes(problem) * exact.sum(-1)
        )
    out, weights = _combine(problem, store, known, coarse, fine & ~exact, exact)
    bound = None
    if delta is not None:
        with torch.no_grad():
            bound = certify(problem, store, out, weights * ~exact, delta)
    return Estimate(out, bound, read.to(out.dtype), weights)


def _exact_bytes(problem: AttentionProblem) -> int:
    return 2 * int(problem.k.shape[-1] + problem.v.shape[-1])


def _look(problem: AttentionProblem, store: Store) -> _Levels:
    q, bias, scale = problem.q, problem.bias, problem.scale
    noise, shrunk = score_noise(q, store.keys, scale)
    score1 = scores_of(q, store.keys.values, bias, scale) - shrunk
    score2 = scores_of(q, problem.k, bias, scale)
    held = store.clusters
    if held is None:
        total = score1.logsumexp(-1, keepdim=True).clamp(min=-1e30)
        near = (score1 - total).exp() @ store.values.values
        score0 = gain0 = None
    else:
        score0, cut = _cluster_scores(problem, held)
        total = score0.logsumexp(-1, keepdim=True).clamp(min=-1e30)
        share = (score0 - total).exp()
        near = share @ held.values
        # Within a cluster scores vary by q and the keys' spread; values vary along.
        varied = scale**2 * q.square().sum(-1, keepdim=True) * held.spread_k.unsqueeze(1)
        varied = (varied / q.shape[-1]).clamp(max=_MOST)
        apart = _apart(near, held.values) + held.spread_v.unsqueeze(1)
        cost = held.size.clamp(min=1).unsqueeze(1) * store.row_bytes
        gain0 = (_KAPPA * share.square() * varied * apart / cost).masked_fill(cut, math.inf)
    likely = (score1 - total).clamp(max=0).exp()
    apart = _apart(near, store.values.values)
    error = noise.clamp(max=_MOST) * apart + store.values.row_variance
    gain1 = likely.square() * error / _exact_bytes(problem)
    return _Levels(score0, score1, score2, gain0, gain1)


def _cluster_scores(problem: AttentionProblem, held: Clusters) -> tuple[torch.Tensor, torch.Tensor]:
    """Log of each cluster's estimated mass, and whether the mask cuts through it, so that its mean
    would let a row see what it must not. Both (groups, rows, m).
    """
    import torch

    scores = scores_of(problem.q, held.keys, None, problem.scale)
    size = held.size.unsqueeze(1)
    scores = scores + size.clamp(min=1).log()
    if problem.bias is None:
        return scores.masked_fill(size == 0, -math.inf), torch.zeros_like(scores, dtype=torch.bool)
    bias = problem.bias.expand(scores.shape[0], scores.shape[1], problem.n)
    of_key = held.of_key.unsqueeze(1).expand_as(bias)
    open_ = torch.isfinite(bias)
    count = torch.zeros_like(scores).scatter_add(-1, of_key, open_.to(scores.dtype))
    sums = torch.zeros_like(scores).scatter_add(-1, of_key, bias.masked_fill(~open_, 0.0))
    cut = (count > 0) & (count < size)
    scores = scores + sums / count.clamp(min=1)
    return scores.masked_fill((count == 0) | cut, -math.inf), cut


def _apart(near: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Squared distances of values (groups, m, dv) from each row's output, (groups, rows, m)."""
    found = values.square().sum(-1).unsqueeze(1) - 2 * near @ values.transpose(1, 2)
    return (found + near.square().sum(-1, keepdim=True)).clamp(min=0)


def _price(
    problem: AttentionProblem, store: Store, known: _Levels, left: torch.Tensor, *, whole: bool
) -> torch.Tensor:
    """(groups, rows, 1) log price above which everything is read; the least within ``left``."""
    import torch

    row, exact_row = store.row_bytes, _exact_bytes(problem)
    seen = torch.isfinite(known.score1)
    low = torch.full_like(known.score1[..., :1], _FREE)
    high = torch.full_like(low, _DEAR)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        _, fine, exact = _chosen(store, known, middle, whole=whole)
        cost = row * (fine & seen).sum(-1, keepdim=True) + exact_row * exact.sum(-1, keepdim=True)
        fits = cost <= left
        high = torch.where(fits, middle, high)
        low = torch.where(fits, low, middle)
    return high


def _chosen(
    store: Store, known: _Levels, price: torch.Tensor, *, whole: bool
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Clusters that stay means (groups, rows, m); keys read at level 1; of these, read exactly."""
    import torch

    at = price.exp()
    exact = (known.gain1 > at) & torch.isfinite(known.score1)
    if store.clusters is None or known.gain0 is None:
        return None, torch.ones_like(exact), exact
    opened = torch.ones_like(known.gain0, dtype=torch.bool) if whole else known.gain0 > at
    of_key = store.clusters.of_key.unsqueeze(1).expand(-1, exact.shape[1], -1)
    fine = opened.gather(-1, of_key)
    return ~opened, fine, exact & fine


def _combine(
    problem: AttentionProblem,
    store: Store,
    known: _Levels,
    coarse: torch.Tensor | None,
    fine: torch.Tensor,
    exact: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (groups, rows, dv) and weights (groups, rows, n), with gradient through exact rows."""
    import torch

    scores2 = scores_of(problem.q, problem.k, problem.bias, problem.scale)
    low, high = known.score1.masked_fill(~fine, -math.inf), scores2.masked_fill(~exact, -math.inf)
    tops = [low.amax(-1, keepdim=True), high.detach().amax(-1, keepdim=True)]
    if coarse is not None and known.score0 is not None:
        means = known.score0.masked_fill(~coarse, -math.inf)
        tops.append(means.amax(-1, keepdim=True))
    top = torch.stack(tops).amax(0)
    top = top.masked_fill(top == -math.inf, 0.0)
    weight1, weight2 = (low - top).exp(), (high - top).exp()
    total = (weight1 + weight2).sum(-1, keepdim=True)
    mixed = weight1 @ store.values.values + weight2 @ problem.v
    weights = weight1 + weight2
    if coarse is not None and store.clusters is not None:
        weight0 = (means - top).exp()
        total = total + weight0.sum(-1, keepdim=True)
        mixed = mixed + weight0 @ store.clusters.values
        each = weight0 / store.clusters.size.clamp(min=1).unsqueeze(1)
        of_key = store.clusters.of_key.unsqueeze(1).expand_as(weights)
        weights = weights + each.gather(-1, of_key)
    total = total.masked_fill(total == 0, 1.0)
    return mixed / total, weights / total
