"""Replanning a rack of 72 GPUs whose links and GPUs fail."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import table

from qcluster.deadline import Deadline
from qcluster.q_nvlink import NVLinkPlanner
from qcluster.telemetry import Job, Link, Node, Snapshot, Topology


def bench_live(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    rack = Topology(
        nodes=tuple(Node(id=f"t{i}", gpus=4, domain="rack") for i in range(18)),
        links=tuple(
            Link(source=f"t{i // 4}/{i % 4}", target=f"sw{j}", bandwidth_gb_s=50.0)
            for i in range(72)
            for j in range(18)
        ),
    )
    rng = np.random.default_rng(0)
    planner, previous = NVLinkPlanner({"max_moved": 0.25}), None
    planner.warm_up()
    spent, worse = [], []
    for tick in range(40 if quick else 200):
        jobs = tuple(
            Job(id=f"j{i}", gpus=8, kind="allreduce", bytes=float(rng.uniform(1e8, 1e9)))
            for i in range(8)
        )
        up = np.where(rng.random(len(rack.links)) < 0.01, 0.0, 1.0)
        alive = np.ones(72, dtype=bool)
        alive[rng.integers(72)] = tick % 10 != 9
        snapshot = Snapshot(
            seq=tick, ts_s=time.time(), topology=rack, alive=alive, link={"link_up": up}, jobs=jobs
        )
        started = time.thread_time()
        plan = planner.plan(snapshot, previous, {}, deadline=Deadline.after(0.15))
        took = time.thread_time() - started
        planner.verify(plan, snapshot)
        cold = NVLinkPlanner({}).plan(snapshot, None, {}, deadline=Deadline.after(1.0))
        if tick:  # the first has nothing to depart from
            spent.append(took)
            worse.append(plan.objective / cold.objective - 1)
        previous = plan
    row = {
        "ticks": len(spent),
        "p50_ms": 1e3 * float(np.quantile(spent, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(spent, 0.99)),
        "mean_off_cold_percent": 100 * float(np.mean(worse)),
        "worst_off_cold_percent": 100 * float(np.max(worse)),
    }
    table("Live replan, 72 GPUs on 18 switches, links and GPUs failing", list(row), [row.values()])
    return [row]
