"""Token assignment: certified quality and speed against scipy's exact assignment, greedy, drops."""

from __future__ import annotations

import time
from typing import Any

import harness
import numpy as np
from scipy.optimize import linear_sum_assignment

from qcluster.q_routing import assign_tokens

FORMS = {
    "fast": {"sample": 2048, "sweeps": 0},
    "middle": {"sample": 2048, "sweeps": 4},
    "default": {},
}


def scores(tokens: int, experts: int, seed: int = 0) -> np.ndarray:
    """Clustered scores with hot experts, float32."""
    rng = np.random.default_rng(seed)
    centre, hot = rng.normal(size=(16, experts)), 0.84 * rng.normal(size=experts)
    kind = rng.choice(16, tokens, p=rng.dirichlet(np.ones(16)))
    return (centre[kind] + 0.7 * rng.normal(size=(tokens, experts)) + hot).astype(np.float32)


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Sizes of the bars; the exact answer beside the smallest."""
    del fresh
    repeats, rows, results = 3 if quick else 7, [], []
    for tokens, experts in ((1024, 64), (8192, 64), (100_000, 64), (100_000, 256)):
        values, capacity = scores(tokens, experts), -(-tokens // experts)
        exact = None
        if tokens == 1024:
            wide = np.repeat(values, capacity, axis=1)
            start = time.thread_time()
            row, column = linear_sum_assignment(wide, maximize=True)
            seconds = time.thread_time() - start
            exact = {"objective": float(values[row, column // capacity].sum()), "s": seconds}
        greedy, greedy_s = _arrival(values, capacity)
        for form, options in FORMS.items():
            assign_tokens(values, capacity=capacity, **options)
            times = []
            for _ in range(repeats):
                start = time.thread_time()
                found = assign_tokens(values, capacity=capacity, **options)
                times.append(time.thread_time() - start)
            wall = float(np.median(times))
            result = {
                "tokens": tokens,
                "experts": experts,
                "form": form,
                "of_bound": found.objective / found.upper_bound,
                "tokens_per_s": tokens / wall,
                "overfull": int(np.bincount(found.expert, minlength=experts).max() - capacity),
                "greedy_of_bound": greedy / found.upper_bound,
                "greedy_time_ratio": greedy_s / wall,
                "exact_time_ratio": exact["s"] / wall if exact else None,
                "of_exact": found.objective / exact["objective"] if exact else None,
            }
            results.append(result)
            rows.append((
                f"{tokens} x {experts}", form, result["of_bound"], result["tokens_per_s"] / 1e6,
                result["greedy_of_bound"], result["exact_time_ratio"] or "-",
                result["of_exact"] or "-",
            ))  # fmt: skip
    harness.table(
        "Tokens to experts, hard capacity (CPU time of one thread)",
        ("size", "form", "of dual bound", "M tokens/s", "greedy", "LSA time ratio", "of LSA"),
        rows,
    )
    return results


def _arrival(values: np.ndarray, capacity: int) -> tuple[float, float]:
    """Each token in order takes its best expert with room."""
    start = time.thread_time()
    left = np.full(values.shape[1], capacity)
    total, order = 0.0, np.argsort(-values, axis=1)
    for i, wish in enumerate(order):
        for e in wish:
            if left[e]:
                left[e] -= 1
                total += float(values[i, e])
                break
    return total, time.thread_time() - start
