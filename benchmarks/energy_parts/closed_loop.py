"""Closed loop: plans from noisy readings, carried out by node actors, against the clairvoyant.

Ray actors stand for nodes of eight GPUs. Each GPU runs measured job types (Zeus sweeps), one after
another for one to five minutes: under a cap it draws and does what was measured there. A node
reports power with 3 % noise and loses 5 % of its readings, now and then all of them for some
seconds. Every two seconds the live planner gets what has arrived and its caps are set. Opponents:

- clairvoyant: knows each job's measured curve and every change at once;
- nameplate: limits that add up to the budget;
- common cap: one share of every GPU's own highest limit, as high as the true draws allow at once.
"""

from __future__ import annotations

import time
from typing import Any

import harness
import numpy as np
import ray

from energy_parts.budget import job_curves
from qcluster.deadline import Deadline
from qcluster.q_energy import Curve, EnergyPlanner, allocate_budget
from qcluster.telemetry import Node, Snapshot, Topology

GPUS, PERIOD_S, NOISE, LOST = 8, 2.0, 0.03, 0.05
LIMITS_W = (100.0, 250.0)
SHARES = (0.6, 0.7, 0.8, 0.9)


class SimulatedNode:
    """Eight GPUs and what they run; time is the caller's, in seconds."""

    def __init__(self, seed: int, seconds: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._jobs = [c for c, limits in job_curves() if limits[-1] == LIMITS_W[1]]
        self._runs = np.array([self._schedule(seconds) for _ in range(GPUS)])
        self._limits = [w for c, w in job_curves() if w[-1] == LIMITS_W[1]]
        self._silent_until = -1

    def _schedule(self, seconds: int) -> np.ndarray:
        row: list[int] = []
        while len(row) < seconds:
            job, lasts = int(self._rng.integers(len(self._jobs))), int(self._rng.integers(60, 300))
            row.extend([job] * lasts)
        return np.array(row[:seconds])

    def step(self, at: int, caps: np.ndarray) -> dict[str, np.ndarray]:
        """True draw and speed at a second under caps (8,), and the readings that get out."""
        jobs = self._runs[:, at]
        drawn, speed = np.empty(GPUS), np.empty(GPUS)
        for g, job in enumerate(jobs):
            curve, limits = self._jobs[job], self._limits[job]
            drawn[g] = min(np.interp(caps[g], limits, curve.power_w), caps[g])
            speed[g] = np.interp(caps[g], limits, curve.throughput)
        read = drawn * (1 + NOISE * self._rng.standard_normal(GPUS))
        read[self._rng.random(GPUS) < LOST] = np.nan
        if self._rng.random() < 0.002:
            self._silent_until = at + int(self._rng.integers(3, 10))
        if at < self._silent_until:
            read[:] = np.nan
        return {"draw": drawn, "speed": speed, "read": read, "job": jobs}


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Throughput over the clairvoyant's, by budget; stochastic, seeds 0 to 2."""
    del fresh
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        rows = [
            loop(share, seed, 2 if quick else 8, 300 if quick else 1200)
            for share in SHARES
            for seed in range(1 if quick else 3)
        ]
    finally:
        ray.shutdown()
    names = ("share", "seed", "clairvoyant", "nameplate", "common", "over", "longest", "ms")
    harness.table(
        "Closed loop: speed over the clairvoyant's, over nameplate's, over one common cap's",
        ("budget", "seed", "/ clairv.", "/ nameplate", "/ common", "s over", "longest", "plan ms"),
        [[row[name] for name in names] for row in rows],
    )
    return rows


def loop(share: float, seed: int, nodes: int, seconds: int, hold: str = "draw") -> dict[str, Any]:
    """One replay. ``over`` is the share of seconds whose true draw was above the budget."""
    actor = ray.remote(SimulatedNode)
    actors = [actor.remote(1000 * seed + k, seconds) for k in range(nodes)]
    curves = [(c, w) for c, w in job_curves() if w[-1] == LIMITS_W[1]]
    low, high = LIMITS_W
    topology = Topology(
        nodes=tuple(
            Node(id=f"n{k}", gpus=GPUS, model="V100", min_w=low, max_w=high) for k in range(nodes)
        )
    )
    free = ray.get([a.step.remote(0, np.full(GPUS, high)) for a in actors])
    budget = share * nodes * GPUS * float(np.mean([c.power_w[-1] for c, _ in curves]))
    budget = max(budget, nodes * GPUS * low * 1.02)
    planner = EnergyPlanner({"budget_w": budget, "hold": hold})
    planner.warm_up()
    caps = np.full(nodes * GPUS, max(low, min(high, budget / nodes / GPUS)))
    plan, spent = None, []
    sums = {"ours": 0.0, "clairvoyant": 0.0, "nameplate": 0.0, "common": 0.0}
    over: list[bool] = []
    reads = np.concatenate([one["read"] for one in free])
    for at in range(seconds):
        if at % int(PERIOD_S) == 0:
            snap = _snapshot(topology, at, reads, caps)
            began = time.process_time()
            plan = planner.plan(snap, plan, {}, deadline=Deadline.after(1.0))
            spent.append(time.process_time() - began)
            planner.verify(plan, snap)
            caps = plan.caps_w
        found = ray.get(
            [a.step.remote(at, caps[k * GPUS : (k + 1) * GPUS]) for k, a in enumerate(actors)]
        )
        now = np.concatenate([one["read"] for one in found])
        reads = np.where(np.isfinite(now), now, reads)
        jobs = np.concatenate([one["job"] for one in found])
        over.append(bool(sum(one["draw"].sum() for one in found) > budget * (1 + 1e-6)))
        sums["ours"] += float(sum(one["speed"].sum() for one in found))
        for name, value in _opponents([curves[j] for j in jobs], budget).items():
            sums[name] += value
    return {
        "share": share, "seed": seed,
        **{k: sums["ours"] / sums[k] for k in ("clairvoyant", "nameplate", "common")},
        "over": float(np.mean(over)), "longest": _longest(over),
        "ms": float(np.median(spent) * 1e3),
    }  # fmt: skip


def _snapshot(topology: Topology, at: int, reads: np.ndarray, caps: np.ndarray) -> Snapshot:
    return Snapshot(
        seq=at + 1,
        ts_s=float(at),
        topology=topology,
        alive=np.ones(len(reads), bool),
        gpu={"power_w": reads, "power_limit_w": caps},
    )


def _opponents(jobs: list[tuple[Curve, np.ndarray]], budget: float) -> dict[str, float]:
    truth = [
        Curve(np.minimum(np.interp(GRID, w, c.power_w), GRID), np.interp(GRID, w, c.throughput))
        for c, w in jobs
    ]
    best = allocate_budget(truth, budget_w=budget)
    each = budget / len(jobs)
    plain = sum(float(np.interp(min(each, LIMITS_W[1]), GRID, c.throughput)) for c in truth)
    sums = np.sum([c.power_w for c in truth], axis=0)
    fits = int(np.searchsorted(sums, budget + 1e-9, side="right")) - 1
    common = sum(float(c.throughput[max(fits, 0)]) for c in truth)
    return {"clairvoyant": best.value, "nameplate": plain, "common": common}


GRID = np.linspace(*LIMITS_W, 31)


def _longest(over: list[bool]) -> int:
    longest = run_ = 0
    for one in over:
        run_ = run_ + 1 if one else 0
        longest = max(longest, run_)
    return longest
