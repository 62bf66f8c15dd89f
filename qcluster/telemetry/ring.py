"""From batches to snapshots: a bounded memory of the latest values and a window of history.

The ring is what the hub holds. Memory is bounded by the topology and the window lengths, whatever
comes in. It takes batches from several sources; the first that describes the topology wins until
it changes it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality
from qcluster.telemetry.snapshot import Snapshot
from qcluster.telemetry.topology import Topology

__all__ = ["Ring"]

# Three missed periods: one is jitter, two a hiccup.
STALE_PERIODS = 3.0
MAX_EVENTS = 64


class _Table:
    """Latest values of one kind of entity: arrays in topology order, one column a metric."""

    def __init__(self, entity: Entity, ids: tuple[str, ...]) -> None:
        self.index = {name: i for i, name in enumerate(ids)}
        names = [m for m in METRICS.values() if m.entity == entity]
        self.value = {m.name: np.full(len(ids), np.nan) for m in names}
        self.rate = {m.name: np.full(len(ids), np.nan) for m in names if m.kind == "counter"}
        self.ts = {m.name: np.full(len(ids), -np.inf) for m in names}
        self.quality = {m.name: np.full(len(ids), int(Quality.MISSING), np.uint8) for m in names}

    def take(self, block: Block, ts_s: float) -> int:
        """Store a block; returns how many of its rows belong to no known entity."""
        rows = np.array([self.index.get(name, -1) for name in block.ids], dtype=np.int64)
        known = rows >= 0
        rows = rows[known]
        for column, name in enumerate(block.metrics):
            values, quality = block.values[known, column], block.quality[known, column]
            fresh = self.ts[name][rows] < ts_s
            where = rows[fresh]
            if name in self.rate:
                self._rate(name, where, values[fresh], quality[fresh], ts_s)
            self.value[name][where] = values[fresh]
            self.quality[name][where] = quality[fresh]
            self.ts[name][where] = ts_s
        return int(np.count_nonzero(~known))

    def _rate(
        self,
        name: str,
        where: NDArray[np.int64],
        values: NDArray[np.float64],
        quality: NDArray[np.uint8],
        ts_s: float,
    ) -> None:
        before, since = self.value[name][where], ts_s - self.ts[name][where]
        with np.errstate(invalid="ignore"):
            quality[values < before] |= np.uint8(Quality.RESET)
            good = np.isfinite(before) & (values >= before) & np.isfinite(since)
        self.rate[name][where] = np.where(good, (values - before) / np.maximum(since, 1e-9), np.nan)

    def latest(self, now: float, stale_s: float) -> dict[str, NDArray[np.float64]]:
        """Current values; rates for counters; NaN for what is stale."""
        out: dict[str, NDArray[np.float64]] = {}
        for name, ts in self.ts.items():
            if not np.isfinite(ts).any():
                continue
            fresh = now - ts <= stale_s
            source = self.rate.get(name, self.value[name])
            shown, scale = _rate_name(name) if name in self.rate else (name, 1.0)
            out[shown] = np.where(fresh, source * scale, np.nan)
        return out


def _rate_name(counter: str) -> tuple[str, float]:
    if counter.endswith("_bytes"):
        return counter.removesuffix("_bytes") + "_gb_s", 1e-9
    return (counter.removesuffix("_j") + "_w", 1.0) if counter == "energy_j" else (counter, 1.0)


class Ring:
    """Latest values and bounded history of one cluster.

    Parameters
    ----------
    windows: how many expert-load windows are kept.
    history: how many ticks of node power are kept.
    """

    def __init__(self, *, windows: int = 16, history: int = 600) -> None:
        self.windows, self.history = windows, history
        self.seq = 0
        self.ts_s = 0.0
        self.unknown_rows = 0
        self._sources: dict[str, tuple[bool, float]] = {}
        self._loads: deque[NDArray[np.float64]] = deque(maxlen=windows)
        self._power: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=history)
        self._jobs: tuple[Job, ...] = ()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._set_topology(Topology())

    @property
    def topology(self) -> Topology:
        """The cluster as last described."""
        return self._topology

    def add(self, batch: Batch) -> None:
        """Take in what a source delivered. Late batches fill in, they never overwrite newer."""
        if batch.topology is not None and batch.topology != self._topology:
            self._set_topology(batch.topology)
        if batch.jobs is not None:
            self._jobs = batch.jobs
        self._sources[batch.source] = (batch.simulated, batch.period_s)
        for block in batch.blocks:
            self.unknown_rows += self._tables[block.entity].take(block, batch.ts_s)
        if batch.expert_load is not None:
            if self._loads and self._loads[-1].shape != batch.expert_load.shape:
                self._loads.clear()
            self._loads.append(np.asarray(batch.expert_load, dtype=np.float64))
        self._events.extend(batch.events)
        if batch.ts_s > self.ts_s:
            self.ts_s = batch.ts_s
            self._remember_power(batch.ts_s)
        self.seq += 1

    def snapshot(self, now: float | None = None) -> Snapshot:
        """The picture now; values older than three periods are NaN."""
        now = max(time.time() if now is None else now, self.ts_s)
        period = max((period for _, period in self._sources.values()), default=1.0)
        # Staleness is counted from the newest sample, so that a replayed trace is not all stale.
        newest, stale_s = self.ts_s, STALE_PERIODS * period
        gpu = self._tables["gpu"]
        return Snapshot(
            seq=self.seq,
            ts_s=self.ts_s,
            topology=self._topology,
            simulated=any(simulated for simulated, _ in self._sources.values()),
            sources=tuple(sorted(self._sources)),
            alive=self._alive(newest, stale_s),
            gpu=gpu.latest(newest, stale_s),
            gpu_quality={
                name: quality.copy()
                for name, quality in gpu.quality.items()
                if np.isfinite(gpu.ts[name]).any()
            },
            node=self._tables["node"].latest(newest, stale_s),
            link=self._tables["link"].latest(newest, stale_s),
            expert_load=np.stack(self._loads) if self._loads else None,
            power_ts_s=np.array([ts for ts, _ in self._power]),
            power_w=np.array([power for _, power in self._power]).reshape(
                len(self._power), len(self._topology.nodes)
            ),
            jobs=self._jobs,
            events=tuple(self._events),
        )

    def _set_topology(self, topology: Topology) -> None:
        self._topology = topology
        self._tables: dict[str, _Table] = {
            "gpu": _Table("gpu", topology.gpu_ids),
            "node": _Table("node", tuple(node.id for node in topology.nodes)),
            "link": _Table("link", tuple(link.id for link in topology.links)),
        }
        self._node_of = np.array(list(topology.node_of().values()), dtype=np.int64)
        self._power.clear()

    def _alive(self, newest: float, stale_s: float) -> NDArray[np.bool_]:
        table = self._tables["gpu"]
        up, ts = table.value["up"], np.max([*table.ts.values()], axis=0, initial=-np.inf)
        known = np.isfinite(ts)
        # A GPU that never reported is taken for alive: the topology says that it is there.
        return np.where(known, (newest - ts <= stale_s) & (np.nan_to_num(up, nan=1.0) > 0), True)

    def _remember_power(self, ts_s: float) -> None:
        nodes = len(self._topology.nodes)
        if not nodes:
            return
        power = self._tables["node"].value["node_power_w"].copy()
        if not np.isfinite(power).any() and self._node_of.size:
            board = np.nan_to_num(self._tables["gpu"].value["power_w"])
            power = np.bincount(self._node_of, weights=board, minlength=nodes)
        self._power.append((ts_s, power))


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """A few figures of a snapshot for logs and pages."""
    power = snapshot.gpu.get("power_w", np.empty(0))
    return {
        "seq": snapshot.seq,
        "ts_s": snapshot.ts_s,
        "gpus": len(snapshot.topology.gpu_ids),
        "alive": int(np.count_nonzero(snapshot.alive)),
        "power_w": float(np.nansum(power)),
        "simulated": snapshot.simulated,
    }
