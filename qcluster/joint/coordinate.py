"""The parts made to fit each other: what is tried, and which of it is kept.

Apart, every planner takes the others' hardware as given and equal: experts are spread for GPUs of
one speed, watts go where they buy most speed. Together there are three more ways:

- ``power follows placement``: the same watts are put where the experts' load is;
- ``both``: first the watts, then the experts for the rates that come of it;
- ``placement follows power``: experts are placed again for the rates that caps and links leave.

The last is for watts that cannot be moved, or to no effect. A way is left out where even a perfect
placement would not be shorter than what is there already.
Without experts, the watts of each job are levelled between its GPUs, because a job waits for its
slowest. The shortest step wins; the parts as they were win unless it is shorter by ``min_gain``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.fallback import Candidate
from qcluster.joint.config import JointConfig
from qcluster.joint.rates import SLOWEST, job_stretch, rates, stretch
from qcluster.joint.watts import level_caps, part_of
from qcluster.q_energy import EnergyPlan
from qcluster.q_energy.capping import predicted_speed
from qcluster.q_energy.recap import plan_units_of, recapped
from qcluster.q_energy.units import Units
from qcluster.q_nvlink import NVLinkPlan
from qcluster.q_routing.planner import PlacementPlan, RoutingPlanner
from qcluster.telemetry import Snapshot, Topology

__all__ = ["Parts", "Power", "Task", "apart", "coordinated", "measured"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Parts:
    """One choice of parts. ``rate`` (gpus,) as in JointPlan; ``way`` names how it came about."""

    routing: PlacementPlan | None
    nvlink: NVLinkPlan | None
    energy: EnergyPlan | None
    rate: Floats
    stretch: float
    way: str = "apart"


@dataclass(frozen=True, eq=False)
class Power:
    """A power plan with what its caps are for: ``row`` (units,) places its GPUs in the snapshot."""

    plan: EnergyPlan
    units: Units
    topology: Topology
    row: NDArray[np.int64]

    @classmethod
    def of(cls, plan: EnergyPlan, snapshot: Snapshot) -> Power:
        """The plan on the snapshot that it was made for."""
        units, topology = plan_units_of(plan, snapshot)
        index = {name: i for i, name in enumerate(snapshot.topology.gpu_ids)}
        row = np.array([index[name] for name in plan.gpus], dtype=np.int64)
        return cls(plan, units, topology, row)

    def recapped(self, caps: Floats) -> EnergyPlan | None:
        """The plan with other caps, unless it would then be worse than its own fallback."""
        try:
            found = recapped(self.plan, self.units, self.topology, caps)
        except InputError:
            return None
        floor = max(self.plan.baselines.values(), default=np.inf)
        return found if found.objective <= floor + 1e-9 else None


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be brought together: the planners' parts on one snapshot.

    ``in_force`` is the placement that moves count from, ``links`` (gpus,) as ``link_shares``.
    """

    snapshot: Snapshot
    config: JointConfig
    placer: RoutingPlanner
    routing: PlacementPlan | None
    nvlink: NVLinkPlan | None
    power: Power | None
    links: Floats
    in_force: PlacementPlan | None = None

    @property
    def energy(self) -> EnergyPlan | None:
        """The power plan, if any."""
        return None if self.power is None else self.power.plan

    def speeds(self, energy: EnergyPlan | None) -> Floats:
        """(gpus,) share of full speed under the plan's caps; 1 where power is not planned."""
        speed = np.ones(len(self.snapshot.alive))
        if energy is not None and self.power is not None:
            under = predicted_speed(self.power.units, energy.caps_w)
            speed[self.power.row] = np.maximum(under, SLOWEST)
        return np.where(self.snapshot.alive, speed, 0.0)

    def groups(self) -> list[list[int]]:
        """The jobs' GPUs; every living GPU by itself where there are no jobs."""
        index = {name: i for i, name in enumerate(self.snapshot.topology.gpu_ids)}
        if self.nvlink is not None and self.nvlink.assignment:
            placed = self.nvlink.assignment.values()
            return [[index[str(gpu)] for gpu in gpus] for gpus in placed]
        return [[int(i)] for i in np.flatnonzero(self.snapshot.alive)]


def measured(
    task: Task, routing: PlacementPlan | None, energy: EnergyPlan | None, way: str
) -> Parts:
    """The parts with their rates and stretch."""
    speed = task.speeds(energy)
    rate = rates(speed, task.links, task.config.communication_share)
    if routing is not None:
        loads = routing.placement.gpu_loads(routing.load)
        found = stretch(loads, rate, task.snapshot.alive)
    else:
        found = job_stretch(task.groups(), speed)
    return Parts(routing, task.nvlink, energy, rate, found, way)


def apart(task: Task, **_: Any) -> Candidate[Parts]:
    """The parts as their planners made them."""
    found = measured(task, task.routing, task.energy, "apart")
    return Candidate(found, found.stretch)


def coordinated(
    task: Task, *, incumbent: Candidate[Parts], deadline: Deadline, **_: Any
) -> Candidate[Parts]:
    """The best of all ways tried before the deadline."""
    start = incumbent.value
    tried = {start.way: start.stretch}
    best = start
    for found in _ways(task, start, deadline):
        tried[found.way] = found.stretch
        if found.stretch < best.stretch:
            best = found
    if best.stretch > start.stretch * (1.0 - task.config.min_gain):
        best = start
    return Candidate(best, best.stretch, notes={"tried": tried})


def _ways(task: Task, start: Parts, deadline: Deadline) -> Iterator[Parts]:
    if start.routing is None:
        if (caps := _levelled_jobs(task)) is not None:
            yield measured(task, None, caps, "power levelled in jobs")
        return
    best = start.stretch
    loads = start.routing.placement.gpu_loads(start.routing.load).sum(axis=0)
    energy = _levelled(task, loads)
    if energy is not None:
        middle = measured(task, start.routing, energy, "power follows placement")
        yield middle
        best = min(best, middle.stretch)
        for found in _placed(task, middle, "both", best, deadline):
            yield found
            best = min(best, found.stretch)
    # Watts that follow the load cost no move, and experts moved as well come after them.
    if best > start.stretch * (1.0 - task.config.min_gain):
        yield from _placed(task, start, "placement follows power", best, deadline)


def _placed(task: Task, parts: Parts, way: str, best: float, deadline: Deadline) -> Iterator[Parts]:
    """Experts placed again for the rates of ``parts``; nothing where that cannot be shorter than
    the ``best`` stretch so far.
    """
    rate = parts.rate
    alive = task.snapshot.alive
    if not alive.any() or deadline.expired:
        return
    # No placement at these rates is done sooner than with every GPU busy to the end.
    least = float(alive.sum()) / float(rate.sum())
    if least > best * (1.0 - task.config.min_gain):
        return
    routing = task.placer.plan_at(
        task.snapshot,
        task.in_force,
        np.where(alive, rate / rate[alive].max(), 1.0),
        deadline=deadline.share(0.5),
    )
    yield measured(task, routing, parts.energy, way)


def _levelled(task: Task, loads: Floats) -> EnergyPlan | None:
    """The power plan with its watts where the loads (gpus,) are; None where that is not allowed."""
    power = task.power
    if power is None or not _may_level(task, power):
        return None
    caps = level_caps(
        power.units,
        np.where(task.snapshot.alive, loads, 0.0)[power.row],
        task.links[power.row],
        float(power.plan.caps_w.sum()),
        communication_share=task.config.communication_share,
    )
    return power.recapped(caps)


def _levelled_jobs(task: Task) -> EnergyPlan | None:
    """The power plan with each job's watts levelled between its GPUs."""
    power = task.power
    if power is None or not _may_level(task, power):
        return None
    caps = power.plan.caps_w.copy()
    place = {int(row): i for i, row in enumerate(power.row)}
    for group in task.groups():
        mine = np.array([place[g] for g in group if g in place], dtype=np.int64)
        if len(mine) < 2:
            continue
        part, equal = part_of(power.units, mine), np.ones(len(mine))
        caps[mine] = level_caps(
            part,
            equal,
            equal,
            float(power.plan.caps_w[mine].sum()),
            communication_share=0.0,
        )
    return power.recapped(caps)


def _may_level(task: Task, power: Power) -> bool:
    # A share of caps that may change is the power planner's promise; it knows no other loads.
    limited = power.plan.config["max_moved"] is not None
    # Where draw counts and not caps, who is given less need not draw less.
    return task.config.level_caps and not limited and power.plan.sightings is None
