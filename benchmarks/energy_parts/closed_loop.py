"""Closed loop: plans from noisy readings, carried out by node actors, against the clairvoyant.

Ray actors stand for nodes of eight GPUs. In the plant ``Zeus`` half of them are V100 and half A40,
and each GPU runs measured job types (Zeus sweeps, made monotone: a higher limit never slows), one
after another for one to five minutes each: under a cap it draws and does what was measured there.
In the plant ``H100`` all are alike and their forty made-up jobs differ less: new jobs change little
there, and what is left are errors of prediction. A node reports power with 3 % noise, work rate in
the job's own unit with 2 %, and whether the limit held clocks down; it loses 5 % of its readings,
now and then all of them for some seconds. The planner has seen none of these curves. Every period
it gets what has arrived and its caps are set: once a second, where the budget holds in every
period, and (Zeus) four times a second, where it holds for means over a second. At four readings a
second each is as noisy and as often lost as at one. Opponents:

- clairvoyant: knows each job's measured curve and every change at once;
- nameplate: one share of every GPU's own highest limit such that limits add up to the budget;
- common cap: the same with telemetry: the share is as high as the true draws allow at once.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import harness
import numpy as np

from energy_parts.budget import job_curves
from energy_parts.kept import kept
from qcluster.deadline import Deadline
from qcluster.q_energy import Curve, EnergyPlanner, allocate_budget
from qcluster.telemetry import Node, Snapshot, Topology

GPUS, NOISE, RATE_NOISE, LOST = 8, 0.03, 0.02, 0.05
PERIODS_S = (0.25, 1.0)
MEAN_S = 1.0  # over which the budget holds at periods shorter than this
LOWS_W = {"V100": 100.0, "A40": 100.0, "H100": 200.0}
TOPS_W = {"V100": 250.0, "A40": 300.0, "H100": 700.0}
PLANTS = {"Zeus": ("V100", "A40"), "H100": ("H100",)}
SHARES = (0.6, 0.7, 0.8, 0.9)
SEEDS = (20, 21, 22)  # the planner was developed on 0 to 2
_STEP_W = 2.0
_SOURCES = (  # what decides the caps
    "benchmarks/energy_parts/closed_loop.py",
    *(
        f"qcluster/q_energy/{name}.py"
        for name in ("budget", "curve_family", "curve_table", "draw", "identify", "reserve")
    ),
)
_FULL = 0.985  # at less of full speed the limit holds clocks down


class SimulatedNode:
    """Eight GPUs of one model and what they run; time is the caller's, in periods."""

    def __init__(self, model: str, seed: int, seconds: int, period_s: float = 1.0) -> None:
        self._period_s = period_s
        self._rng = np.random.default_rng(seed)
        self.power_w, self.speed = job_types(model)
        self._model = model
        self._unit = np.exp(self._rng.normal(0.0, 1.0, len(self.speed)))
        self._runs = np.array([self._schedule(seconds) for _ in range(GPUS)])
        self._silent_until = -1

    def _schedule(self, seconds: int) -> np.ndarray:
        row: list[int] = []
        while len(row) < seconds:
            job, lasts = int(self._rng.integers(len(self.speed))), int(self._rng.integers(60, 300))
            row.extend([job] * lasts)
        return np.array(row[:seconds])

    def step(self, at: int, caps: np.ndarray) -> dict[str, np.ndarray]:
        """True draw and speed in a period under caps (8,), and the readings that get out."""
        jobs, grid = self._runs[:, int(at * self._period_s)], limits(self._model)
        drawn = np.array(
            [np.interp(c, grid, self.power_w[j]) for c, j in zip(caps, jobs, strict=True)]
        )
        drawn = np.minimum(drawn, caps)
        speed = np.array(
            [np.interp(c, grid, self.speed[j]) for c, j in zip(caps, jobs, strict=True)]
        )
        read = drawn * (1 + NOISE * self._rng.standard_normal(GPUS))
        rate = speed * self._unit[jobs] * (1 + RATE_NOISE * self._rng.standard_normal(GPUS))
        lost = self._rng.random(GPUS) < LOST
        if self._rng.random() < 0.002 * self._period_s:
            self._silent_until = at + int(self._rng.integers(3, 10) / self._period_s)
        lost |= at < self._silent_until
        held = (speed < _FULL).astype(float)
        told = [np.where(lost, np.nan, column) for column in (read, held, rate)]
        return {"draw": drawn, "speed": speed, "job": jobs, "told": np.array(told)}


def limits(model: str) -> np.ndarray:
    """Limits in watts at which the plant's curves stand."""
    return np.arange(LOWS_W[model], TOPS_W[model] + 1, _STEP_W)


@functools.cache
def job_types(model: str) -> tuple[np.ndarray, np.ndarray]:
    """(jobs, limits) draw and speed of all job types that run on this GPU model."""
    return _made() if model == "H100" else _measured(model)


def _measured(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Zeus' sweeps of GPUs with this top limit, made monotone."""
    from sklearn.isotonic import isotonic_regression

    power, speed = [], []
    for curve, measured in job_curves():
        if measured[-1] == TOPS_W[model]:
            watts = np.minimum(isotonic_regression(curve.power_w), measured)
            pace = isotonic_regression(curve.throughput)
            power.append(np.interp(limits(model), measured, watts))
            speed.append(np.interp(limits(model), measured, pace / pace[-1]))
    return np.minimum(np.array(power), limits(model)), np.array(speed)


def _made() -> tuple[np.ndarray, np.ndarray]:
    """Forty jobs whose power above idle is a power of the clock, partly bound by memory; under a
    limit they draw a little less than it.
    """
    rng, grid, top = np.random.default_rng(99), limits("H100"), TOPS_W["H100"]
    power, speed = [], []
    for _ in range(40):
        most, idle = rng.uniform(0.35, 1.02) * top, rng.uniform(0.1, 0.2) * top
        memory, steep, under = rng.uniform(0, 0.8), rng.uniform(1.3, 3.0), rng.uniform(0.95, 1.0)
        clock = ((np.minimum(grid, most) - idle) / (most - idle)) ** (1 / steep)
        power.append(np.minimum(grid * under, most))
        speed.append(clock / ((1 - memory) + memory * clock))
    return np.array(power), np.array(speed)


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Throughput over the clairvoyant's, by period and budget; stochastic; resumes by row."""
    nodes, seconds, seeds = (2, 120, SEEDS[:1]) if quick else (8, 600, SEEDS)
    rows = []
    for plant, period_s, share, seed in itertools.product(PLANTS, PERIODS_S, SHARES, seeds):
        if plant != "Zeus" and period_s < MEAN_S:
            continue
        cell = {"part": "closed-loop", "plant": plant, "share": share, "seed": seed,
                "nodes": nodes, "seconds": seconds, "period_s": period_s, "version": 6}  # fmt: skip
        replay = functools.partial(on_ray, plant, share, seed, nodes, seconds, period_s)
        rows.append(kept(cell, _SOURCES, replay, fresh=fresh))
    names = ("plant", "period_s", "share", "seed", "clairvoyant", "nameplate", "common", "over",
             "over_periods", "longest", "ms")  # fmt: skip
    harness.table(
        "Closed loop: speed over the clairvoyant's, over nameplate's, over one common cap's",
        ("plant", "period s", "budget", "seed", "/ clairv.", "/ nameplate", "/ common", "s over",
         "periods over", "longest", "plan ms"),
        [[row[name] for name in names] for row in rows],
    )  # fmt: skip
    return rows


def on_ray(
    plant: str, share: float, seed: int, nodes: int, seconds: int, period_s: float = 1.0
) -> dict[str, Any]:
    """One replay whose nodes are Ray actors."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        actor = ray.remote(num_cpus=0)(SimulatedNode)
        actors = [
            actor.remote(model, 1000 * seed + k, seconds, period_s)
            for k, model in enumerate(models_of(plant, nodes))
        ]

        def step(at: int, caps: np.ndarray) -> list[dict[str, np.ndarray]]:
            parts = np.split(caps, nodes)
            return list(ray.get([a.step.remote(at, c) for a, c in zip(actors, parts, strict=True)]))

        return loop(step, plant, share, seed, nodes, seconds, period_s)
    finally:
        ray.shutdown()


def in_process(
    plant: str,
    share: float,
    seed: int,
    nodes: int,
    seconds: int,
    period_s: float = 1.0,
    **config: Any,
) -> dict[str, Any]:
    """The same replay without Ray."""
    made = [
        SimulatedNode(m, 1000 * seed + k, seconds, period_s)
        for k, m in enumerate(models_of(plant, nodes))
    ]

    def step(at: int, caps: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [n.step(at, c) for n, c in zip(made, np.split(caps, nodes), strict=True)]

    return loop(step, plant, share, seed, nodes, seconds, period_s, **config)


def loop(
    step: Any,
    plant: str,
    share: float,
    seed: int,
    nodes: int,
    seconds: int,
    period_s: float = 1.0,
    **config: Any,
) -> dict[str, Any]:
    """One replay.

    ``over`` is the share of seconds whose mean true draw was above the budget, ``over_periods``
    that of periods, ``longest`` the most periods above it in a row.
    """
    models = models_of(plant, nodes)
    curves = {m: job_types(m) for m in set(models)}
    low = np.repeat([LOWS_W[m] for m in models], GPUS)
    top = np.repeat([TOPS_W[m] for m in models], GPUS)
    budget = share * GPUS * sum(float(curves[m][0][:, -1].mean()) for m in models)
    held = {"budget_mean_s": MEAN_S} if period_s < MEAN_S else {}
    planner = EnergyPlanner({"budget_w": budget, "hold": "draw", **held, **config})
    planner.warm_up()
    caps = np.clip(budget / top.sum() * top, low, top)
    caps = low if caps.sum() > budget else caps
    plan, spent = None, []
    told, topology = np.full((3, len(top)), np.nan), topology_of(models)
    sums = dict.fromkeys(("ours", "clairvoyant", "nameplate", "common"), 0.0)
    known: dict[tuple[tuple[str, int], ...], dict[str, float]] = {}
    drawn: list[float] = []
    for at in range(round(seconds / period_s)):
        if at:
            snap = snapshot_of(topology, at, at * period_s, told, caps)
            if np.isfinite(told[0]).any():
                began = time.process_time()
                plan = planner.plan(snap, plan, {}, deadline=Deadline.after(1.0))
                spent.append(time.process_time() - began)
                planner.verify(plan, snap)
                caps = plan.caps_w
        found = step(at, caps)
        told = np.concatenate([one["told"] for one in found], axis=1)
        drawn.append(float(sum(one["draw"].sum() for one in found)))
        sums["ours"] += float(sum(one["speed"].sum() for one in found))
        jobs = tuple((m, int(j)) for m, one in zip(models, found, strict=True) for j in one["job"])
        if jobs not in known:
            known = {jobs: _opponents(list(jobs), curves, budget)}
        for name, value in known[jobs].items():
            sums[name] += value
    most = budget * (1 + 1e-6)
    over = np.array(drawn) > most
    means = np.array(drawn).reshape(seconds, -1).mean(axis=1)
    return {
        "plant": plant, "period_s": period_s, "share": share, "seed": seed,
        **{k: sums["ours"] / sums[k] for k in ("clairvoyant", "nameplate", "common")},
        "over": float(np.mean(means > most)), "over_periods": float(np.mean(over)),
        "longest": _longest(over.tolist()), "ms": float(np.median(spent) * 1e3),
    }  # fmt: skip


def models_of(plant: str, nodes: int) -> list[str]:
    kinds = PLANTS[plant]
    return [kinds[k * len(kinds) // nodes] for k in range(nodes)]


def topology_of(models: list[str]) -> Topology:
    return Topology(
        nodes=tuple(
            Node(id=f"n{k}", gpus=GPUS, model=m, min_w=LOWS_W[m], max_w=TOPS_W[m])
            for k, m in enumerate(models)
        )
    )


def snapshot_of(
    topology: Topology, at: int, ts_s: float, told: np.ndarray, caps: np.ndarray
) -> Snapshot:
    return Snapshot(
        seq=at + 1,
        ts_s=ts_s,
        topology=topology,
        alive=np.ones(len(caps), bool),
        gpu={
            "power_w": told[0], "power_held": told[1], "work_rate": told[2], "power_limit_w": caps,
        },
    )  # fmt: skip


def _opponents(
    jobs: list[tuple[str, int]], curves: dict[str, tuple[np.ndarray, np.ndarray]], budget: float
) -> dict[str, float]:
    truth = [Curve(curves[m][0][j], curves[m][1][j]) for m, j in jobs]
    best = allocate_budget(truth, budget_w=budget)
    tops = np.array([TOPS_W[m] for m, _ in jobs])
    shares = np.linspace(min(LOWS_W[m] / TOPS_W[m] for m, _ in jobs), 1.0, 101)
    draw, pace = np.empty((len(jobs), len(shares))), np.empty((len(jobs), len(shares)))
    for row, (m, j) in enumerate(jobs):
        at = np.maximum(shares * TOPS_W[m], LOWS_W[m])
        draw[row] = np.interp(at, limits(m), curves[m][0][j])
        pace[row] = np.interp(at, limits(m), curves[m][1][j])
    plain = float(np.interp(budget / tops.sum(), shares, pace.sum(axis=0)))
    fits = int(np.searchsorted(draw.sum(axis=0), budget + 1e-9, side="right")) - 1
    return {
        "clairvoyant": best.value, "nameplate": plain, "common": float(pace[:, max(fits, 0)].sum()),
    }  # fmt: skip


def _longest(over: list[bool]) -> int:
    longest = run_ = 0
    for one in over:
        run_ = run_ + 1 if one else 0
        longest = max(longest, run_)
    return longest
