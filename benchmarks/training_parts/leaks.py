"""The leak test: false alarms on five patterns without a leak, power on a slow one, overhead."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import cached, table

from qcluster.qtransformers import AdvancedMemoryProfiler
from qcluster.qtransformers.leaks import find_leak
from training_parts.plain import make_model

Draw = np.random.Generator
Series = np.ndarray


def white(draw: Draw, n: int) -> Series:
    return draw.normal(size=n)


def correlated(draw: Draw, n: int) -> Series:
    out = draw.normal(size=n)
    for t in range(1, n):
        out[t] = 0.7 * out[t - 1] + np.sqrt(1 - 0.49) * out[t]
    return out


def warm_up(draw: Draw, n: int) -> Series:
    rise = 1 - np.exp(-np.arange(n) / draw.uniform(5, 30))
    return draw.uniform(4, 20) * rise + white(draw, n)


def sawtooth(draw: Draw, n: int) -> Series:
    period = draw.integers(5, 41)
    phase = (np.arange(n) + draw.integers(period)) % period / period
    return draw.uniform(3, 10) * phase + white(draw, n) * draw.choice([0.1, 1.0])


def collections(draw: Draw, n: int) -> Series:
    out, level, left = np.empty(n), 0.0, draw.integers(8, 31)
    rate = draw.uniform(0.1, 0.6)
    for t in range(n):
        level, left = level + rate * draw.exponential(), left - 1
        if not left:
            level, left = 0.0, draw.integers(8, 31)
        out[t] = level
    return out + white(draw, n) * 0.5


PATTERNS: dict[str, Callable[[Draw, int], Series]] = {
    "white noise": white, "AR(0.7)": correlated, "warm-up": warm_up, "sawtooth": sawtooth,
    "collections": collections,
}  # fmt: skip


def rates(pattern: str, slope: float, runs: int, n: int) -> dict[str, float]:
    draw = np.random.default_rng([runs, n, list(PATTERNS).index(pattern)])
    found = [
        find_leak(PATTERNS[pattern](draw, n) + slope * np.arange(n)).verdict for _ in range(runs)
    ]
    return {verdict: found.count(verdict) / runs for verdict in ("leak", "cannot tell")}


def overhead(steps: int) -> float:
    """Share of a training step's CPU time that a profiled block costs."""
    model = make_model(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(0, 128, (16, 65))
    profiler = AdvancedMemoryProfiler()
    spent = 0.0
    for _ in range(steps):
        start = time.process_time()
        with profiler.profile_block("step"):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        spent += time.process_time() - start
    report = profiler.generate_report()
    return report.overhead_share


def run(quick: bool, fresh: bool) -> Any:
    runs = 400 if quick else 2000
    rows = []
    for name in PATTERNS:
        key = ["leaks", name, runs, 4]
        found = cached("training", key, lambda name=name: {
            "false": rates(name, 0.0, runs, 200), "power": rates(name, 0.05, runs, 200),
            "false_400": rates(name, 0.0, runs, 400), "power_400": rates(name, 0.05, runs, 400),
        }, fresh=fresh)  # fmt: skip
        rows.append((name, found["false"]["leak"], found["false"]["cannot tell"],
                     found["power"]["leak"], found["false_400"]["leak"],
                     found["power_400"]["leak"]))  # fmt: skip
    table(
        f"leak test at nominal 2 %, {runs} runs; leak of 0.05 sd a step",
        ("pattern", "false alarms, n=200", "cannot tell", "power, n=200", "false, n=400",
         "power, n=400"),
        rows,
    )  # fmt: skip
    share = overhead(60 if quick else 200)
    print(f"\nprofiler's share of a training step's time: {share:.2%} (bar 3 %)")
    return {"rows": rows, "overhead": share}
