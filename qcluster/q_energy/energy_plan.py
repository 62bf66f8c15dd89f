"""The power plan: from telemetry and topology to caps, predicted power and a job schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import SolverFailed
from qcluster.fallback import Certified
from qcluster.plan import TelemetryRef, merge_warnings
from qcluster.q_energy.capping import CapProblem, solve_caps, spread_spare
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.demand import Demand
from qcluster.q_energy.dispatch import Dispatch, dispatch_jobs, dispatched, with_accelerators
from qcluster.q_energy.draw import seen_units, solve_draw
from qcluster.q_energy.identify import Sightings
from qcluster.q_energy.jobs import read_jobs, schedule_jobs
from qcluster.q_energy.nets import nets_in
from qcluster.q_energy.node_power import active_counts, node_powers, savings
from qcluster.q_energy.pipelines import (
    Picked,
    learned_units,
    pick,
    pipelines,
    propose,
    unlearned,
)
from qcluster.q_energy.plan import EnergyPlan, Proposal
from qcluster.q_energy.problem import Schedule, Task, check_watts
from qcluster.q_energy.traces import as_trace
from qcluster.q_energy.units import (
    Units,
    believable,
    sighted,
    units_from_snapshot,
    units_from_trace,
)
from qcluster.telemetry import Job, Snapshot, Topology

__all__ = ["plan_energy", "plan_units"]

# A plan is for its window; readers may hold on to it for a second one before it is stale.
_LIFETIME_WINDOWS = 2.0
# Time between two plans where there is none yet, seconds.
_PERIOD_S = 2.0
# How much of the time for the answer jobs' schedules may take.
_SCHEDULE_SHARE = 0.8


def plan_energy(
    telemetry: Any,
    topology: Topology | str | Path | Mapping[str, Any] | None = None,
    *,
    jobs: Sequence[Job] | Sequence[Task] | str | Path | None = None,
    budget_w: float | None = None,
    config: EnergyConfig | Mapping[str, Any] | None = None,
    deadline_s: float = 1.0,
    seed: int = 0,
) -> EnergyPlan:
    """A power plan for what the telemetry shows.

    Parameters
    ----------
    telemetry: a Snapshot, a PowerTrace, a pandas DataFrame with ts_s, node, power_w (and
        optionally gpu), or the path of a file that ``read_trace`` understands.
    topology: a Topology, its file or its content; None plans whole nodes.
    jobs: Job profiles or Tasks (or the path of a jobs or PSPLIB file); those with duration and
        power get a schedule with a low peak.
    budget_w: watts for everything; overrides the configuration's.
    deadline_s: seconds for the answer.

    Raises InputError for bad input; Infeasible naming the smallest feasible budget; NotReady when
    a snapshot has no power.
    """
    config = EnergyConfig.read(config)
    units, ref = _units(telemetry, _topology(topology), config)
    given = check_watts(budget_w, "budget_w") if budget_w is not None else config.budget_w
    deadline = Deadline.after(deadline_s)
    if isinstance(jobs, (str, Path)):
        jobs = read_jobs(jobs)
    sightings = None
    if config.hold == "draw" and isinstance(telemetry, Snapshot):
        sightings = sighted(telemetry, None)
    elif config.hold == "draw":
        line = "hold draw needs live telemetry: for a recorded trace the sum of caps is held"
        units = dataclasses.replace(units, warnings=(*units.warnings, line))
    profiles = [job for job in jobs or () if isinstance(job, Job)]
    nets = nets_in(config.weights)
    picked = pick(config, units, profiles, None, nets)
    where = telemetry.topology if isinstance(telemetry, Snapshot) else _topology(topology)
    dispatch = dispatch_jobs(profiles, where)
    schedule = schedule_jobs(
        dispatched(jobs, dispatch), config, qaoa="qaoa" in picked.pipeline, topology=where,
        deadline_s=deadline_s * _SCHEDULE_SHARE, seed=seed, net=nets.curves,
    )  # fmt: skip
    # A schedule that took too long, such as the first one of a process, must not cost the caps.
    left = Deadline.after(max(deadline.remaining(), (1.0 - _SCHEDULE_SHARE) * deadline_s))
    return plan_units(
        units, given, config, picked=picked, ref=ref, schedule=schedule, deadline=left,
        seed=seed, topology=where, sightings=sightings, dispatch=dispatch,
    )  # fmt: skip


def plan_units(
    units: Units,
    budget_w: float | None,
    config: EnergyConfig,
    *,
    picked: Picked,
    ref: TelemetryRef,
    deadline: Deadline,
    topology: Topology | None = None,
    previous: EnergyPlan | None = None,
    schedule: Schedule | None = None,
    demand: Demand | None = None,
    sightings: Sightings | None = None,
    dispatch: tuple[Dispatch, ...] = (),
    seed: int = 0,
) -> EnergyPlan:
    """The plan for units already joined, after ``previous``; with ``sightings`` the draw predicted
    under the caps stays within the budget, without them the sum of caps.
    """
    units, reasons = _with_curves(with_accelerators(units, dispatch), picked)
    warnings = list(units.warnings)
    if config.meta and sightings is not None:
        reasons["meta"] = "with hold draw all pipelines share one budget alike: nothing is learned"
    if budget_w is None:
        budget_w = _default_budget(units, config, warnings)
    found = _found(
        units, budget_w, config, picked.pipeline != "independent", previous, sightings, deadline,
        warnings,
    )  # fmt: skip
    units = found.units
    if schedule is not None and schedule.peak_w > budget_w:
        warnings.append(
            f"the jobs' lowest peak found, {schedule.peak_w:.0f} W, is "
            f"{schedule.peak_w - budget_w:.0f} W over the budget"
        )
    return EnergyPlan(
        **_proven(found, reasons, warnings),
        **_watts(found, topology),
        planner="energy",
        config=config.model_dump(mode="json"),
        seed=seed,
        telemetry=ref,
        expires_at=None,
        window_s=config.window_s,
        budget_w=budget_w,
        gpus=units.ids,
        predicted_savings=savings(units, found.answer.value, config.window_s),
        active_accelerators=active_counts(units, topology, dispatch),
        dispatch=dispatch,
        schedule=schedule,
        pipeline=picked.pipeline,
        choice=picked.choice,
        meta=picked.state,
        costs=picked.costs,
        proposals=_proposals(found, config, picked),
        pipeline_table={} if picked.state is None else picked.state.table(),
        demand=demand,
        sightings=sightings,
        reserve_w=found.reserve_w,
    )


def _default_budget(units: Units, config: EnergyConfig, warnings: list[str]) -> float:
    budget_w = config.budget_share * units.nameplate_w
    warnings.append(f"no budget given: {config.budget_share:.0%} of nameplate, {budget_w:.0f} W")
    return budget_w


def _with_curves(units: Units, picked: Picked) -> tuple[Units, dict[str, str]]:
    """Units with the learned curves that the pipeline asks for, and why some have none."""
    if "gnn" not in picked.pipeline:
        return units, {}
    learned, curves = learned_units(units, picked.nets.curves)
    unknown = unlearned(curves)
    return learned, {"gnn": unknown} if unknown else {}


def _proven(found: _Found, reasons: dict[str, str], warnings: list[str]) -> dict[str, Any]:
    """The plan's fields that its certificate fills."""
    answer, proof = found.answer, found.answer.certificate
    return {
        "solver": answer.solver,
        "objective": proof.objective,
        "lower_bound": proof.lower_bound,
        "gap": proof.gap,
        "baselines": proof.baselines,
        "quantum_gain": proof.quantum_gain,
        "reasons": {**proof.reasons, **reasons},
        "wall_s": answer.wall_s,
        "warnings": merge_warnings(warnings, answer.warnings),
        "throughput": found.throughput,
        "upper_bound": None if proof.lower_bound is None else -proof.lower_bound,
        "slowdown": 1.0 - found.throughput / found.units.n,
    }


def _watts(found: _Found, topology: Topology | None) -> dict[str, Any]:
    """The plan's fields that its caps fill."""
    units, caps = found.units, found.answer.value
    overhead = float(units.overhead_w.sum())
    return {
        "caps_w": found.final_w,
        "nodes": node_powers(units, caps, found.final_w, topology),
        "allocated_w": found.allocated_w,
        "overhead_w": overhead,
        "predicted_power_w": {
            "p50": overhead + float(np.minimum(caps, units.p50_w).sum()),
            "p95": overhead + found.allocated_w,
        },
    }


@dataclass(frozen=True)
class _Found:
    """Caps and what goes with them: ``final_w`` (n,) are set, ``problem`` is None where draw
    counts.
    """

    units: Units
    answer: Certified[NDArray[np.float64]]
    final_w: NDArray[np.float64]
    allocated_w: float
    throughput: float
    reserve_w: float = 0.0
    problem: CapProblem | None = None


def _found(
    units: Units,
    budget_w: float,
    config: EnergyConfig,
    shared: bool,
    previous: EnergyPlan | None,
    sightings: Sightings | None,
    deadline: Deadline,
    warnings: list[str],
) -> _Found:
    """Caps whose predicted draw (with sightings) or whose sum stays within the budget."""
    if sightings is not None:
        units = seen_units(units, sightings)
        drawn, answer, reserve = solve_draw(
            units, sightings, budget_w, shared=shared, period_s=_period(sightings, previous),
            mean_s=config.budget_mean_s, deadline=deadline,
        )  # fmt: skip
        allocated = float(drawn.of_caps(answer.value, drawn.draw_w).sum())
        speed = float(drawn.of_caps(answer.value, drawn.speed).sum())
        return _Found(units, answer, answer.value, allocated, speed, reserve)
    problem, answer = _solve(units, budget_w, config, shared, previous, deadline, warnings)
    caps = answer.value
    allocated = float(np.minimum(caps, units.demand_w).sum())
    final = spread_spare(problem, caps) if problem.held_w is None else caps
    speed = -answer.certificate.objective
    return _Found(units, answer, final, allocated, speed, problem=problem)


def _proposals(found: _Found, config: EnergyConfig, picked: Picked) -> dict[str, Proposal]:
    if not config.meta or found.problem is None:
        return {}
    return propose(found.problem, found.final_w, pipelines(config), picked.nets.curves)


def _period(sightings: Sightings, previous: EnergyPlan | None) -> float:
    """Seconds between two plans, 0.02 to 60: no power sensor is faster than the first."""
    before = None if previous is None else previous.sightings
    return _PERIOD_S if before is None else min(max(sightings.ts_s - before.ts_s, 0.02), 60.0)


def _solve(
    units: Units,
    budget_w: float,
    config: EnergyConfig,
    shared: bool,
    previous: EnergyPlan | None,
    deadline: Deadline,
    warnings: list[str],
) -> tuple[CapProblem, Certified[NDArray[np.float64]]]:
    """Solve within ramp and move budget where that is possible; the budget always wins."""
    limited = config.max_ramp_w is not None or config.max_moved is not None
    if limited and previous is not None and previous.gpus == units.ids:
        problem = CapProblem.of(
            units, budget_w, held_w=previous.caps_w, max_moved=config.max_moved,
            max_ramp_w=config.max_ramp_w,
        )  # fmt: skip
        try:
            return problem, solve_caps(problem, shared=shared, deadline=deadline)
        except SolverFailed as error:
            warnings.append(f"ramp and move limits lifted, the caps in force do not fit: {error}")
    problem = CapProblem.of(units, budget_w)
    return problem, solve_caps(problem, shared=shared, deadline=deadline)


def _units(
    telemetry: Any, topology: Topology | None, config: EnergyConfig
) -> tuple[Units, TelemetryRef]:
    if isinstance(telemetry, Snapshot):
        ref = TelemetryRef(
            snapshot_hash=telemetry.hash, age_s=telemetry.age_s(), simulated=telemetry.simulated
        )
        screened, lines = believable(telemetry)
        units = units_from_snapshot(screened, config)
        return dataclasses.replace(units, warnings=(*lines, *units.warnings)), ref
    trace = as_trace(telemetry, last_s=config.window_s)
    return units_from_trace(trace, topology, config), TelemetryRef()


def _topology(topology: Topology | str | Path | Mapping[str, Any] | None) -> Topology | None:
    if isinstance(topology, (str, Path)):
        return Topology.read(topology)
    if topology is None or isinstance(topology, Topology):
        return topology
    return Topology.parse(topology)
