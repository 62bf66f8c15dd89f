"""Two-level decode in Triton: one query of every head over clusters and 8-bit rows on a GPU.

What runs here is what reads memory; what is a few numbers a cluster is torch, in ``device_decode``.
Triton's interpreter runs the same code on a CPU (TRITON_INTERPRET=1), which is how it is tested
where there is no GPU.
"""
# A kernel's arguments are pointers and numbers that Triton types when it compiles it.
# mypy: ignore-errors
# ruff: noqa: ANN001

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def score_means(
    ask, codes, plus, out, group, m, d, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
) -> None:
    """out (heads, m) = codes (kv heads, m, d) . ask (heads, d) + plus (heads, m).

    Grid: heads by blocks of BLOCK_M clusters; ``group`` query heads read one head of keys.
    """
    head = tl.program_id(0)
    own = (head // group).to(tl.int64)
    at = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_D)
    q = tl.load(ask + head * d + c, mask=c < d, other=0.0)
    seen = (at < m)[:, None] & (c < d)[None, :]
    k = tl.load(codes + own * m * d + at[:, None] * d + c[None, :], mask=seen, other=0)
    score = tl.sum(k.to(tl.float32) * q[None, :], axis=1)
    score += tl.load(plus + head * m + at, mask=at < m, other=0.0)
    tl.store(out + head * m + at, score, mask=at < m)


@triton.jit
def sum_means(
    weight, codes, out, group, m, dv, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr
) -> None:
    """out (heads, blocks, dv): sums of codes (kv heads, m, dv) by weight (heads, m), by block."""
    head, block = tl.program_id(0), tl.program_id(1)
    own = (head // group).to(tl.int64)
    at = block * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_V)
    w = tl.load(weight + head * m + at, mask=at < m, other=0.0)
    # Clusters without weight are not read.
    seen = (w != 0)[:, None] & (c < dv)[None, :]
    v = tl.load(codes + own * m * dv + at[:, None] * dv + c[None, :], mask=seen, other=0)
    total = tl.sum(v.to(tl.float32) * w[:, None], axis=0)
    tl.store(out + (head * tl.num_programs(1) + block) * dv + c, total, mask=c < dv)


@triton.jit
def sum_rows(
    ask, plus, keys, values, of_row, opened, mass, out, group, n, m, d, dv,
    ROUNDS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
) -> None:  # fmt: skip
    """Rows of opened clusters: mass (heads, blocks) and out (heads, blocks, dv) of what they weigh.

    A row's score is keys (kv heads, n, d) . ask (heads, d) + plus (heads,); it is read where
    ``opened`` (heads, m) says so of its cluster ``of_row`` (kv heads, n). A block is ROUNDS times
    BLOCK_N rows.
    """
    head, block = tl.program_id(0), tl.program_id(1)
    own = (head // group).to(tl.int64)
    c, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    q = tl.load(ask + head * d + c, mask=c < d, other=0.0)
    base = tl.load(plus + head)
    total = tl.zeros([BLOCK_V], tl.float32)
    weight = tl.zeros([BLOCK_N], tl.float32)
    for i in range(ROUNDS):
        at = (block * ROUNDS + i) * BLOCK_N + tl.arange(0, BLOCK_N)
        cluster = tl.load(of_row + own * n + at, mask=at < n, other=0)
        read = tl.load(opened + head * m + cluster, mask=at < n, other=0) != 0
        # Most blocks have nothing to read.
        if tl.max(read.to(tl.int32), axis=0) != 0:
            where = own * n + at.to(tl.int64)
            k = tl.load(
                keys + where[:, None] * d + c[None, :],
                mask=read[:, None] & (c < d)[None, :], other=0,
            )  # fmt: skip
            score = tl.sum(k.to(tl.float32) * q[None, :], axis=1) + base
            w = tl.where(read, tl.exp(tl.minimum(score, 80.0)), 0.0)
            v = tl.load(
                values + where[:, None] * dv + e[None, :],
                mask=read[:, None] & (e < dv)[None, :], other=0,
            )  # fmt: skip
            weight += w
            total += tl.sum(v.to(tl.float32) * w[:, None], axis=0)
    place = head * tl.num_programs(1) + block
    tl.store(mass + place, tl.sum(weight, axis=0))
    tl.store(out + place * dv + e, total, mask=e < dv)
