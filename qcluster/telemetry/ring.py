"""From batches to snapshots: a bounded memory of the latest values and a window of history.

The ring is what the hub holds. Memory is bounded by the topology and the window lengths, whatever
comes in. It takes batches from several sources and joins their topologies: of a node, link or
accelerator that two of them describe, the first source's word counts. Entities that stay keep
their values when the topology changes. A source that reports on nodes and never
describes any has them taken in as they appear, up to a limit.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality
from qcluster.telemetry.snapshot import Snapshot
from qcluster.telemetry.topology import Node, Topology

__all__ = ["Ring", "describe", "join"]

# Three missed periods: one is jitter, two a hiccup.
STALE_PERIODS = 3.0
MAX_EVENTS = 64
MAX_SOURCES = 4096
MAX_ADOPTED = 16_384
# How many lists of ids a table remembers the places of; sources send the same few again and again.
MAX_PLACES = 256


class _Table:
    """Latest values of one kind of entity: (entities, metrics) arrays in topology order."""

    def __init__(self, entity: Entity, ids: tuple[str, ...]) -> None:
        self.ids, self.index = ids, {name: i for i, name in enumerate(ids)}
        self.metrics = tuple(m.name for m in METRICS.values() if m.entity == entity)
        self._column = {name: i for i, name in enumerate(self.metrics)}
        self._counter = np.array([METRICS[name].kind == "counter" for name in self.metrics])
        shape = (len(ids), len(self.metrics))
        self.value, self.rate = np.full(shape, np.nan), np.full(shape, np.nan)
        self.ts, self.life = np.full(shape, -np.inf), np.zeros(shape)
        self.quality = np.full(shape, int(Quality.MISSING), np.uint8)
        self._places: dict[tuple[tuple[str, ...], tuple[str, ...]], _Place] = {}

    def keep(self, old: _Table) -> None:
        """Take over what an earlier table knows of the same entities."""
        both = [(i, old.index[name]) for name, i in self.index.items() if name in old.index]
        if not both:
            return
        here, there = (np.array(side) for side in zip(*both, strict=True))
        for name in ("value", "rate", "ts", "life", "quality"):
            getattr(self, name)[here] = getattr(old, name)[there]

    def take(self, block: Block, ts_s: float, life_s: float) -> int:
        """Store a block, whose values go stale after ``life_s`` seconds.

        Returns how many of its rows belong to no known entity.
        """
        place = self._place(block)
        values, quality = block.values, block.quality
        if place.known is not None:
            values, quality = values[place.known], quality[place.known]
        where = place.where
        ts = self.ts[where]
        since = ts_s - ts
        fresh = since > 0
        if place.counters.size:
            quality = self._rates(place, values, quality, since, fresh)
        if fresh.all():
            self.value[where], self.quality[where] = values, quality
            self.ts[where], self.life[where] = ts_s, life_s
        else:
            self.value[where] = np.where(fresh, values, self.value[where])
            self.quality[where] = np.where(fresh, quality, self.quality[where])
            # The first reading of a time stays; the second shows only as a mark.
            twice = np.uint8(Quality.DUPLICATE) * (since == 0)
            self.quality[where] |= twice.astype(np.uint8)
            self.ts[where] = np.where(fresh, ts_s, ts)
            self.life[where] = np.where(fresh, life_s, self.life[where])
        return place.unknown

    def _place(self, block: Block) -> _Place:
        key = (block.ids, block.metrics)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            found = self._places[key] = _Place(self.index, self._column, self._counter, block)
        return found

    def _rates(
        self,
        place: _Place,
        values: NDArray[np.float64],
        quality: NDArray[np.uint8],
        since: NDArray[np.float64],
        fresh: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Rates of the counters in a block; returns its quality with resets marked."""
        cols, where = place.counters, place.counter_where
        before, now, dt = self.value[where], values[:, cols], since[:, cols]
        with np.errstate(invalid="ignore"):
            back = now < before
            good = (now >= before) & np.isfinite(dt)
            rate = np.where(good, (now - before) / np.maximum(dt, 1e-9), np.nan)
        self.rate[where] = np.where(fresh[:, cols], rate, self.rate[where])
        if back.any():
            quality = quality.copy()
            quality[:, cols] |= np.uint8(Quality.RESET) * back.astype(np.uint8)
        return quality

    def latest(self, newest: float) -> dict[str, NDArray[np.float64]]:
        """Current values; rates for counters; NaN for what is stale."""
        out: dict[str, NDArray[np.float64]] = {}
        seen = np.isfinite(self.ts).any(axis=0)
        fresh = newest - self.ts <= self.life
        for i in np.flatnonzero(seen):
            name, source, scale = self.metrics[i], self.value[:, i], 1.0
            if self._counter[i]:
                name, scale = _rate_name(name)
                source = self.rate[:, i]
            shown = np.where(fresh[:, i], source * scale, np.nan)
            # Some sources count bytes, others report the rate: where both are there, either does.
            out[name] = np.where(np.isnan(shown), out[name], shown) if name in out else shown
        return out

    def marks(self, newest: float) -> dict[str, NDArray[np.uint8]]:
        """Quality of every metric that was seen, with what is stale marked."""
        seen = np.isfinite(self.ts).any(axis=0)
        stale = (newest - self.ts > self.life) & np.isfinite(self.ts)
        quality = self.quality | np.uint8(Quality.STALE) * stale.astype(np.uint8)
        return {self.metrics[i]: quality[:, i].copy() for i in np.flatnonzero(seen)}

    def column(self, metric: str) -> NDArray[np.float64]:
        """Latest values of one metric, stale or not."""
        return self.value[:, self._column[metric]]


class _Place:
    """Where the rows and columns of one form of block go in a table."""

    def __init__(
        self,
        index: dict[str, int],
        column: dict[str, int],
        counter: NDArray[np.bool_],
        block: Block,
    ) -> None:
        rows = np.array([index.get(name, -1) for name in block.ids], dtype=np.int64)
        known = rows >= 0
        self.unknown = int(np.count_nonzero(~known))
        self.known = known if self.unknown else None
        rows = rows[known][:, None]
        columns = np.array([column[name] for name in block.metrics], dtype=np.int64)
        self.where = (rows, columns[None, :])
        self.counters = np.flatnonzero(counter[columns])
        self.counter_where = (rows, columns[self.counters][None, :])


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

    ``unknown_rows`` counts rows of entities that no topology knows.
    """

    def __init__(self, *, windows: int = 16, history: int = 600) -> None:
        self.windows, self.history = windows, history
        self.seq = 0
        self.ts_s = 0.0
        self.unknown_rows = 0
        self._sources: dict[str, bool] = {}
        self._described: dict[str, Topology] = {}
        self._adopted: dict[str, dict[str, int]] = {}
        self._loads: deque[NDArray[np.float64]] = deque(maxlen=windows)
        self._power: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=history)
        self._jobs: tuple[Job, ...] = ()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._topology, self._tables = Topology(), _tables(Topology())
        self._set_topology(Topology())

    @property
    def topology(self) -> Topology:
        """The cluster as all sources together describe it."""
        return self._topology

    def add(self, batch: Batch) -> None:
        """Take in what a source delivered. Late batches fill in, they never overwrite newer."""
        if batch.topology is not None and batch.topology != self._described.get(batch.source):
            self._adopted.pop(batch.source, None)
            self._described[batch.source] = batch.topology
            self._set_topology(join(self._described.values()))
        if batch.jobs is not None:
            self._jobs = batch.jobs
        if batch.source in self._sources or len(self._sources) < MAX_SOURCES:
            self._sources[batch.source] = batch.simulated
        for block in batch.blocks:
            life_s = STALE_PERIODS * batch.period_s
            unknown = self._tables[block.entity].take(block, batch.ts_s, life_s)
            if unknown and self._adopt(batch.source, block):
                unknown = self._tables[block.entity].take(block, batch.ts_s, life_s)
            self.unknown_rows += unknown
        if batch.expert_load is not None:
            if self._loads and self._loads[-1].shape != batch.expert_load.shape:
                self._loads.clear()
            self._loads.append(np.asarray(batch.expert_load, dtype=np.float64))
        self._events.extend(batch.events)
        if batch.ts_s > self.ts_s:
            self.ts_s = batch.ts_s
            self._remember_power(batch.ts_s)
        self.seq += 1

    def snapshot(self) -> Snapshot:
        """The picture now; values older than three periods of their source are NaN."""
        # Staleness is counted from the newest sample, so that a replayed trace is not all stale.
        newest = self.ts_s
        return Snapshot(
            seq=self.seq,
            ts_s=self.ts_s,
            topology=self._topology,
            simulated=any(self._sources.values()),
            sources=tuple(sorted(self._sources)),
            alive=self._alive(newest),
            gpu=self._tables["gpu"].latest(newest),
            gpu_quality=self._tables["gpu"].marks(newest),
            node=self._tables["node"].latest(newest),
            link=self._tables["link"].latest(newest),
            expert_load=np.stack(self._loads) if self._loads else None,
            power_ts_s=np.array([ts for ts, _ in self._power]),
            power_w=np.array([power for _, power in self._power]).reshape(
                len(self._power), len(self._topology.nodes)
            ),
            jobs=self._jobs,
            events=tuple(self._events),
        )

    def _adopt(self, source: str, block: Block) -> bool:
        """Take in nodes that a source reports on; False if none could be."""
        if block.entity == "link" or (source in self._described and source not in self._adopted):
            return False
        mine = dict(self._adopted.get(source, {}))
        others = {node.id for node in self._topology.nodes} - mine.keys()
        for name in block.ids:
            node, _, index = name.rpartition("/") if block.entity == "gpu" else (name, "", "")
            if node and node not in others and (index.isdigit() or block.entity == "node"):
                mine[node] = max(mine.get(node, 0), int(index) + 1 if index else 0)
        size = sum(max(gpus, 1) for gpus in mine.values())
        if mine == self._adopted.get(source, {}) or size > MAX_ADOPTED:
            return False
        self._adopted[source] = mine
        nodes = tuple(Node(id=node, gpus=gpus) for node, gpus in mine.items())
        self._described[source] = Topology(nodes=nodes)
        self._set_topology(join(self._described.values()))
        return True

    def _set_topology(self, topology: Topology) -> None:
        nodes = tuple(node.id for node in topology.nodes)
        if nodes != tuple(node.id for node in self._topology.nodes):
            self._power = _reordered(self._power, self._topology, topology, self.history)
        self._topology = topology
        tables = _tables(topology)
        for name, table in tables.items():
            table.keep(self._tables[name])
        self._tables = tables
        self._node_of = np.array(list(topology.node_of().values()), dtype=np.int64)

    def _alive(self, newest: float) -> NDArray[np.bool_]:
        table = self._tables["gpu"]
        up, ts = table.column("up"), table.ts.max(axis=1, initial=-np.inf)
        known, fresh = np.isfinite(ts), (newest - table.ts <= table.life).any(axis=1)
        # A GPU that never reported is taken for alive: the topology says that it is there.
        return np.where(known, fresh & (np.nan_to_num(up, nan=1.0) > 0), True)

    def _remember_power(self, ts_s: float) -> None:
        nodes = len(self._topology.nodes)
        if not nodes:
            return
        power = self._tables["node"].column("node_power_w").copy()
        if not np.isfinite(power).any() and self._node_of.size:
            board = np.nan_to_num(self._tables["gpu"].column("power_w"))
            power = np.bincount(self._node_of, board, nodes).astype(np.float64)
        self._power.append((ts_s, power))


def join(parts: Any) -> Topology:
    """One topology of several; of two entities with one id the first counts."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]  # type: ignore[no-any-return]
    nodes = {node.id: node for part in reversed(parts) for node in part.nodes}
    links = {link.id: link for part in reversed(parts) for link in part.links}
    others = {one.id: one for part in reversed(parts) for one in part.accelerators}
    order = dict.fromkeys(node.id for part in parts for node in part.nodes)
    lines = dict.fromkeys(link.id for part in parts for link in part.links)
    rest = dict.fromkeys(one.id for part in parts for one in part.accelerators)
    return Topology(
        nodes=tuple(nodes[name] for name in order),
        links=tuple(links[name] for name in lines),
        accelerators=tuple(others[name] for name in rest),
    )


def _tables(topology: Topology) -> dict[str, _Table]:
    return {
        "gpu": _Table("gpu", topology.gpu_ids),
        "node": _Table("node", tuple(node.id for node in topology.nodes)),
        "link": _Table("link", tuple(link.id for link in topology.links)),
    }


def _reordered(
    power: deque[tuple[float, NDArray[np.float64]]], old: Topology, new: Topology, history: int
) -> deque[tuple[float, NDArray[np.float64]]]:
    """Power history with its columns in the order of a new topology, NaN for new nodes."""
    column = {node.id: i for i, node in enumerate(old.nodes)}
    source = np.array([column.get(node.id, -1) for node in new.nodes], dtype=np.int64)
    if not len(source) or (source < 0).all():
        return deque(maxlen=history)
    moved = ((ts, np.where(source < 0, np.nan, row[source])) for ts, row in power)
    return deque(moved, maxlen=history)


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
