"""Replanning a rack of 72 GPUs whose links and GPUs fail, and whose jobs come and go.

Seconds are this process's own CPU time, so that they mean the same on a machine that others use.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from harness import table

from nvlink_parts.mapping import own_seconds
from qcluster.deadline import Deadline
from qcluster.q_nvlink import NVLinkPlanner
from qcluster.telemetry import Job, Link, Node, Snapshot, Topology

RACK = Topology(
    nodes=tuple(Node(id=f"t{i}", gpus=4, domain="rack") for i in range(18)),
    links=tuple(
        Link(source=f"t{i // 4}/{i % 4}", target=f"sw{j}", bandwidth_gb_s=50.0)
        for i in range(72)
        for j in range(18)
    ),
)


def steady(rng: np.random.Generator, jobs: tuple[Job, ...]) -> tuple[Job, ...]:  # noqa: ARG001
    """Eight all-reduces of eight GPUs, of other sizes at every tick."""
    return tuple(
        Job(id=f"j{i}", gpus=8, kind="allreduce", bytes=float(rng.uniform(1e8, 1e9)))
        for i in range(8)
    )


def coming_and_going(rng: np.random.Generator, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """Jobs of 2 to 24 GPUs and every kind; at each tick some end and others begin."""
    kept = [job for job in jobs if rng.random() < 0.85]
    free = 70 - sum(job.gpus for job in kept)
    while free >= 2:
        gpus = min(free, int(rng.choice([2, 3, 4, 6, 8, 12, 16, 24])))
        kind = str(rng.choice(["allreduce", "all_to_all"]))
        bytes_ = float(10 ** rng.uniform(7, 9))
        kept.append(Job(id=f"j{rng.integers(10**9)}", gpus=gpus, kind=kind, bytes=bytes_))
        free -= gpus
    return tuple(kept)


def bench_live(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    with own_seconds():
        rows = [
            _replay(name, draw, 40 if quick else 150)
            for name, draw in (("steady", steady), ("coming and going", coming_and_going))
        ]
    table(
        "Live replan, 72 GPUs on 18 switches, links and GPUs failing (CPU)",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )
    return rows


def _replay(name: str, draw: Any, ticks: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    planner, previous = NVLinkPlanner({"max_moved": 0.25}), None
    planner.warm_up()
    spent, worse = [], []
    jobs: tuple[Job, ...] = ()
    for tick in range(ticks):
        jobs = draw(rng, jobs)
        up = np.where(rng.random(len(RACK.links)) < 0.01, 0.0, 1.0)
        alive = np.ones(72, dtype=bool)
        alive[rng.integers(72)] = tick % 10 != 9
        snapshot = Snapshot(
            seq=tick, ts_s=time.time(), topology=RACK, alive=alive, link={"link_up": up}, jobs=jobs
        )
        started = time.process_time()
        plan = planner.plan(snapshot, previous, {}, deadline=Deadline.after(0.15))
        took = time.process_time() - started
        planner.verify(plan, snapshot)
        cold = NVLinkPlanner({}).plan(snapshot, None, {}, deadline=Deadline.after(1.0))
        if tick:  # the first has nothing to depart from
            spent.append(took)
            worse.append(plan.objective / min(plan.objective, cold.objective) - 1)
        previous = plan
    return {
        "jobs": name,
        "ticks": len(spent),
        "p50_ms": 1e3 * float(np.quantile(spent, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(spent, 0.99)),
        "mean_off_cold_percent": 100 * float(np.mean(worse)),
        "worst_off_cold_percent": 100 * float(np.max(worse)),
        "above_1_percent": sum(w > 0.01 for w in worse),
    }
