"""The live planner: expert loads from telemetry in, sticky placements out.

It looks at the newest windows of load, forgets what was before a switch of domain, leaves a plan
alone that is balanced enough, and otherwise replans within the move budget. GPUs that do not
answer hold nothing in the new plan.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import NotReady, SolverFailed
from qcluster.fallback import Candidate, Stage, certified
from qcluster.plan import Plan, TelemetryRef
from qcluster.q_routing.bounds import tighten
from qcluster.q_routing.config import PlacementConfig
from qcluster.q_routing.placement import keep, place, verify_placement
from qcluster.q_routing.problem import Placement, PlacementProblem, balancedness, gpu_loads
from qcluster.q_routing.sticky import align, improve
from qcluster.q_routing.windows import blend
from qcluster.telemetry import Snapshot

__all__ = ["PlacementPlan", "RoutingPlanner"]


def _no_loads() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacementPlan(Plan):
    """A placement in its envelope. The objective is 1 / balancedness on the load planned for.

    ``balancedness_before`` and ``balancedness_after`` are of the plan in force (without one: the
    experts in order) and of the new one on the planned load; ``balancedness_next`` is what the
    plan in force reached on the newest window, which it had not seen, or None. ``gpu_load_before``
    and ``gpu_load_after`` (gpus,) are sums over layers. ``moved_slots`` counts slots whose expert
    changes; ``switched`` says whether a switch of domain was seen; ``kept`` whether the plan in
    force stays.
    """

    placement: Placement
    gpu_ids: tuple[str, ...]
    balancedness_before: float
    balancedness_after: float
    balancedness_next: float | None
    upper_bound: float
    moved_slots: int
    switched: bool = False
    kept: bool = False
    gpu_load_before: NDArray[np.float64] = field(default_factory=_no_loads)
    gpu_load_after: NDArray[np.float64] = field(default_factory=_no_loads)
    load: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


@dataclass(frozen=True, eq=False)
class _Task:
    """What one replan is about."""

    load: NDArray[np.float64]
    problem: PlacementProblem
    max_moved: float
    previous: Placement | None


class RoutingPlanner:
    """Plans expert placement from a snapshot's ``expert_load``."""

    name: ClassVar[str] = "routing"
    plan_type: ClassVar[type[Plan]] = PlacementPlan

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = PlacementConfig.read(config)

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],
        *,
        deadline: Deadline,
    ) -> PlacementPlan:
        """A placement for the newest loads.

        Raises NotReady when the snapshot has no GPUs, no load, or only zeros; InputError when the
        configured slots cannot hold the experts.
        """
        del peers  # the joint planner brings power and links in
        return self.plan_at(snapshot, previous, None, deadline=deadline)

    def plan_at(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        speed: NDArray[np.float64] | None,
        *,
        deadline: Deadline,
    ) -> PlacementPlan:
        """``plan`` for GPUs of unequal speed: (gpus,) relative, above 0; None takes all alike."""
        windows = _windows(snapshot, self.config)
        load, switch = blend(windows, self.config.memory, self.config.switch_distance)
        task = self._task(load, snapshot, previous, speed)
        in_force = task.previous
        found = certified(
            task,
            stages=(Stage("replan", _replan),),
            fallback=Stage("keep" if in_force is not None else "in_order", _keep),
            verify=lambda t, p: verify_placement(t.problem, p.slots),
            deadline=deadline,
        )
        chosen, kept = self._choose(found.value, task)
        return self._report(found, chosen, kept, task, snapshot, windows[-1], switch)

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        """Raise SolverFailed unless the plan fits the snapshot's GPUs and its claims hold."""
        if not isinstance(plan, PlacementPlan):
            raise SolverFailed(f"is a {type(plan).__name__}, not a placement")
        if plan.gpu_ids != snapshot.topology.gpu_ids:
            raise SolverFailed("the cluster has other GPUs than the plan")
        placement = plan.placement
        dead = ~snapshot.alive[placement.gpu_of_slot]
        if (placement.slots[:, dead] >= 0).any():
            lost = snapshot.topology.gpu_ids[int(placement.gpu_of_slot[dead][0])]
            raise SolverFailed(f"places experts on {lost}, which does not answer")
        problem = PlacementProblem(
            plan.load[None],
            np.searchsorted(placement.gpu_of_slot, np.arange(placement.num_gpus + 1)),
            placement.speed,
            1,
            1,
            "global",
        )
        verify_placement(problem, placement.slots)
        again = placement.balancedness_on(plan.load)
        if abs(again - plan.balancedness_after) > 1e-6:
            raise SolverFailed(f"claims balancedness {plan.balancedness_after}, has {again}")

    def warm_up(self) -> None:
        """Compile every kernel that a plan may need, on a problem of four GPUs."""
        load = np.arange(16.0).reshape(1, 2, 8) ** 3 + 1
        problem = PlacementProblem.of(load, num_slots=12, num_gpus=4)
        for deadline in (Deadline.never(), Deadline.after(3600.0)):
            first = place(problem, None, None, deadline)
            other = np.ascontiguousarray(first.slots[::-1])
            place(problem, other, 0.5, deadline)
        improve(problem, first.slots, deadline)
        for exact in (True, False):
            align(problem, first.slots, other, deadline, exact)
        tighten(
            np.ones((1, 2)), np.full((1, 2), 1e9), load, np.full(4, 3), np.ones(4), 0.0, deadline
        )

    def _task(
        self,
        load: NDArray[np.float64],
        snapshot: Snapshot,
        previous: Plan | None,
        speed: NDArray[np.float64] | None,
    ) -> _Task:
        topology = snapshot.topology
        gpus, experts = len(topology.gpu_ids), load.shape[1]
        arguments: dict[str, Any] = {
            "num_slots": self.config.num_slots or _default_slots(experts, gpus),
            "num_gpus": gpus,
            "num_nodes": len(topology.nodes) if self.config.mode == "hierarchical" else 1,
            "num_groups": self.config.num_groups,
            "mode": self.config.mode,
            "alive": snapshot.alive,
            "speed": speed,
        }
        problem = PlacementProblem.of(load, **arguments)
        in_force = previous.placement if isinstance(previous, PlacementPlan) else None
        if isinstance(previous, PlacementPlan) and (
            previous.gpu_ids != topology.gpu_ids
            or in_force is None
            or in_force.slots.shape != (len(load), problem.num_slots)
            or in_force.num_experts != experts
        ):
            in_force = None
        return _Task(load, problem, self.config.max_moved, in_force)

    def _choose(self, found: Placement, task: _Task) -> tuple[Placement, bool]:
        """The placement to publish, and whether it is the one in force."""
        in_force = task.previous
        if in_force is None or not _holds(task, in_force):
            return found, False
        loads = gpu_loads(
            in_force.slots, task.problem.gpu_of_slot, task.load, len(task.problem.speed)
        )
        before = balancedness(loads, task.problem.speed)
        gain = found.balancedness - before
        if before >= self.config.balanced_enough or gain < self.config.min_gain:
            return _renewed(in_force, before, found), True
        return found, False

    def _report(
        self,
        found: Any,
        chosen: Placement,
        kept: bool,
        task: _Task,
        snapshot: Snapshot,
        newest: NDArray[np.float64],
        switch: bool,
    ) -> PlacementPlan:
        before = task.previous.slots if task.previous is not None else _in_order(task.problem)
        owner, gpus, speed = task.problem.gpu_of_slot, len(snapshot.alive), task.problem.speed
        loads = gpu_loads(before, owner, task.load, gpus)
        now = time.time()
        objective = 1.0 / chosen.balancedness
        certificate = found.certificate
        lower = min(certificate.lower_bound or 1.0, objective)
        after = chosen.balancedness_on(task.load)
        return PlacementPlan(
            planner=self.name,
            config=self.config.model_dump(),
            seed=0,
            solver=found.solver,
            objective=objective,
            lower_bound=lower,
            gap=(objective - lower) / objective,
            baselines=certificate.baselines,
            quantum_gain=certificate.quantum_gain,
            reasons=dict(certificate.reasons),
            telemetry=TelemetryRef(
                snapshot_hash=snapshot.hash,
                age_s=snapshot.age_s(now),
                simulated=snapshot.simulated,
            ),
            wall_s=found.wall_s,
            warnings=list(found.warnings),
            created_at=now,
            expires_at=now + self.config.expires_s,
            placement=chosen,
            gpu_ids=snapshot.topology.gpu_ids,
            balancedness_before=balancedness(loads, speed),
            balancedness_after=after,
            balancedness_next=task.previous.balancedness_on(newest) if task.previous else None,
            upper_bound=chosen.upper_bound,
            moved_slots=len(chosen.moves),
            switched=switch,
            kept=kept,
            gpu_load_before=loads.sum(axis=0),
            gpu_load_after=chosen.gpu_loads(task.load).sum(axis=0),
            load=task.load,
        )


def _windows(snapshot: Snapshot, config: PlacementConfig) -> NDArray[np.float64]:
    if not snapshot.topology.gpu_ids:
        raise NotReady("the telemetry shows no GPUs yet")
    if snapshot.expert_load is None or not snapshot.expert_load.size:
        raise NotReady("the telemetry has no expert loads yet")
    if not snapshot.alive.any():
        raise NotReady("no GPU answers")
    windows = np.asarray(snapshot.expert_load, dtype=np.float64)[-config.windows :]
    if not np.isfinite(windows).all() or (windows < 0).any():
        raise NotReady("the newest expert loads are not finite counts of at least 0")
    if windows[-1].sum() <= 0:
        raise NotReady("the newest window of expert loads is all zero")
    return windows


def _default_slots(experts: int, gpus: int) -> int:
    """Experts and at least one spare slot a GPU, the same number on every GPU."""
    return gpus * (-(-experts // gpus) + 1)


def _in_order(problem: PlacementProblem) -> NDArray[np.int64]:
    """Experts in order over the slots of live GPUs, starting over when they are used up; in
    hierarchical mode each node takes its even part of them.
    """
    layers, experts = problem.load.shape[1:]
    owner = problem.gpu_of_slot
    place = np.arange(problem.num_slots) - problem.slot_start[owner]
    usable = (problem.speed[owner] > 0) & (place < experts)
    slots = np.full((layers, problem.num_slots), -1, dtype=np.int64)
    nodes = problem.num_nodes if problem.mode == "hierarchical" else 1
    part = experts // nodes
    for node in range(nodes):
        here = np.flatnonzero(usable & (owner * nodes // problem.num_gpus == node))
        slots[:, here] = node * part + np.arange(len(here)) % part
    return slots


def _holds(task: _Task, placement: Placement) -> bool:
    try:
        verify_placement(task.problem, placement.slots)
    except SolverFailed:
        return False
    return True


def _keep(task: _Task, **_: Any) -> Candidate[Placement]:
    """The plan in force, or experts in order, with only what must change changed."""
    start = task.previous.slots if task.previous is not None else _in_order(task.problem)
    found = keep(task.problem, start)
    return Candidate(found, 1.0 / found.balancedness, 1.0 / found.upper_bound)


def _replan(task: _Task, *, deadline: Deadline, **_: Any) -> Candidate[Placement]:
    before = None if task.previous is None else task.previous.slots
    found = place(task.problem, before, task.max_moved, deadline.share(0.8))
    return Candidate(found, 1.0 / found.balancedness, 1.0 / found.upper_bound)


def _renewed(in_force: Placement, before: float, found: Placement) -> Placement:
    """The placement in force with its figures on the new load and no moves."""
    return Placement(
        slots=in_force.slots,
        gpu_of_slot=in_force.gpu_of_slot,
        num_experts=in_force.num_experts,
        num_gpus=in_force.num_gpus,
        balancedness=before,
        upper_bound=max(found.upper_bound, before),
        speed=found.speed,
        mode=in_force.mode,
    )
