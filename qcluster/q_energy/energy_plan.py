"""The power plan: from telemetry and topology to caps, predicted power and a job schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.fallback import Certified
from qcluster.plan import Plan, TelemetryRef, merge_warnings
from qcluster.q_energy.capping import CapProblem, solve_caps, spread_spare
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.curves import clock_share
from qcluster.q_energy.jobs import read_jobs, schedule_jobs
from qcluster.q_energy.meta import Choice, MetaState
from qcluster.q_energy.pipelines import (
    Picked,
    Proposal,
    learned_units,
    pick,
    pipelines,
    propose,
    unlearned,
)
from qcluster.q_energy.problem import Schedule, Task, check_watts
from qcluster.q_energy.trace import PowerTrace
from qcluster.q_energy.units import Units, units_from_snapshot, units_from_trace
from qcluster.record import Record
from qcluster.telemetry import Job, Snapshot, Topology

__all__ = ["EnergyPlan", "NodePower", "Savings", "plan_energy", "plan_units"]

# A plan is for its window; readers may hold on to it for a second one before it is stale.
_LIFETIME_WINDOWS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class NodePower(Record):
    """What one node is to do. Watts, MHz.

    ``caps_w`` maps GPU ids (or the node's own id where its GPUs are not known) to power limits;
    ``freq_cap_mhz`` to the clock that the cap amounts to, where the topology lists clocks.
    ``predicted_power_w`` holds p50 and p95 under the caps, hosts included.
    """

    id: str
    active: bool
    caps_w: dict[str, float]
    predicted_power_w: dict[str, float]
    freq_cap_mhz: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Savings(Record):
    """Energy saved in the window against a named baseline, joules and share; may be negative."""

    baseline: str
    energy_j: float
    share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyPlan(Plan):
    """Power caps for a window, within a budget.

    ``objective`` is minus ``throughput``, the sum over units of predicted speed as a share of
    full speed; ``upper_bound`` is the most any caps could reach. ``gpus`` lists the units' ids in
    the order of ``caps_w`` (n,) watts. ``allocated_w`` is what the units are predicted to draw at
    most, ``overhead_w`` what no cap reaches, ``predicted_power_w`` p50 and p95 of the whole.
    ``active_accelerators`` counts by kind. ``schedule`` is the plan of dependent jobs, if any.

    ``pipeline`` made it (see ``pipelines``). With the meta toggle, ``choice`` says who chose that
    and why, ``costs`` what each pipeline would have cost in the last window, ``meta`` what is
    remembered of all windows, and ``proposals`` what the pipelines would set now.
    """

    window_s: float
    budget_w: float
    gpus: tuple[str, ...]
    caps_w: NDArray[np.float64]
    nodes: tuple[NodePower, ...]
    throughput: float
    upper_bound: float | None
    slowdown: float
    allocated_w: float
    overhead_w: float
    predicted_power_w: dict[str, float]
    predicted_savings: Savings
    active_accelerators: dict[str, int]
    schedule: Schedule | None = None
    pipeline: str = "classical"
    choice: Choice | None = None
    meta: MetaState | None = None
    costs: dict[str, float] = field(default_factory=dict)
    proposals: dict[str, Proposal] = field(default_factory=dict)


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
    profiles = [job for job in jobs or () if isinstance(job, Job)]
    picked = pick(config, units, profiles, None)
    where = telemetry.topology if isinstance(telemetry, Snapshot) else _topology(topology)
    schedule = schedule_jobs(
        jobs, config, qaoa="qaoa" in picked.pipeline, topology=where, deadline_s=deadline_s * 0.8,
        seed=seed,
    )  # fmt: skip
    return plan_units(
        units, given, config, picked=picked, ref=ref, schedule=schedule, deadline=deadline,
        seed=seed, topology=where,
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
    seed: int = 0,
) -> EnergyPlan:
    """The plan for units already joined; ``previous`` is the plan in force."""
    warnings = list(units.warnings)
    reasons: dict[str, str] = {}
    if "gnn" in picked.pipeline:
        units, curves = learned_units(units)
        if unknown := unlearned(curves):
            reasons["gnn"] = unknown
    if budget_w is None:
        budget_w = config.budget_share * units.nameplate_w
        warnings.append(
            f"no budget given: {config.budget_share:.0%} of nameplate, {budget_w:.0f} W"
        )
    shared = picked.pipeline != "independent"
    problem, answer = _solve(units, budget_w, config, shared, previous, deadline, warnings)
    proof, caps = answer.certificate, answer.value
    if schedule is not None and schedule.peak_w > budget_w:
        warnings.append(f"the jobs' lowest peak found, {schedule.peak_w:.0f} W, is over the budget")
    allocated = float(np.minimum(caps, units.demand_w).sum())
    overhead = float(units.overhead_w.sum())
    final = caps if problem.held_w is not None else spread_spare(problem, caps)
    return EnergyPlan(
        planner="energy",
        config=config.model_dump(mode="json"),
        seed=seed,
        solver=answer.solver,
        objective=proof.objective,
        lower_bound=proof.lower_bound,
        gap=proof.gap,
        baselines=proof.baselines,
        quantum_gain=proof.quantum_gain,
        reasons={**proof.reasons, **reasons},
        telemetry=ref,
        wall_s=answer.wall_s,
        warnings=merge_warnings(warnings, answer.warnings),
        expires_at=None,
        window_s=config.window_s,
        budget_w=budget_w,
        gpus=units.ids,
        caps_w=final,
        nodes=_nodes(units, caps, final, topology),
        throughput=-proof.objective,
        upper_bound=None if proof.lower_bound is None else -proof.lower_bound,
        slowdown=1.0 + proof.objective / units.n,
        allocated_w=allocated,
        overhead_w=overhead,
        predicted_power_w={
            "p50": overhead + float(np.minimum(caps, units.p50_w).sum()),
            "p95": overhead + allocated,
        },
        predicted_savings=_savings(units, caps, config.window_s),
        active_accelerators=_active(units, topology),
        schedule=schedule,
        pipeline=picked.pipeline,
        choice=picked.choice,
        meta=picked.state,
        costs=picked.costs,
        proposals=propose(problem, final, pipelines(config)) if config.meta else {},
    )


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


def _nodes(
    units: Units,
    caps: NDArray[np.float64],
    final: NDArray[np.float64],
    topology: Topology | None,
) -> tuple[NodePower, ...]:
    low = np.minimum(caps, units.p50_w)
    high = np.minimum(caps, units.demand_w)
    members = np.argsort(units.node, kind="stable")
    ends = np.searchsorted(units.node[members], np.arange(len(units.nodes) + 1))
    clocks = {} if topology is None else {n.id: n.clocks_mhz for n in topology.nodes}
    share = clock_share(caps, units.demand_w, units.idle_w)
    out = []
    for index, name in enumerate(units.nodes):
        mine = members[ends[index] : ends[index + 1]]
        own = float(units.overhead_w[index]) if units.kind == "gpu" else 0.0
        out.append(
            NodePower(
                id=name,
                active=bool(len(mine)) and bool((units.p50_w[mine] > 0).any()),
                caps_w={units.ids[i]: float(final[i]) for i in mine},
                predicted_power_w={
                    "p50": own + float(low[mine].sum()),
                    "p95": own + float(high[mine].sum()),
                },
                freq_cap_mhz=_clocks(clocks.get(name, ()), units, mine, share),
            )
        )
    return tuple(out)


def _clocks(
    clocks: Sequence[int], units: Units, mine: NDArray[np.int64], share: NDArray[np.float64]
) -> dict[str, int]:
    """The highest listed clock that draws no more than the cap."""
    if not clocks:
        return {}
    steps = np.sort(np.asarray(clocks))
    at = np.searchsorted(steps, share[mine] * steps[-1] + 1e-9, side="right") - 1
    return {units.ids[i]: int(steps[max(k, 0)]) for i, k in zip(mine, at, strict=True)}


def _savings(units: Units, caps: NDArray[np.float64], window_s: float) -> Savings:
    """Energy of the window under the caps against the same window uncapped."""
    before = float(units.p50_w.sum() + units.overhead_w.sum())
    after = float(np.minimum(caps, units.p50_w).sum() + units.overhead_w.sum())
    saved = (before - after) * window_s
    share = (before - after) / before if before > 0 else 0.0
    return Savings(baseline="uncapped draw", energy_j=saved, share=share)


def _active(units: Units, topology: Topology | None) -> dict[str, int]:
    counts = {units.kind: int((units.p50_w > 0).sum())}
    for item in () if topology is None else topology.accelerators:
        # Nothing is sent to one unless that is predicted to save energy; no model here says so.
        counts.setdefault(item.kind, 0)
    return counts


def _units(
    telemetry: Any, topology: Topology | None, config: EnergyConfig
) -> tuple[Units, TelemetryRef]:
    if isinstance(telemetry, Snapshot):
        ref = TelemetryRef(
            snapshot_hash=telemetry.hash, age_s=telemetry.age_s(), simulated=telemetry.simulated
        )
        return units_from_snapshot(telemetry, config), ref
    trace = as_trace(telemetry)
    return units_from_trace(trace, topology, config), TelemetryRef()


def as_trace(telemetry: Any) -> PowerTrace:
    """A PowerTrace from what users have: one already, a path, or a pandas DataFrame."""
    if isinstance(telemetry, PowerTrace):
        return telemetry
    if isinstance(telemetry, (str, Path)):
        from qcluster.q_energy.formats import read_trace

        return read_trace(telemetry)
    if hasattr(telemetry, "columns"):
        missing = [name for name in ("ts_s", "node", "power_w") if name not in telemetry.columns]
        if missing:
            raise InputError("the frame lacks this column", field=missing[0])
        names = telemetry["node"].astype(str).to_numpy(dtype=str)
        if "gpu" in telemetry.columns:
            gpu = telemetry["gpu"].astype(str).to_numpy(dtype=str)
            names = np.char.add(np.char.add(names, "/"), gpu)
        times = telemetry["ts_s"].to_numpy(dtype=float)
        watts = telemetry["power_w"].to_numpy(dtype=float)
        return PowerTrace.of(names, times, watts, first_row=0)
    raise InputError(
        f"wants a Snapshot, PowerTrace, DataFrame or path, got {type(telemetry).__name__}",
        field="telemetry",
    )


def _topology(topology: Topology | str | Path | Mapping[str, Any] | None) -> Topology | None:
    if isinstance(topology, (str, Path)):
        return Topology.read(topology)
    if isinstance(topology, Mapping):
        return Topology.parse(topology)
    return topology
