"""``plan_fabric``: jobs and a fabric in; placement, routes, loads, rounds and a bound out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import FormatError, Infeasible, InputError
from qcluster.fallback import Candidate, Certified, CircuitBreaker, Stage, certified
from qcluster.moves import MoveBudget
from qcluster.plan import Certificate, Plan, TelemetryRef, merge_warnings
from qcluster.q_nvlink.config import NVLinkConfig
from qcluster.q_nvlink.contention.cases import THRESHOLD
from qcluster.q_nvlink.contention.features import FEATURES, layout_features
from qcluster.q_nvlink.contention.model import ContentionModel, default_model
from qcluster.q_nvlink.contention.suggest import run_classified
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.q_nvlink.placement import run_best_subsets, run_first_fit, verify_placement
from qcluster.q_nvlink.problem import Admission, Placement, PlacementProblem, admit
from qcluster.q_nvlink.rl.assign import Assignment, assign_routes
from qcluster.q_nvlink.rl.policy import RoutePolicy
from qcluster.q_nvlink.rounds import Transfer, plan_rounds
from qcluster.q_nvlink.routes import Route, list_routes
from qcluster.q_nvlink.select import effective_bandwidth
from qcluster.record import Record
from qcluster.telemetry import Job

__all__ = ["JobPlan", "Models", "NVLinkPlan", "plan_fabric"]

_BREAKER = CircuitBreaker()
_LARGE = 512  # GPUs beyond which a plan that is late leaves out the layout's description


@dataclass(frozen=True)
class Models:
    """Learned parts that stand in for the shipped ones: refitted, or loaded from files."""

    contention: ContentionModel | None = None
    routes: RoutePolicy | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Models:
        """What ``qcluster train`` left in a directory, one of the two or both.

        Raises FormatError when neither is there, or a file is damaged.
        """
        classifier, routes = (
            Path(folder) / f"nvlink-{name}.safetensors" for name in ("classifier", "rl")
        )
        if not (classifier.exists() or routes.exists()):
            raise FormatError("holds no nvlink-classifier or nvlink-rl weights", file=folder)
        return cls(
            ContentionModel.load(classifier) if classifier.exists() else None,
            RoutePolicy.load(routes) if routes.exists() else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class JobPlan(Record):
    """Where a job runs: GPUs in order of ranks and their all-gather bandwidth, effective GB/s.

    Without ``bandwidth_exact`` time ran out and the bandwidth is an upper bound.
    """

    id: str
    gpus: tuple[NodeId, ...]
    bandwidth_gb_s: float
    bandwidth_exact: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class NVLinkPlan(Plan):
    """A fabric plan. ``objective`` is the seconds of one step of all jobs together.

    ``assignment`` maps a job's id to its GPUs in order of ranks. ``link_loads`` maps a link's id to
    its share of the step in use, 0 to 1: 1 is the busiest link. ``link_seconds`` are the same in
    seconds; ``measured_loads`` are telemetry's rates as shares of nominal bandwidth. ``routes``
    say how pairs exchange; ``rounds`` group transfers that can run at once without sharing a port,
    ``rounds_lower_bound`` proves how few there can be. ``unplaced`` says why a job does not run.
    """

    assignment: dict[str, list[NodeId]]
    jobs: tuple[JobPlan, ...] = ()
    link_loads: dict[str, float] = field(default_factory=dict)
    link_seconds: dict[str, float] = field(default_factory=dict)
    measured_loads: dict[str, float] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    rounds: tuple[tuple[Transfer, ...], ...] = ()
    rounds_lower_bound: int = 0
    unplaced: dict[str, str] = field(default_factory=dict)
    moves: int = 0
    params: dict[str, Any] = field(default_factory=dict)


def plan_fabric(
    fabric: Fabric,
    jobs: Sequence[Job | Mapping[str, Any]],
    *,
    config: NVLinkConfig | Mapping[str, Any] | None = None,
    deadline_s: float | None = None,
    seed: int | None = None,
    previous: NVLinkPlan | None = None,
    telemetry: TelemetryRef | None = None,
    strict: bool = True,
    models: Models | None = None,
) -> NVLinkPlan:
    """Place jobs on a fabric so that a step of all of them is as short as can be.

    Parameters
    ----------
    jobs: job profiles, or mappings as in a job-profile file.
    config: toggles; ``deadline_s`` and ``seed`` override its own.
    previous: the plan in force; at most ``config.max_moved`` of its ranks move.
    models: learned parts to use instead of the shipped ones.

    Raises
    ------
    InputError: a job or the configuration makes no sense.
    Infeasible: a job needs GPUs that nothing joins, naming two; unless ``strict`` is false, then
        the job is listed under ``unplaced``.
    """
    settings, models = NVLinkConfig.read(config), models or Models()
    deadline = Deadline.after(settings.deadline_s if deadline_s is None else deadline_s)
    seed = settings.seed if seed is None else seed
    if not isinstance(fabric, Fabric):
        raise InputError(f"wants a Fabric, got {type(fabric).__name__}", field="fabric")
    profiles = _profiles(jobs)
    admission = admit(fabric, profiles, strict=strict)
    while True:
        problem = _problem(fabric, admission, previous, settings)
        try:
            share = 0.4 if settings.rl else 0.6  # agents mend what shortest paths crowd
            answer = _solve(problem, settings, models, deadline.share(share), seed)
            break
        except Infeasible as error:
            # One job that cannot run must not keep the others from running.
            lost = next((j.id for j in admission.jobs if error.field == f"jobs[{j.id}]"), None)
            if strict or lost is None:
                raise
            admission = admission.without(lost, error.message)
    routing = None
    if settings.rl:
        routing = assign_routes(
            problem,
            answer.value,
            policy=models.routes,
            start=_in_force(problem, previous),
            deadline=deadline.share(0.8),
            seed=seed,
        )
    return _assemble(
        problem, answer, routing, settings, deadline, seed, admission, telemetry or TelemetryRef()
    )


def _solve(
    problem: PlacementProblem,
    settings: NVLinkConfig,
    models: Models,
    deadline: Deadline,
    seed: int,
) -> Certified[Placement]:
    stages: list[Stage[PlacementProblem, Placement]] = [Stage("best-subsets", run_best_subsets)]
    if settings.classifier:
        asked = partial(_run_classifier, settings=settings, models=models)
        stages.insert(0, Stage("classifier", asked))
    return certified(
        problem,
        stages=stages,
        fallback=Stage("first-fit", run_first_fit),
        bound=PlacementProblem.lower_bound,
        verify=verify_placement,
        deadline=deadline,
        seed=seed,
        breaker=_BREAKER,
    )


def _run_classifier(
    problem: PlacementProblem,
    *,
    settings: NVLinkConfig,
    models: Models,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Placement] | None,
) -> Candidate[Placement]:
    kernel = "quantum" if settings.quantum_kernel else "rbf"
    model = models.contention or default_model(kernel)
    return run_classified(problem, model=model, deadline=deadline, seed=seed, incumbent=incumbent)


def _in_force(
    problem: PlacementProblem, previous: NVLinkPlan | None
) -> dict[tuple[str, int, int], list[tuple[list[int], float]]]:
    """The previous plan's split routes, over nodes that are still there."""
    index = problem.fabric.index
    found: dict[tuple[str, int, int], list[tuple[list[int], float]]] = {}
    for row in previous.routes if previous is not None else ():
        for path, share in zip(row.paths, row.shares, strict=False):
            if all(node in index for node in path):
                way = [index[node] for node in path]
                found.setdefault((row.job, way[0], way[-1]), []).append((way, share))
    return found


def _profiles(jobs: Sequence[Job | Mapping[str, Any]]) -> tuple[Job, ...]:
    if isinstance(jobs, (str, bytes)) or not isinstance(jobs, Sequence):
        raise InputError(f"wants a list of jobs, got {type(jobs).__name__}", field="jobs")
    if all(isinstance(job, Job) for job in jobs):
        return tuple(job for job in jobs if isinstance(job, Job))
    return Job.parse_all(list(jobs))


def _problem(
    fabric: Fabric,
    admission: Admission,
    previous: NVLinkPlan | None,
    settings: NVLinkConfig,
) -> PlacementProblem:
    """The problem with what is left of the plan in force as its reference."""
    reference: dict[str, tuple[int, ...]] = {}
    taken: set[NodeId] = {gpu for job in admission.jobs for gpu in job.pinned}
    for job in admission.jobs:
        gpus = previous.assignment.get(job.id) if previous is not None else None
        if gpus is None or len(gpus) != job.gpus or not all(gpu in fabric.index for gpu in gpus):
            continue
        home = set(fabric.components[admission.home[job.id]])
        kept = set(gpus)
        joined = {fabric.index[gpu] for gpu in gpus} <= home
        if joined and set(job.pinned) <= kept and not (kept - set(job.pinned)) & taken:
            reference[job.id] = tuple(fabric.index[gpu] for gpu in gpus)
            taken.update(gpus)
    limit = None
    if settings.max_moved is not None and reference:
        flat = np.array([gpu for gpus in reference.values() for gpu in gpus])
        limit = MoveBudget.of(flat, settings.max_moved).limit
    return PlacementProblem(fabric, admission.jobs, admission.home, reference, limit)


def _assemble(
    problem: PlacementProblem,
    answer: Certified[Placement],
    routing: Assignment | None,
    settings: NVLinkConfig,
    deadline: Deadline,
    seed: int,
    admission: Admission,
    telemetry: TelemetryRef,
) -> NVLinkPlan:
    fabric, placement = problem.fabric, answer.value
    warnings = list(admission.warnings)
    loads, relayed = problem.loads(placement)
    if relayed:
        warnings.append(f"{relayed} jobs pass traffic through GPUs of others: no path of their own")
    if settings.quantum_kernel and not settings.classifier:
        warnings.append("quantum_kernel is the classifier's: without classifier it does nothing")
    certificate, shares = answer.certificate, {}
    params = {**answer.notes, "relayed_jobs": relayed}
    if routing is not None:
        loads, shares = routing.problem.loads(routing.split), routing.shares()
        certificate = _routed(certificate, routing)
        warnings += routing.answer.warnings
        params |= {**routing.answer.notes, "routes_solver": routing.answer.solver.used}
    if not (deadline.expired and len(fabric.gpus) > _LARGE):
        params["layout"] = _layout(problem, placement, certificate)
    rounds = plan_rounds(
        problem, placement, qaoa=settings.qaoa, deadline=deadline, seed=seed, shares=shares
    )
    seconds = problem.seconds(loads)
    return NVLinkPlan(
        planner="nvlink",
        config=settings.model_dump(),
        seed=seed,
        solver=answer.solver,
        objective=certificate.objective,
        lower_bound=certificate.lower_bound,
        gap=certificate.gap,
        baselines=certificate.baselines,
        quantum_gain=rounds.quantum_gain,
        reasons={**certificate.reasons, **rounds.reasons},
        telemetry=telemetry,
        wall_s=answer.wall_s,
        warnings=merge_warnings(fabric.notes, answer.warnings, warnings, rounds.warnings),
        assignment={job: [fabric.nodes[i].id for i in gpus] for job, gpus in placement.items()},
        jobs=tuple(_job_plan(fabric, job, placement[job.id], deadline) for job in problem.jobs),
        link_loads=fabric.by_link(seconds / (seconds.max(initial=0.0) or 1.0)),
        link_seconds=fabric.by_link(seconds),
        routes=list_routes(
            problem, placement, max_paths=settings.max_paths, shares=shares, deadline=deadline
        ),
        rounds=rounds.rounds,
        rounds_lower_bound=rounds.lower_bound,
        unplaced=admission.left_out,
        moves=problem.moved(placement),
        params={**params, "rounds_solver": rounds.solver, "rounds_seconds": rounds.seconds},
    )


def _layout(
    problem: PlacementProblem, placement: Placement, certificate: Certificate
) -> dict[str, Any]:
    """What the classifier learns from: the layout's features, and whether it was contended."""
    features = layout_features(problem, placement)
    return {
        "features": dict(zip(FEATURES, features.tolist(), strict=True)),
        "contended": bool(certificate.objective > THRESHOLD * problem.ideal_seconds),
    }


def _routed(placed: Certificate, routing: Assignment) -> Certificate:
    """The certificate with routes as agents made them; shortest paths are one more baseline."""
    found = routing.answer.certificate
    straight = routing.problem.cost(np.empty(0))
    return replace(
        placed,
        objective=found.objective,
        lower_bound=found.lower_bound,
        gap=found.gap,
        baselines={**placed.baselines, "shortest-paths": straight},
    )


def _job_plan(fabric: Fabric, job: Job, gpus: list[int], deadline: Deadline) -> JobPlan:
    ids = tuple(fabric.nodes[i].id for i in gpus)
    bandwidth, exact = effective_bandwidth(fabric, gpus, deadline)
    return JobPlan(id=job.id, gpus=ids, bandwidth_gb_s=bandwidth, bandwidth_exact=exact)
