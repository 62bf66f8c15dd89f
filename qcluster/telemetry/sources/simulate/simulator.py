"""A cluster that never was: one ``Simulator.step()`` is one period and gives one batch.

Time is virtual; whoever drives it decides how fast it runs. The same scenario and seed give the
same batches, number for number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.telemetry.schema import Batch, Block, Event
from qcluster.telemetry.sources.simulate.chips import Chips
from qcluster.telemetry.sources.simulate.experts import ExpertTraffic
from qcluster.telemetry.sources.simulate.faults import FAULT_KINDS, Fault
from qcluster.telemetry.sources.simulate.racks import rack
from qcluster.telemetry.sources.simulate.traffic import Fabric
from qcluster.telemetry.sources.simulate.workload import Workload

__all__ = ["Scenario", "Simulator"]

XID_OFF_BUS = 79.0


@dataclass(frozen=True)
class Scenario:
    """What to simulate. ``nodes``, ``layers`` and ``experts`` of None take the rack's own."""

    rack: str = "nvl72"
    seed: int = 0
    period_s: float = 1.0
    nodes: int | None = None
    layers: int | None = None
    experts: int | None = None
    faults: tuple[Fault, ...] = field(default_factory=tuple)


class Simulator:
    """Runs a scenario, one period a step, starting at Unix time ``start_ts_s``."""

    def __init__(self, scenario: Scenario | None = None, *, start_ts_s: float = 0.0) -> None:
        self.scenario = scenario = scenario or Scenario()
        self.rack = rack(scenario.rack, scenario.nodes)
        self.topology = self.rack.topology
        self.start_ts_s, self.t, self._steps = start_ts_s, 0.0, 0
        rng = self._rng = np.random.default_rng(scenario.seed)
        self.gpu_ids = self.topology.gpu_ids
        self._index = {gpu: i for i, gpu in enumerate(self.gpu_ids)}
        self._node_of = self.topology.owner
        self.chips = Chips(self.rack.gpu, len(self.gpu_ids), rng)
        layers = scenario.layers or self.rack.layers
        self.experts = ExpertTraffic(layers, scenario.experts or self.rack.experts, rng)
        self.fabric = Fabric(self.topology)
        self._faults: list[Fault] = []
        self._active: set[Fault] = set()
        self.workload = Workload(self.rack, self.fabric, self.experts, rng, scenario.period_s)
        n = len(self.gpu_ids)
        self._energy, self._tx, self._rx = rng.uniform(1e8, 2e8, n), np.zeros(n), np.zeros(n)
        for fault in scenario.faults:
            self.inject(fault)

    def inject(self, fault: Fault) -> None:
        """Let a fault happen; its times count from the start of the simulation.

        Raises InputError when its subject is not in this cluster.
        """
        self._members(fault)
        self._faults.append(fault)

    def set_power_limit(self, gpu_ids: tuple[str, ...], limit_w: float) -> None:
        """Cap GPUs, as an applied power plan would.

        Raises InputError outside the model's range or for an unknown GPU.
        """
        low, high = self.rack.gpu.min_w, self.rack.gpu.max_w
        if not low <= limit_w <= high:
            raise InputError(f"wants {low:g} to {high:g} W, got {limit_w}", field="limit_w")
        for gpu in gpu_ids:
            if gpu not in self._index:
                raise InputError(f"no GPU '{gpu}'", field="gpu_ids")
            self.chips.limit_w[self._index[gpu]] = limit_w

    def step(self) -> Batch:
        """Move one period on and report it. The first batch carries topology and jobs."""
        dt, first = self.scenario.period_s, self._steps == 0
        self._steps += 1
        self.t = self._steps * dt
        events = self._turn_faults()
        up = np.ones(len(self.gpu_ids), dtype=bool)
        for fault in self._of("gpu_lost"):
            up[self._members(fault)] = False
        lanes = self._lanes()
        self.experts.step(dt)
        load, activity, flow = self.workload.step(
            self.t, up, self.chips.speed, lanes, self._boost()
        )
        for fault in self._of("power_step"):
            activity[self._members(fault)] = fault.value
        activity[~up] = 0.0
        self.chips.step(activity, self.workload.held & up, dt)
        tx, rx = self.fabric.carry(flow, lanes, dt)
        self._tx += tx
        self._rx += rx
        self._energy += np.where(up, self.chips.power_w * dt, 0.0)
        return Batch(
            source=f"simulate:{self.rack.name}",
            ts_s=self.start_ts_s + self.t,
            simulated=True,
            period_s=dt,
            blocks=(self._gpus(up, activity), self._nodes(up, activity), self._links(lanes)),
            expert_load=load if load.any() else None,
            topology=self.topology if first else None,
            jobs=tuple(t.job for t in self.rack.jobs) if first else None,
            events=events,
        )

    def _turn_faults(self) -> tuple[Event, ...]:
        now = {fault for fault in self._faults if fault.active(self.t)}
        ts = self.start_ts_s + self.t
        events = [
            Event(
                ts_s=ts, kind=f.kind, subject=f.subject or self._default(f), detail=f"{f.value:g}"
            )
            for f in self._faults
            if f in now - self._active
        ]
        events += [
            Event(ts_s=ts, kind=FAULT_KINDS[f.kind], subject=f.subject or self._default(f))
            for f in self._faults
            if f in self._active - now
        ]
        self._active = now
        return tuple(events)

    def _of(self, kind: str) -> list[Fault]:
        return [fault for fault in self._faults if fault.kind == kind and fault in self._active]

    def _default(self, fault: Fault) -> str:
        first = self.topology.nodes[0]
        by_kind = {
            "hot_expert": "0/0",
            "power_step": first.id,
            "link_down": self.topology.links[0].id,
        }
        return by_kind.get(fault.kind, first.gpu_ids[0])

    def _members(self, fault: Fault) -> NDArray[np.int64]:
        """Positions of what a fault hits: GPUs, links for link_down, (layer, expert) pairs."""
        subject = fault.subject or self._default(fault)
        found: list[int]
        if fault.kind == "hot_expert":
            return self._expert_cells(subject)
        if fault.kind == "link_down":
            found = [
                i
                for i, link in enumerate(self.topology.links)
                if subject in (link.id, link.source, link.target)
            ]
        elif subject == "*":
            found = list(range(len(self.gpu_ids)))
        else:
            found = [
                i
                for i, gpu in enumerate(self.gpu_ids)
                if subject in (gpu, self.topology.nodes[self._node_of[i]].id)
            ]
        if not found:
            raise InputError(f"{fault.kind}: '{subject}' is not in this cluster", field="fault")
        return np.array(found, dtype=np.int64)

    def _expert_cells(self, subject: str) -> NDArray[np.int64]:
        layer, _, expert = subject.partition("/")
        layers, experts = self.experts.layers, self.experts.experts
        rows = list(range(layers)) if layer == "*" else [int(layer)] if layer.isdigit() else []
        column = int(expert) if expert.isdigit() else experts
        if not rows or max(rows) >= layers or column >= experts:
            message = f"hot_expert wants LAYER/EXPERT below {layers}/{experts}, got '{subject}'"
            raise InputError(message, field="fault")
        return np.array([row * experts + column for row in rows], dtype=np.int64)

    def _lanes(self) -> NDArray[np.float64]:
        """Share of each link's lanes that are up, (links,)."""
        share = np.ones(len(self.topology.links))
        for fault in self._of("link_down"):
            for i in self._members(fault):
                total = self.topology.links[i].links
                share[i] = min(share[i], 1 - min(fault.value, total) / total)
        return share

    def _boost(self) -> NDArray[np.float64] | None:
        hot = self._of("hot_expert")
        if not hot:
            return None
        boost = np.ones((self.experts.layers, self.experts.experts))
        for fault in hot:
            boost.ravel()[self._members(fault)] *= fault.value
        return boost

    def _gpus(self, up: NDArray[np.bool_], activity: NDArray[np.float64]) -> Block:
        chips, model, n = self.chips, self.rack.gpu, len(up)
        noise = self._rng.normal(1.0, 0.008, n)
        busy = activity > 0.01
        columns = {
            "power_w": chips.power_w * noise,
            "power_limit_w": chips.limit_w.copy(),
            "power_held_s": chips.held_s.copy(),
            "energy_j": self._energy.copy(),
            "sm_clock_mhz": chips.clock_mhz.copy(),
            "mem_clock_mhz": np.full(n, float(model.memory_mhz)),
            "temperature_c": np.round(chips.temperature_c),
            "utilization": np.clip(np.where(busy, 0.25 + activity, 0.0), 0.0, 1.0),
            "sm_active": np.clip(0.88 * activity, 0.0, 1.0),
            "tensor_active": np.clip(0.6 * activity**1.3, 0.0, 1.0),
            "dram_active": np.clip(0.45 * activity**0.8, 0.0, 1.0),
            "memory_used_bytes": np.where(self.workload.held, 0.83, 0.004) * model.memory_bytes,
            "nvlink_tx_bytes": self._tx.copy(),
            "nvlink_rx_bytes": self._rx.copy(),
        }
        for column in columns.values():
            column[~up] = np.nan
        columns["up"] = up.astype(np.float64)
        columns["xid_error"] = np.where(up, 0.0, XID_OFF_BUS)
        return Block.of("gpu", self.gpu_ids, columns)

    def _nodes(self, up: NDArray[np.bool_], activity: NDArray[np.float64]) -> Block:
        nodes = self.topology.nodes
        board = np.bincount(self._node_of, np.where(up, self.chips.power_w, 0.0), len(nodes))
        busy = np.bincount(self._node_of, activity, len(nodes)) / [node.gpus for node in nodes]
        # Power supplies turn 94 % of what they take into direct current.
        power = (board + self.rack.gpu.host_w * (0.75 + 0.25 * busy)) / 0.94
        columns = {
            "node_power_w": power * self._rng.normal(1.0, 0.005, len(nodes)),
            "node_cpu": np.clip(0.04 + 0.3 * busy, 0.0, 1.0),
            "node_memory_bytes": 6e10 + 2e11 * busy,
        }
        return Block.of("node", tuple(node.id for node in nodes), columns)

    def _links(self, lanes: NDArray[np.float64]) -> Block:
        columns = {
            "link_up": lanes,
            "link_tx_bytes": self.fabric.sent.copy(),
            "link_errors": self.fabric.errors.copy(),
        }
        return Block.of("link", tuple(link.id for link in self.topology.links), columns)
