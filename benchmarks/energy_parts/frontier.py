"""Time-energy frontier of a 1F1B pipeline: seconds, distance to the optimum, against lowtime.

Curves are synthetic: a clock f of 72 (15 MHz apart) takes time 0.3 + 0.7 f_max / f of the fastest
and draws 90 + 560 (f / f_max)^2.6 W; stages differ by up to 25 %. Against lowtime both sides get
the same exponential cost on integer times, since that is the form its solver takes.
"""

from __future__ import annotations

import math
import time
from typing import Any

import harness
import numpy as np

from energy_parts.opponents import ask
from qcluster.q_energy import Op, one_f_one_b, pipeline_frontier

_SIZES = ((4, 8), (8, 64), (16, 128))


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """Rows by size, then the comparison at 4 x 8; quick leaves 16 x 128 out."""
    pipeline_frontier(pipeline(2, 2), points=3)
    rows = []
    for stages, batches in _SIZES[:2] if quick else _SIZES:
        ops = pipeline(stages, batches)
        cpu, wall = time.process_time(), time.perf_counter()
        found = pipeline_frontier(ops, points=20, blocking_w=75.0, devices=stages)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        worst = max(p.energy_j / p.lower_bound_j - 1 for p in found.points)
        rows.append((f"{stages} x {batches}", len(ops), cpu, wall, f"{worst:.3%}"))
    harness.table(
        "20-point frontier, one thread",
        ("stages x microbatches", "ops", "CPU s", "wall s", "worst rounded / LP optimum"),
        rows,
    )
    return {"sizes": rows, "lowtime": _against_lowtime(fresh)}


def pipeline(stages: int, batches: int, clocks: int = 72, seed: int = 0) -> list[Op]:
    """A synthetic pipeline as the module says."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0.45, 1.0, clocks)

    def curve(base_s: float) -> tuple[list[float], list[float]]:
        took = base_s * (1 + 0.25 * rng.random()) * (0.3 + 0.7 / share)
        return took.tolist(), (took * (90 + 560 * share**2.6)).tolist()

    forward = [curve(0.010) for _ in range(stages)]
    backward = [curve(0.020) for _ in range(stages)]
    return one_f_one_b(stages, batches, forward, backward)


def _against_lowtime(fresh: bool) -> dict[str, Any] | None:
    rng = np.random.default_rng(1)
    kinds = []
    for base in [*[100] * 4, *[200] * 4]:
        low = int(base * (1 + 0.25 * rng.random()))
        high = int(1.9 * low)
        kinds.append({"low": low, "high": high, "cost": (low * 0.12, -2.5 / low, low * 0.02)})
    curves = [_sampled(kind, 25) for kind in kinds]
    ops = one_f_one_b(4, 8, curves[:4], curves[4:])
    index = {op.id: i for i, op in enumerate(ops)}
    problem = {
        "kinds": kinds,
        "ops": [
            {
                "kind": int(op.id[1]) + (4 if op.id[0] == "b" else 0),
                "after": [index[other] for other in op.after],
            }
            for op in ops
        ],
    }
    theirs = ask("lowtime_frontier.py", problem, "lowtime 0.3.0", fresh=fresh)
    if theirs is None:
        print("lowtime: not installed and not cached, left out")
        return None
    began = time.process_time()
    ours = pipeline_frontier(ops, points=20)
    cpu = time.process_time() - began
    at, cost = np.array(sorted(theirs["points"])).T
    gaps = [p.lower_bound_j / np.interp(p.deadline_s, at, cost) - 1 for p in ours.points]
    result = {
        "points": len(at),
        "lowtime_cpu_s": theirs["cpu_s"],
        "ours_cpu_s": cpu,
        "times_faster": theirs["cpu_s"] / cpu,
        "cost_difference_min": float(min(gaps)),
        "cost_difference_max": float(max(gaps)),
    }
    harness.table(
        "4 x 8 against lowtime, whole frontier (25 segments a curve, 20 points)",
        tuple(result),
        [tuple(result.values())],
    )
    return result


def _sampled(kind: dict[str, Any], segments: int) -> tuple[list[float], list[float]]:
    a, b, c = kind["cost"]
    times = np.unique(np.round(np.linspace(kind["low"], kind["high"], segments + 1)))
    return times.tolist(), [a * math.exp(b * t) + c for t in times]
