"""Throughput under one power budget: ours against nameplate limits and one common cap.

Jobs are drawn from the measured power-limit sweeps of the Zeus traces (V100 and A40): a job's
curve is its average power and its speed at each limit. The budget is a share of what all jobs draw
uncapped. Opponents choose among the same measured limits:

- nameplate: one limit in watts a GPU type such that the *limits* add up to the budget;
- common cap: one share of every GPU's highest limit, as high as the measured draws allow.

Also the time of a replan for 10,000 GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import pandas as pd

from qcluster.errors import Infeasible
from qcluster.q_energy import Curve, allocate_budget

SHARES = (0.6, 0.7, 0.8, 0.9)


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """Ratios of summed speed, means over draws of jobs; nothing is cached, it takes seconds."""
    del fresh
    pool = job_curves()
    results: list[dict[str, Any]] = []
    for share in SHARES:
        for n in (32, 512):
            draws = [_draw(pool, n, share, seed) for seed in range(5 if quick else 20)]
            results.append({"share": share, "n": n, **_means(draws)})
    harness.table(
        f"Speed under a budget, {len(pool)} measured job types",
        ("budget", "GPUs", "ours / bound", "common cap / ours", "nameplate / ours"),
        [[r[k] for k in ("share", "n", "bound", "common", "nameplate")] for r in results],
    )
    seconds = replan_seconds(10_000, 7)
    print(f"replan of 10,000 GPUs at 26 caps each: median {seconds * 1e3:.1f} ms")
    return {"rows": results, "replan_10000_s": seconds}


def job_curves() -> list[tuple[Curve, np.ndarray]]:
    """(curve, power limits as shares of the highest) of each measured job type."""
    out = []
    for gpu in ("v100", "a40"):
        frame = pd.read_csv(harness.DATA / "energy" / "zeus" / f"summary_power_{gpu}.csv")
        keys = ["dataset", "network", "batch_size", "optimizer"]
        for _, rows in frame.groupby(keys):
            mean = rows.groupby("power_limit", as_index=False).mean(numeric_only=True)
            if len(mean) < 5:
                continue
            limits = mean["power_limit"].to_numpy(float)
            speed = mean["time_per_epoch"].min() / mean["time_per_epoch"].to_numpy(float)
            out.append((Curve(mean["average_power"].to_numpy(float), speed), limits))
    return out


def replan_seconds(n: int, repeats: int) -> float:
    """Median seconds of ``allocate_budget`` for n curves of 26 caps."""
    rng = np.random.default_rng(0)
    power = np.linspace(200, 700, 26)
    curves = [
        Curve(power, np.sqrt(np.minimum(1.0, (power - 100) / (demand - 100))))
        for demand in rng.uniform(400, 900, n)
    ]
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        allocate_budget(curves, budget_w=450.0 * n)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _draw(
    pool: Sequence[tuple[Curve, np.ndarray]], n: int, share: float, seed: int
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    jobs = [pool[i] for i in rng.integers(len(pool), size=n)]
    budget = share * sum(float(curve.power_w[np.argmax(limits)]) for curve, limits in jobs)
    try:
        ours = allocate_budget([curve for curve, _ in jobs], budget_w=budget)
    except Infeasible:
        return {"bound": np.nan, "common": np.nan, "nameplate": np.nan}
    return {
        "bound": ours.value / ours.upper_bound,
        "common": _best(jobs, budget, measured=True) / ours.value,
        "nameplate": _best(jobs, budget, measured=False) / ours.value,
    }


def _best(jobs: Sequence[tuple[Curve, np.ndarray]], budget: float, *, measured: bool) -> float:
    """Best summed speed of one common share of the highest limit, NaN when none fits."""
    best = np.nan
    for cap in np.linspace(0.3, 1.0, 29):
        watts = value = 0.0
        for curve, limits in jobs:
            under = np.flatnonzero(limits <= cap * limits.max() + 1e-9)
            at = int(under[np.argmax(limits[under])]) if len(under) else int(np.argmin(limits))
            watts += float(curve.power_w[at]) if measured else float(limits[at])
            value += float(curve.throughput[at])
        if watts <= budget:
            best = value
    return best


def _means(draws: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        name: float(np.mean([d[name] for d in draws]))
        if np.isfinite([d[name] for d in draws]).any()
        else float("nan")
        for name in draws[0]
    }
