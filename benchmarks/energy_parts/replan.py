"""How long the whole live planner takes, from a snapshot to a plan, on a plant of many GPUs.

Jobs come and go as in the closed loop, and every reading is new. The first plans, made while all
that is known of a GPU is one reading, are left out. Verification is what the host does with every
plan before it is published.
"""

from __future__ import annotations

import time
from typing import Any

import harness
import numpy as np

from energy_parts import closed_loop
from qcluster.deadline import Deadline
from qcluster.q_energy import EnergyPlanner

_SHARE, _SEED, _FIRST, _PLANT = 0.7, 20, 3, "Zeus"


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Median milliseconds by number of GPUs and by what is held; nothing is cached."""
    del fresh
    sizes = (1_000, 10_000) if quick else (1_000, 10_000, 100_000)
    rows = [measured(n, hold, 7) for n in sizes for hold in ("caps", "draw")]
    harness.table(
        "A plan by the live planner, milliseconds",
        ("GPUs", "hold", "plan", "least", "most", "verification"),
        [[row[k] for k in ("gpus", "hold", "plan", "least", "most", "verify")] for row in rows],
    )
    return rows


def measured(gpus: int, hold: str, repeats: int) -> dict[str, Any]:
    """Medians over ``repeats`` plans that follow each other."""
    nodes = gpus // closed_loop.GPUS
    models = closed_loop.models_of(_PLANT, nodes)
    topology = closed_loop.topology_of(models)
    low, top = (
        np.repeat([watts[model] for model in models], closed_loop.GPUS)
        for watts in (closed_loop.LOWS_W, closed_loop.TOPS_W)
    )
    kinds = {m: float(closed_loop.job_types(m)[0][:, -1].mean()) for m in set(models)}
    budget = _SHARE * closed_loop.GPUS * sum(kinds[m] for m in models)
    seconds = _FIRST + repeats + 1
    made = [
        closed_loop.SimulatedNode(m, 1000 * _SEED + k, seconds, 1.0) for k, m in enumerate(models)
    ]
    planner = EnergyPlanner({"budget_w": budget, "hold": hold})
    planner.warm_up()
    caps, plan, times = np.clip(budget / top.sum() * top, low, top), None, []
    for at in range(1, seconds):
        found = [
            node.step(at - 1, own) for node, own in zip(made, np.split(caps, nodes), strict=True)
        ]
        told = np.concatenate([one["told"] for one in found], axis=1)
        snap = closed_loop.snapshot_of(topology, at, float(at), told, caps)
        start = time.perf_counter()
        plan = planner.plan(snap, plan, {}, deadline=Deadline.after(30.0))
        middle = time.perf_counter()
        planner.verify(plan, snap)
        times.append((middle - start, time.perf_counter() - middle))
        caps = plan.caps_w
    plans, checks = np.array(times[_FIRST:]).T * 1e3
    return {
        "gpus": gpus, "hold": hold, "plan": float(np.median(plans)), "least": float(plans.min()),
        "most": float(plans.max()), "verify": float(np.median(checks)),
    }  # fmt: skip
