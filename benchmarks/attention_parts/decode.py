"""Decode on one CPU thread against torch's kernel, alternated; error by kind of head."""

from __future__ import annotations

import statistics
import time
from typing import Any

import harness
import torch
from attention_parts import generator
from torch.nn import functional as F  # noqa: N812

from qcluster.q_attention.decode import DecodeCache


def run(quick: bool, fresh: bool) -> Any:
    """Measure, print, return."""
    del fresh
    torch.set_num_threads(1)
    rows = []
    for n in (256, 1024, 4096, 16384) if quick else (256, 1024, 4096, 16384, 65536):
        q, k, v, earlier = generator.make(n)
        cache = DecodeCache(k, v, queries=earlier)
        exact = F.scaled_dot_product_attention(q, k, v)
        found = cache.attend(q)
        error = ((found - exact).norm(dim=-1) / exact.norm(dim=-1))[0, :, 0]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(200 if n <= 4096 else 15):
            for side, call in zip(
                times,
                (lambda: cache.attend(q), lambda: F.scaled_dot_product_attention(q, k, v)),
                strict=True,
            ):
                begun = time.process_time_ns()
                call()
                side.append((time.process_time_ns() - begun) / 1e3)
        ours, theirs = (statistics.median(t) for t in times)
        row = {
            "keys": n, "ours us": ours, "SDPA us": theirs, "speed": theirs / ours,
            "over SDPA us": ours - theirs,
            "rows read": cache.rows_read if cache.rows_read is not None else "SDPA",
            "mean error": error.mean().item(),
        }  # fmt: skip
        for i, kind in enumerate(generator.KINDS):
            row[f"{kind} error"] = error[i::4].mean().item()
        rows.append(row)
    harness.table(
        "Decode, 8 heads of 64, float32, one thread (CPU time, medians of alternated calls)",
        list(rows[0]), [list(row.values()) for row in rows],
    )  # fmt: skip
    return rows
