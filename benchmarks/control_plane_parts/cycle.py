"""The full live cycle: from a sample pushed to the joint plan stored, with every planner live.

A rack of 72 GPUs reports through the hub; the four planner hosts, the hub and the store are the
actors that ``qcluster serve`` starts. Times are counted from just before the push to the moment at
which the store has the plan of that sample on disk.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

__all__ = ["BAR_MS", "measure"]

BAR_MS = 150.0
PERIOD_S = 0.5


def measure(*, quick: bool) -> dict[str, Any]:
    """``{samples, p50_ms, p99_ms, max_ms, by_planner, load}``; needs a Ray of our own."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from actors.cluster import HUB, STORE, connect, start_cluster, stop_cluster

    with TemporaryDirectory() as state:
        start_cluster(telemetry=(), state_dir=Path(state), period_s=PERIOD_S)
        try:
            return _cycles(connect(HUB), connect(STORE), 60 if quick else 400)
        finally:
            stop_cluster()


def _cycles(hub: Any, store: Any, count: int) -> dict[str, Any]:
    from dataclasses import replace

    from qcluster.telemetry.sources.simulate import parse
    from qcluster.telemetry.sources.simulate.simulator import Simulator

    simulator = Simulator(parse("nvl72,seed=11")[0], start_ts_s=time.time())

    def sample() -> Any:
        batch = simulator.step()
        return replace(batch, source="rack", ts_s=time.time())

    hub.push([sample()])
    _warm(hub, store, sample)
    taken: list[float] = []
    others: dict[str, list[float]] = {}
    load = os.getloadavg()[0]
    for _ in range(count):
        # Planners are past their period and wait for the next sample.
        time.sleep(PERIOD_S * 1.6)
        before, last = _newest(store), store.wait(0, 0.0)
        batch = sample()
        began = time.monotonic()
        hub.push([batch])
        waiting = set(before)
        while waiting and time.monotonic() - began < 5.0:
            last = store.wait(last, 5.0)
            since, now = time.monotonic() - began, _newest(store)
            for name in [name for name in waiting if now[name] != before[name]]:
                waiting.discard(name)
                (taken if name == "joint" else others.setdefault(name, [])).append(since * 1e3)
    return {
        "samples": len(taken),
        "missed": count - len(taken),
        "p50_ms": float(np.percentile(taken, 50)),
        "p99_ms": float(np.percentile(taken, 99)),
        "max_ms": max(taken),
        "by_planner_p99_ms": {k: float(np.percentile(v, 99)) for k, v in others.items()},
        "load": load,
    }


def _newest(store: Any) -> dict[str, str]:
    """The newest plan's id of every planner, without the plans themselves."""
    known = dict.fromkeys(("routing", "energy", "nvlink", "joint"), "")
    for name in known:
        rows = store.history(name, 1)
        known[name] = rows[0]["plan_id"] if rows else ""
    return known


def _warm(hub: Any, store: Any, sample: Any) -> None:
    """Until every planner has planned a few times."""
    ends = time.monotonic() + 240.0
    while time.monotonic() < ends:
        hub.push([sample()])
        if all(len(store.history(name, 5)) == 5 for name in _newest(store)):
            return
        time.sleep(PERIOD_S)
    raise RuntimeError("the planners do not plan")
