"""Telemetry gone wrong: bursts, gaps, duplicates, jumping clocks. No plan may be wrong for it.

A rack of 72 GPUs is simulated; between simulator and hub stands a storm. After every batch each
planner plans on the hub's snapshot, and the plan is verified against the truth: the GPUs that the
simulator itself knows to be alive. A plan is wrong when it puts experts, ranks or a part of the
step on a GPU that has been dead for longer than telemetry takes to say so (three periods).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

__all__ = ["STORMS", "measure"]

PERIODS = 3


def _calm(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    del rng
    yield from batches


def _burst(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    """Ten times the rate: every batch comes ten times with values a little apart."""
    for batch in batches:
        for part in range(10):
            yield replace(batch, ts_s=batch.ts_s + 0.1 * part * rng.random())


def _gaps(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    """Two of five batches never come."""
    for batch in batches:
        if rng.random() > 0.4:
            yield batch


def _twice(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    """Every batch comes twice, and old ones come again."""
    seen: list[Any] = []
    for batch in batches:
        seen.append(batch)
        yield batch
        yield batch
        if rng.random() < 0.3:
            yield seen[int(rng.integers(len(seen)))]


def _clock(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    """The sender's clock jumps by up to an hour, both ways."""
    for batch in batches:
        jump = float(rng.normal(0.0, 1200.0)) if rng.random() < 0.2 else 0.0
        yield replace(batch, ts_s=batch.ts_s + jump)


def _holes(batches: Iterator[Any], rng: np.random.Generator) -> Iterator[Any]:
    """A fifth of all values is not a number."""
    for batch in batches:
        yield replace(batch, blocks=tuple(_holed(block, rng) for block in batch.blocks))


def _holed(block: Any, rng: np.random.Generator) -> Any:
    lost = rng.random(block.values.shape) < 0.2
    return replace(block, values=np.where(lost, np.nan, block.values))


STORMS: dict[str, Callable[[Iterator[Any], np.random.Generator], Iterator[Any]]] = {
    "none": _calm,
    "10x rate": _burst,
    "gaps": _gaps,
    "duplicates": _twice,
    "clock jumps": _clock,
    "not a number": _holes,
}


def measure(*, quick: bool) -> dict[str, Any]:
    """By storm: snapshots planned on, plans made, wrong ones, and times that a planner said that
    it could not plan.
    """
    return {"storms": [_storm(name, 12 if quick else 60) for name in STORMS]}


def _storm(name: str, ticks: int) -> dict[str, Any]:
    from qcluster.deadline import Deadline
    from qcluster.errors import QClusterError
    from qcluster.joint import JointPlanner
    from qcluster.telemetry import Ring
    from qcluster.telemetry.sources.simulate import parse
    from qcluster.telemetry.sources.simulate.simulator import Simulator

    spec = "nvl72,seed=5,fault=gpu_lost@4+6:node03/1,fault=gpu_lost@7:node10/0"
    simulator = Simulator(parse(spec)[0], start_ts_s=time.time())
    planner, ring, previous = JointPlanner(), Ring(), None
    truth: list[np.ndarray] = []

    def batches() -> Iterator[Any]:
        for _ in range(ticks):
            batch = simulator.step()
            truth.append(_up(batch))
            yield batch

    row = {"storm": name, "snapshots": 0, "plans": 0, "wrong": 0, "said": 0}
    for batch in STORMS[name](batches(), np.random.default_rng(1)):
        ring.add(batch, clock=float(len(truth)))
        snapshot = ring.snapshot(clock=float(len(truth)))
        row["snapshots"] += 1
        try:
            plan = planner.plan(snapshot, previous, {}, deadline=Deadline.after(2.0))
            planner.verify(plan, snapshot)
        except QClusterError:
            row["said"] += 1
            continue
        row["plans"] += 1
        previous = plan
        long_dead = ~np.any(truth[-1 - PERIODS :], axis=0) & (len(truth) > PERIODS)
        row["wrong"] += int((plan.rate[long_dead] > 0).any())
    return row


def _up(batch: Any) -> np.ndarray:
    (block,) = [b for b in batch.blocks if b.entity == "gpu" and "up" in b.metrics]
    values: np.ndarray = block.values[:, list(block.metrics).index("up")] > 0
    return values
