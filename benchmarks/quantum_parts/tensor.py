"""Matrix-product operators against the exact product and against the other forms."""

from __future__ import annotations

import time
from typing import Any

import harness
import numpy as np

from qcluster.quantum import mps


def run(quick: bool, _fresh: bool) -> Any:
    """Local attention by TT-cross: memory, reported bound, measured error, seconds."""
    taus = (8.0,) if quick else (2.0, 8.0, 24.0)
    rows = [_row(n, tau) for n in (4096, 65536) for tau in taus]
    harness.table(
        "local attention, 16 value columns (wanted at 65,536: <= 16 MiB, error <= bound <= 1e-3)",
        ("tokens", "tau", "bytes", "bound", "error", "s to encode", "s to stream", "s recursion"),
        rows,
    )
    return rows


def _row(n: int, tau: float) -> tuple[Any, ...]:
    attention = mps.LocalAttention(n, tau)
    values = np.random.default_rng(0).normal(size=(n, 16))
    attention.apply(values[:, :1])
    begun = time.perf_counter()
    operator = mps.encode_entries(attention, n, tail=attention.tail)
    encoded = time.perf_counter()
    exact = attention.apply(values)
    recursed = time.perf_counter()
    wrong = 0.0
    for first, part in operator.stream(values):
        wrong += float(((part - exact[first : first + len(part)]) ** 2).sum())
    streamed = time.perf_counter()
    # Relative to |A|_F |V|_2, which is what the bound is about.
    error = wrong**0.5 / (operator.norm * float(np.linalg.norm(values, 2)))
    return (
        n, tau, operator.bytes, operator.relative_bound, error,
        encoded - begun, streamed - recursed, recursed - encoded,
    )  # fmt: skip
