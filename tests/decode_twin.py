"""What decoding is held against: inputs with kinds of keys, and the rule in plain NumPy."""

from __future__ import annotations

import numpy as np
import torch

from qcluster.q_attention.held_head import GrowingHead


def inputs(n=8192, heads=2, d=16, seed=0):
    """Keys in kinds, values that go with them, and one key that a query is after."""
    g = torch.Generator().manual_seed(seed)
    kinds = torch.randn(40, d, generator=g)
    which = torch.randint(40, (heads, n), generator=g)
    k = kinds[which] + 0.3 * torch.randn(heads, n, d, generator=g)
    v = kinds.flip(0)[which] + 0.5 * torch.randn(heads, n, d, generator=g)
    q = torch.randn(1, heads, 1, d, generator=g)
    k[:, n // 3] = 6 * q[0, :, 0] / q.norm(dim=-1)[0] * d**0.5 / 2
    earlier = torch.randn(1, heads, 64, d, generator=g)
    return q, k[None].contiguous(), v[None].contiguous(), earlier


def relative(found, expected):
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


def held(k, v, *, block=None):
    """A head that got its keys in blocks."""
    growing = GrowingHead()
    for first in range(0, len(k), block or len(k)):
        growing.add(*(x[first : first + (block or len(k))] for x in (k, v)))
    return growing.head


def plain(q, scale, tolerance, h, tail_k, tail_v):
    """The kernel's twin: the same reading in float64, for one head."""
    ask = q.astype(np.float64) * scale
    mean_k = h.mean_k.codes * h.mean_k.step.astype(np.float64) + h.mean_k.middle
    mean_v = h.mean_v.codes * h.mean_v.step.astype(np.float64) + h.mean_v.middle
    row_k = h.row_k.codes * h.row_k.step.astype(np.float64) + h.row_k.middle
    row_v = h.row_v.codes * h.row_v.step.astype(np.float64) + h.row_v.middle
    varied = np.minimum(ask @ h.within @ ask * h.spread, 4)
    closed = np.exp(mean_k @ ask + h.log_size + varied / 2)
    near = np.exp(tail_k @ ask)
    shift = h.along @ ask
    whole = closed.sum() + near.sum()
    guess = (closed @ mean_v + (closed * h.spread).sum() * shift + near @ tail_v) / whole
    square = guess @ guess
    gain = (closed / whole) ** 2 * varied * (h.spread_v + square)
    bins = gain.astype(np.float32).view(np.int32) >> 20
    sums = np.bincount(bins, gain, 2048).cumsum()
    limit = np.searchsorted(sums, tolerance**2 * square, side="right")
    opened = bins >= limit
    rows = np.concatenate(
        [np.arange(a, b) for a, b, o in zip(h.start, h.start[1:], opened, strict=False) if o]
        or [np.zeros(0, int)]
    )
    fine = np.exp(row_k[rows] @ ask)
    closed = closed * ~opened
    total = closed @ mean_v + (closed * h.spread).sum() * shift + fine @ row_v[rows]
    return (total + near @ tail_v) / (closed.sum() + fine.sum() + near.sum()), len(rows)
