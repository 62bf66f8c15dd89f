"""Decode on a CUDA device against torch's flash kernel, alternated, 128k keys."""

from __future__ import annotations

import statistics
from typing import Any

import harness
import torch
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_parts import generator
from qcluster.q_attention.decode import DecodeCache


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return. Without a device it says so and measures nothing."""
    del fresh
    if not torch.cuda.is_available():
        print("decode_cuda: not measured, there is no CUDA device")
        return []
    rows = []
    for n in (131072,) if quick else (32768, 131072, 524288):
        q, k, v, earlier = (x.to("cuda", torch.float16) for x in generator.make(n))
        cache = DecodeCache(k, v, queries=earlier)
        exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        found = cache.attend(q).float()
        error = ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).mean()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(100):
            for side, ours_now in zip(times, (True, False), strict=True):
                side.append(_us(cache, q, k, v, ours_now=ours_now))
        ours, theirs = (statistics.median(t[10:]) for t in times)
        rows.append({
            "keys": n, "ours us": ours, "flash us": theirs, "speed": theirs / ours,
            "rows read": cache.rows_read if cache.rows_read is not None else "SDPA",
            "mean error": error.item(),
        })  # fmt: skip
    harness.table(
        "Decode, 8 heads of 64, float16, one GPU (device time, medians of alternated calls)",
        list(rows[0]), [list(row.values()) for row in rows],
    )  # fmt: skip
    return rows


def _us(
    cache: DecodeCache, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, ours_now: bool
) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    if ours_now:
        cache.attend(q)
    else:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            F.scaled_dot_product_attention(q, k, v)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3
