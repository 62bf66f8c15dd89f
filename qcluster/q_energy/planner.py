"""The live planner: snapshots in, power plans out, within ramp and move budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.plan import Plan, TelemetryRef
from qcluster.q_energy import draw
from qcluster.q_energy.budget import allocate_budget
from qcluster.q_energy.capping import predicted_speed
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.dispatch import Dispatch, dispatch_jobs, dispatched, with_accelerators
from qcluster.q_energy.energy_plan import plan_units
from qcluster.q_energy.jobs import schedule_jobs
from qcluster.q_energy.levelling import load_kernels
from qcluster.q_energy.nets import Nets, readable_nets
from qcluster.q_energy.pipelines import learned_units, pick
from qcluster.q_energy.plan import EnergyPlan
from qcluster.q_energy.problem import Curve, Schedule
from qcluster.q_energy.units import believable, sighted, units_from_snapshot, watched
from qcluster.telemetry import Snapshot

__all__ = ["EnergyPlanner", "limited"]


class EnergyPlanner:
    """Power caps for every GPU from live telemetry.

    Parameters
    ----------
    config: the fields of ``EnergyConfig``.
    """

    name: ClassVar[str] = "energy"
    plan_type: ClassVar[type[Plan]] = EnergyPlan

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = EnergyConfig.read(config)
        self._scheduled: tuple[Any, Schedule | None] = (None, None)
        self._nets: Nets | None = None

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],
        *,
        deadline: Deadline,
    ) -> EnergyPlan:
        """Caps within the budget; NotReady when the snapshot has no topology or no power."""
        del peers  # power is planned first; the others follow it
        whole, (snapshot, left_out) = snapshot, limited(snapshot)
        in_force = previous if isinstance(previous, EnergyPlan) else None
        same = in_force is not None and in_force.gpus == snapshot.topology.gpu_ids
        demand = watched(snapshot, in_force.demand if in_force is not None and same else None)
        sightings = None
        if self.config.hold == "draw":
            before = in_force.sightings if in_force is not None and same else None
            sightings = sighted(snapshot, before)
        units = units_from_snapshot(snapshot, self.config, demand)
        seconds = min(0.5 * deadline.remaining(), 1.0)
        dispatch = dispatch_jobs(snapshot.jobs, snapshot.topology)
        nets, unread = readable_nets(self.config.weights, self._nets)
        self._nets, left_out = nets, [*left_out, *unread]
        picked = pick(self.config, units, snapshot.jobs, in_force, nets)
        schedule = None
        try:
            schedule = self._schedule(snapshot, dispatch, "qaoa" in picked.pipeline, seconds, nets)
        except InputError as error:
            # A job that waits for itself or is late already must not leave all GPUs uncapped.
            left_out = [*left_out, f"the jobs are not scheduled: {error}"]
        plan = plan_units(
            units,
            self.config.budget_w,
            self.config,
            picked=picked,
            ref=TelemetryRef(
                snapshot_hash=whole.hash,
                age_s=whole.age_s(),
                simulated=snapshot.simulated,
            ),
            deadline=deadline,
            topology=snapshot.topology,
            previous=in_force,
            demand=demand,
            sightings=sightings,
            dispatch=dispatch,
            schedule=schedule,
        )
        return dataclasses.replace(plan, warnings=[*left_out, *plan.warnings])

    def _schedule(
        self,
        snapshot: Snapshot,
        dispatch: tuple[Dispatch, ...],
        qaoa: bool,
        seconds: float,
        nets: Nets,
    ) -> Schedule | None:
        """The jobs' schedule; made anew only when what it depends on has changed."""
        topology = snapshot.topology
        key = (snapshot.jobs, topology.nodes, topology.accelerators, qaoa, nets)
        if key != self._scheduled[0]:
            made = schedule_jobs(
                dispatched(snapshot.jobs, dispatch),
                self.config,
                qaoa=qaoa,
                topology=topology,
                deadline_s=seconds,
                net=nets.curves,
            )
            if made is not None and made.peak_w > made.lower_bound * (1 + 1e-9):
                return made  # more time may find a better one
            self._scheduled = (key, made)
        return self._scheduled[1]

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        """Raise SolverFailed unless the caps can be set and keep the budget.

        Recomputed from the plan's caps and the topology: every GPU has one cap within its limits,
        and caps with what no cap reaches stay within the budget. On the plan's own snapshot the
        claimed throughput is recomputed as well.
        """
        if not isinstance(plan, EnergyPlan):
            raise SolverFailed(f"wants an EnergyPlan, got {type(plan).__name__}")
        whole, (snapshot, _) = snapshot, limited(snapshot)
        topology = snapshot.topology
        if plan.gpus != topology.gpu_ids:
            raise SolverFailed("the plan's GPUs are not the topology's")
        owner = topology.owner
        low = np.array([node.min_w for node in topology.nodes])[owner]
        high = np.array([node.max_w for node in topology.nodes])[owner]
        caps = plan.caps_w
        if caps.shape != low.shape or not np.isfinite(caps).all():
            raise SolverFailed("the plan has not one finite cap a GPU")
        outside = (caps < low - 1e-6) | (caps > high + 1e-6)
        if outside.any():
            worst = int(np.argmax(outside))
            raise SolverFailed(
                f"cap {caps[worst]:g} W of {plan.gpus[worst]} is outside "
                f"{low[worst]:g} to {high[worst]:g} W"
            )
        counted = caps
        if plan.config["hold"] == "draw":
            counted = self._counted(plan, snapshot)
        total = float(counted.sum()) + plan.overhead_w
        if total > plan.budget_w * (1 + 1e-9) + 1e-3:
            raise SolverFailed(f"caps count for {total:g} W, the budget is {plan.budget_w:g} W")
        if plan.telemetry.snapshot_hash == whole.hash:
            self._verify_claim(plan, snapshot)

    def warm_up(self) -> None:
        """Compile the kernels."""
        load_kernels()
        draw.load_kernels()
        allocate_budget([Curve(np.array([1.0, 2.0]), np.array([1.0, 2.0]))], budget_w=1.5)

    def _counted(self, plan: EnergyPlan, snapshot: Snapshot) -> NDArray[np.float64]:
        """(n,) watts that each cap lets its GPU draw, as far as its demand is known."""
        if plan.sightings is None:
            raise SolverFailed("counts draw, but names nothing that was seen")
        units = units_from_snapshot(snapshot, EnergyConfig.read(plan.config), plan.demand)
        return draw.drawn_under(units, plan.sightings, plan.caps_w)

    def _verify_claim(self, plan: EnergyPlan, snapshot: Snapshot) -> None:
        units = units_from_snapshot(snapshot, EnergyConfig.read(plan.config), plan.demand)
        if "gnn" in plan.pipeline:
            units, _ = learned_units(
                units, readable_nets(plan.config.get("weights"), self._nets)[0].curves
            )
        overhead = float(with_accelerators(units, plan.dispatch).overhead_w.sum())
        if abs(overhead - plan.overhead_w) > 1e-3 + 1e-9 * overhead:
            raise SolverFailed(f"claims {plan.overhead_w:g} W beyond caps, it is {overhead:g} W")
        if plan.sightings is not None:
            most = draw.claimed_speed(units, plan.sightings, plan.caps_w)
            if plan.throughput > most + 1e-6 * max(1.0, most):
                raise SolverFailed(f"claims throughput {plan.throughput:g}, its caps give {most:g}")
            return
        # Spare watts only raise caps, so the speed under the final caps is at least what was
        # claimed for the allocation before.
        most = float(predicted_speed(units, plan.caps_w).sum())
        if plan.throughput > most + 1e-6 * max(1.0, most):
            raise SolverFailed(f"claims throughput {plan.throughput:g}, its caps give {most:g}")


def limited(snapshot: Snapshot) -> tuple[Snapshot, list[str]]:
    """The part of a snapshot whose nodes have known power limits and whose readings can be
    believed, and what was left out.

    A GPU that somebody pushes readings of, without saying what it is, must not stop the planning
    of all others.
    """
    snapshot, lines = believable(snapshot)
    topology = snapshot.topology
    known = np.array([node.max_w > 0 or not node.gpus for node in topology.nodes], dtype=bool)
    if known.all():
        return snapshot, lines
    gpus = known[topology.owner]
    nodes = tuple(node for node, keep in zip(topology.nodes, known, strict=True) if keep)
    part = dataclasses.replace(
        snapshot,
        topology=dataclasses.replace(topology, nodes=nodes),
        alive=snapshot.alive[gpus],
        gpu={name: values[gpus] for name, values in snapshot.gpu.items()},
        gpu_quality={name: marks[gpus] for name, marks in snapshot.gpu_quality.items()},
        node={name: values[known] for name, values in snapshot.node.items()},
        power_w=snapshot.power_w[:, known] if snapshot.power_w.size else snapshot.power_w,
    )
    first = topology.nodes[int(np.argmin(known))].id
    count = int(np.count_nonzero(~gpus))
    line = f"{count} GPUs without known power limits are left out, of '{first}' for one"
    return part, [*lines, line]
