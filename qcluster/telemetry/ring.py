"""From batches to snapshots: a bounded memory of the latest values and a window of history.

The ring is what the hub holds. Memory is bounded by the topology and the window lengths, whatever
comes in. It takes batches from several sources and joins what they say of the cluster: of a node,
link, accelerator or job that two of them describe, the first source's word counts. Entities that
stay keep their values when the topology changes. A source that reports on nodes and never
describes any has them taken in as they appear, up to a limit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import Batch, Block, Event
from qcluster.telemetry.snapshot import Snapshot
from qcluster.telemetry.tables import Table
from qcluster.telemetry.topology import Node, Topology

__all__ = ["Ring", "describe", "join"]

# Three missed periods: one is jitter, two a hiccup.
STALE_PERIODS = 3.0
MAX_EVENTS = 64
MAX_SOURCES = 4096
MAX_ADOPTED = 16_384


@dataclass
class _Feed:
    """What is known of a source: its number, its newest time stamp, when a batch last came, and
    whether it is known to have ended.
    """

    number: int
    simulated: bool = False
    newest: float = 0.0
    arrived: float | None = None
    lost: bool = False


class Ring:
    """Latest values and bounded history of one cluster.

    Parameters
    ----------
    windows: how many expert-load windows are kept.
    history: how many ticks of node power are kept.

    ``unknown_rows`` counts rows of entities that no topology knows.

    A value is stale when it is older than three periods of its source. In a live hub clocks
    differ and recordings run at any speed, so there ``add`` and ``snapshot`` are given a common
    ``clock`` (monotonic seconds): age is then counted in the source's own time stamps, plus how
    long the source has been silent. Without it all sources share one time line.
    """

    def __init__(self, *, windows: int = 16, history: int = 600) -> None:
        self.windows, self.history = windows, history
        self.seq = 0
        self.ts_s = 0.0
        self.unknown_rows = 0
        self._sources: dict[str, _Feed] = {}
        self._described: dict[str, Topology] = {}
        self._adopted: dict[str, dict[str, int]] = {}
        self._loads: deque[NDArray[np.float64]] = deque(maxlen=windows)
        self._power: deque[tuple[float, NDArray[np.float64]]] = deque(maxlen=history)
        self._jobs_of: dict[str, tuple[Job, ...]] = {}
        self._jobs: tuple[Job, ...] = ()
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._topology, self._tables = Topology(), _tables(Topology())
        self._set_topology(Topology())

    @property
    def topology(self) -> Topology:
        """The cluster as all sources together describe it."""
        return self._topology

    def add(self, batch: Batch, *, clock: float | None = None) -> None:
        """Take in what a source delivered. Late batches fill in, they never overwrite newer."""
        feed = self._feed(batch, clock)
        if batch.topology is not None and batch.topology != self._described.get(batch.source):
            self._adopted.pop(batch.source, None)
            self._described[batch.source] = batch.topology
            self._set_topology(join(self._described.values()))
        if batch.jobs is not None:
            self._jobs_of[batch.source] = batch.jobs
            every = [job for jobs in self._jobs_of.values() for job in jobs]
            self._jobs = tuple({job.id: job for job in (*every, *reversed(every))}.values())
        for block in batch.blocks:
            when = (batch.ts_s, STALE_PERIODS * batch.period_s, feed.number)
            unknown = self._tables[block.entity].take(block, *when)
            if unknown and self._adopt(batch.source, block):
                unknown = self._tables[block.entity].take(block, *when)
            self.unknown_rows += unknown
        if batch.expert_load is not None:
            if self._loads and self._loads[-1].shape != batch.expert_load.shape:
                self._loads.clear()
            self._loads.append(np.asarray(batch.expert_load, dtype=np.float64))
        self._events.extend(batch.events)
        if batch.ts_s > self.ts_s:
            self.ts_s = batch.ts_s
            self._remember_power(batch.ts_s, batch.period_s)
        self.seq += 1

    def lose(self, source: str, ts_s: float) -> bool:
        """Take what a source has delivered for too old, until it delivers again.

        For a source that is known to have ended, because its node has left: nobody has to wait for
        three periods then. Returns whether the source is known.
        """
        feed = self._sources.get(source)
        if feed is None or feed.lost:
            return False
        feed.lost = True
        for node in self._described.get(source, Topology()).nodes:
            self._events.append(
                Event(ts_s=ts_s, kind="gpu_lost", subject=node.id, detail="its node has left")
            )
        self.seq += 1
        return True

    def snapshot(self, *, clock: float | None = None) -> Snapshot:
        """The picture now; values older than three periods of their source are NaN."""
        now = self._now(clock)
        fresh = {name: table.fresh(now) for name, table in self._tables.items()}
        return Snapshot(
            seq=self.seq,
            ts_s=self.ts_s,
            topology=self._topology,
            simulated=any(feed.simulated for feed in self._sources.values()),
            sources=tuple(sorted(self._sources)),
            alive=self._alive(fresh["gpu"]),
            gpu=self._tables["gpu"].latest(fresh["gpu"]),
            gpu_quality=self._tables["gpu"].marks(fresh["gpu"]),
            node=self._tables["node"].latest(fresh["node"]),
            link=self._tables["link"].latest(fresh["link"]),
            expert_load=np.stack(self._loads) if self._loads else None,
            power_ts_s=np.array([ts for ts, _ in self._power]),
            power_w=np.array([power for _, power in self._power]).reshape(
                len(self._power), len(self._topology.nodes)
            ),
            jobs=self._jobs,
            events=tuple(self._events),
        )

    def _feed(self, batch: Batch, clock: float | None) -> _Feed:
        name = batch.source
        if name not in self._sources and len(self._sources) >= MAX_SOURCES:
            name = next(iter(self._sources))  # a flood of names: they share one clock
        feed = self._sources.setdefault(name, _Feed(len(self._sources)))
        feed.simulated = batch.simulated
        feed.lost = False
        feed.newest, feed.arrived = max(feed.newest, batch.ts_s), clock
        return feed

    def _now(self, clock: float | None) -> NDArray[np.float64]:
        """The time now in each source's own clock, (sources,)."""
        return np.array(
            [
                np.inf
                if feed.lost
                else self.ts_s
                if clock is None or feed.arrived is None
                else feed.newest + max(0.0, clock - feed.arrived)
                for feed in self._sources.values()
            ]
            or [0.0]
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
        self._node_of = topology.owner

    def _alive(self, fresh: NDArray[np.bool_]) -> NDArray[np.bool_]:
        table = self._tables["gpu"]
        up, ts = table.column("up"), table.ts.max(axis=1, initial=-np.inf)
        known = np.isfinite(ts)
        # A GPU that never reported is taken for alive: the topology says that it is there.
        return np.where(known, fresh.any(axis=1) & (np.nan_to_num(up, nan=1.0) > 0), True)

    def _remember_power(self, ts_s: float, period_s: float) -> None:
        nodes = len(self._topology.nodes)
        if not nodes:
            return
        power = self._tables["node"].column("node_power_w").copy()
        if not np.isfinite(power).any() and self._node_of.size:
            board = np.nan_to_num(self._tables["gpu"].column("power_w"))
            power = np.bincount(self._node_of, board, nodes).astype(np.float64)
        if self._power and ts_s - self._power[-1][0] < period_s / 2:
            # Many senders report the same tick, each a little later: that is one row, not many.
            ts_s = self._power.pop()[0]
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


def _tables(topology: Topology) -> dict[str, Table]:
    return {
        "gpu": Table("gpu", topology.gpu_ids),
        "node": Table("node", tuple(node.id for node in topology.nodes)),
        "link": Table("link", tuple(link.id for link in topology.links)),
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
