"""Other ways to attend to part of the keys, each charged for everything that a query reads.

Written from their papers; where a paper leaves a choice (bits of scores, page size, bits of a
hash), every choice of a small grid is tried and the best at each budget counts: an advantage that
ours does not have. All answer with None where the budget does not pay for what they must read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch

from qcluster.q_attention.lowbit import shrink

T = torch.Tensor
Call = Callable[[T, T, T, float, float], T | None]


def _rows(k: torch.Tensor, v: torch.Tensor, share: float, fixed: float) -> int:
    """Rows of keys and values in 16 bits that are left after ``fixed`` bytes."""
    row = 2 * (k.shape[-1] + v.shape[-1])
    return int((share * k.shape[1] * row - fixed) / row)


def _over(scores: torch.Tensor, v: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~keep, -math.inf).softmax(-1) @ v


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    index = scores.topk(min(count, scores.shape[-1]), -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, index, True)


def oracle(q: T, k: T, v: T, scale: float, share: float) -> T | None:
    """Top-k by exact scores that cost nothing."""
    count = _rows(k, v, share, 0)
    scores = scale * q @ k.transpose(1, 2)
    return None if count < 1 else _over(scores, v, _largest(scores, count))


def _scored(k: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    copy = shrink(k, bits * k.shape[-1], dither=False)
    return copy.values, k.shape[1] * copy.row_bytes + copy.scale_bytes


def top_k(bits: int) -> Call:
    """Top-k by scores of low-bit keys, exact over what is kept."""

    def call(q: T, k: T, v: T, scale: float, share: float) -> T | None:
        low, fixed = _scored(k, bits)
        count = _rows(k, v, share, fixed)
        if count < 1:
            return None
        keep = _largest(q @ low.transpose(1, 2), count)
        return _over(scale * q @ k.transpose(1, 2), v, keep)

    return call


def quest(page: int) -> Call:
    """Pages by the upper bound of their scores from each channel's range (Tang et al., 2024)."""

    def call(q: T, k: T, v: T, scale: float, share: float) -> T | None:
        groups, n, d = k.shape
        pages = -(-n // page)
        padded = torch.nn.functional.pad(k, (0, 0, 0, pages * page - n), value=math.nan)
        blocks = padded.view(groups, pages, page, d)
        low = blocks.nan_to_num(nan=math.inf).amin(2)
        high = blocks.nan_to_num(nan=-math.inf).amax(2)
        count = _rows(k, v, share, pages * 4 * d) // page
        if count < 1:
            return None
        bound = q.clamp(min=0) @ high.transpose(1, 2) + q.clamp(max=0) @ low.transpose(1, 2)
        keep = _largest(bound, count).repeat_interleave(page, -1)[..., :n]
        return _over(scale * q @ k.transpose(1, 2), v, keep)

    return call


def v_attention(bits: int) -> Call:
    """Sink, local window and top-k exactly, a uniform sample of the rest (Desai et al., 2025)."""

    def call(q: T, k: T, v: T, scale: float, share: float) -> T | None:
        low, fixed = _scored(k, bits)
        count = _rows(k, v, share, fixed)
        n = k.shape[1]
        if count < 24:
            return None
        always = torch.zeros(n, dtype=torch.bool)
        always[:4] = always[-16:] = True
        coarse = (q @ low.transpose(1, 2)).masked_fill(always, math.inf)
        head = _largest(coarse, 20 + (count - 20) // 2)
        free = torch.rand(head.shape, generator=torch.Generator().manual_seed(0))
        left = count - 20 - (count - 20) // 2
        drawn = _largest(free.masked_fill(head, -1.0), left)
        weight = head.double() + drawn * ((~head).sum(-1, keepdim=True) / left)
        scores = scale * q @ k.transpose(1, 2) + weight.float().log()
        return scores.softmax(-1) @ v

    return call


def lsh(bits: int, tables: int) -> Call:
    """Keys that share a bucket with the query in two tables of sign hashes or more, weighted by
    that chance (Chen et al., 2025: MagicPIG); bucket entries cost 2 bytes, rows what rows cost.
    """

    def call(q: T, k: T, v: T, scale: float, share: float) -> T | None:
        d, n = k.shape[-1], k.shape[1]
        centred = k - k.mean(1, keepdim=True)
        planes = torch.randn(d, bits * tables, generator=torch.Generator().manual_seed(0))

        def hashed(x: torch.Tensor) -> torch.Tensor:
            signs = ((x @ planes) > 0).view(*x.shape[:2], tables, bits).long()
            return (signs * 2 ** torch.arange(bits)).sum(-1)

        hits = torch.zeros(q.shape[0], q.shape[1], n)
        for t in range(tables):
            hits += hashed(q)[:, :, None, t] == hashed(centred)[:, None, :, t]
        found = hits >= 2
        allowed = _rows(k, v, share, 2 * float(hits.sum(-1).mean()))
        if allowed < 1 or found.sum(-1).float().mean() > allowed:
            return None
        cosine = torch.nn.functional.cosine_similarity(q[:, :, None], centred[:, None], dim=-1)
        one = (1 - torch.acos(cosine.clamp(-1, 1)) / math.pi) ** bits
        chance = 1 - (1 - one) ** tables - tables * one * (1 - one) ** (tables - 1)
        # Sink and window are always read, as in the paper.
        always = torch.zeros(n, dtype=torch.bool)
        always[:4] = always[-16:] = True
        weight = torch.where(always, 1.0, found / chance.clamp(min=1e-6))
        scores = scale * q @ k.transpose(1, 2) + weight.log()
        return scores.softmax(-1) @ v

    return call


def performer(q: T, k: T, v: T, scale: float, share: float) -> T | None:
    """Positive orthogonal random features (Choromanski et al., 2021): a state of m (dv + 1)."""
    d, dv, n = k.shape[-1], v.shape[-1], k.shape[1]
    m = int(share * n * (d + dv) / (dv + 1))
    if m < 1:
        return None
    generator = torch.Generator().manual_seed(0)
    blocks = [
        torch.linalg.qr(torch.randn(d, d, generator=generator))[0].T
        * torch.randn(d, d, generator=generator).norm(dim=1, keepdim=True)
        for _ in range(-(-m // d))
    ]
    planes = torch.cat(blocks)[:m] * math.sqrt(scale)
    left = (q @ planes.T).double()
    right = (k - k.mean(1, keepdim=True)).double() @ planes.T.double()
    right = (
        right - scale * (k - k.mean(1, keepdim=True)).double().square().sum(-1, keepdim=True) / 2
    )
    a = (left - left.amax(-1, keepdim=True)).exp()
    b = (right - right.amax((1, 2), keepdim=True)).exp()
    top = a @ (b.transpose(1, 2) @ v.double())
    return (top / (a @ b.sum(1).unsqueeze(-1)).clamp(min=1e-300)).float()


def nystrom(q: T, k: T, v: T, scale: float, share: float) -> T | None:
    """Segment-mean landmarks (Xiong et al., 2021): m landmark keys and m rows of a state.

    Landmark queries would be means of earlier queries; keys stand in for them here, as the queries
    of a call may be those that are measured.
    """
    n = k.shape[1]
    m = min(_rows(k, v, share, 0), n)
    if m < 1:
        return None
    edges = torch.linspace(0, n, m + 1).long()
    marks = torch.stack([k[:, a:b].mean(1) for a, b in pairwise(edges)], 1)
    asks = marks
    first = (scale * q @ marks.transpose(1, 2)).softmax(-1)
    middle = (scale * asks @ marks.transpose(1, 2)).softmax(-1)
    last = (scale * asks @ k.transpose(1, 2)).softmax(-1)
    return first @ torch.linalg.pinv(middle.double(), rtol=1e-3).float() @ (last @ v)


def window(q: T, k: T, v: T, scale: float, share: float) -> T | None:
    """Four sinks and the newest keys (Xiao et al., 2024: StreamingLLM)."""
    n, count = k.shape[1], _rows(k, v, share, 0)
    keep = torch.zeros(n, dtype=torch.bool)
    keep[:4] = True
    keep[n - max(0, count - 4) :] = True
    scores = scale * q @ k.transpose(1, 2)
    return None if count < 4 else _over(scores, v, keep.expand_as(scores))


OPPONENTS: dict[str, list[Call]] = {
    "top-k": [top_k(b) for b in (1, 2, 3, 4)],
    "Quest pages": [quest(p) for p in (16, 32, 64)],
    "vAttention": [v_attention(b) for b in (1, 2, 3, 4)],
    "LSH": [lsh(b, t) for b, t in ((4, 8), (6, 20), (8, 60))],
    "Performer": [performer],
    "Nystrom": [nystrom],
    "window": [window],
}
