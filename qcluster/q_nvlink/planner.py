"""The live planner: the fabric as telemetry shows it, jobs in, a sticky plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import NotReady, SolverFailed
from qcluster.plan import Plan, TelemetryRef
from qcluster.q_nvlink.config import NVLinkConfig
from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.plan import NVLinkPlan, plan_fabric
from qcluster.q_nvlink.problem import PlacementProblem, admit
from qcluster.q_nvlink.routes import routed_loads
from qcluster.telemetry import Job, Snapshot

__all__ = ["NVLinkPlanner"]

_ASSUMED_BYTES = 1e9
_EXPIRES_S = 60.0
_WARM_SWITCHES = ("nvswitch0", "nvswitch1", "leaf0", "leaf1", "spine0")


class NVLinkPlanner:
    """Places the snapshot's jobs on the fabric that is up, moving as few ranks as configured.

    Links count as far as their lanes are up; GPUs that do not answer take no ranks. Without jobs
    in telemetry it assumes one all-reduce in each NVLink domain and says so. A plan's
    ``link_loads`` carry the ids of telemetry's links.
    """

    name: ClassVar[str] = "nvlink"
    plan_type: ClassVar[type[Plan]] = NVLinkPlan

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = NVLinkConfig.read(config)
        self._known: tuple[Any, Fabric | None] = (None, None)

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],  # noqa: ARG002 - the fabric's plan does not depend on others yet
        *,
        deadline: Deadline,
    ) -> NVLinkPlan:
        """See ``qcluster.planner.Planner``.

        Raises NotReady when telemetry knows no links or no GPU answers.
        """
        fabric = self._fabric(snapshot)
        jobs, warnings = _jobs(snapshot, fabric)
        plan = plan_fabric(
            fabric,
            jobs,
            config=self.config,
            deadline_s=min(deadline.remaining() * 0.9, self.config.deadline_s),
            strict=False,
            previous=previous if isinstance(previous, NVLinkPlan) else None,
            telemetry=TelemetryRef(
                snapshot_hash=snapshot.hash,
                age_s=snapshot.age_s(),
                simulated=snapshot.simulated,
            ),
        )
        measured, silent = _measured(snapshot)
        return replace(
            plan,
            warnings=[*plan.warnings, *warnings, *_down(snapshot), *silent],
            link_loads=_telemetry_ids(snapshot, plan.link_loads),
            link_seconds=_telemetry_ids(snapshot, plan.link_seconds),
            measured_loads=measured,
            expires_at=plan.created_at + _EXPIRES_S,
        )

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        """Every rank on a live GPU of its own, and the step as long as the plan says it is.

        Raises SolverFailed.
        """
        if not isinstance(plan, NVLinkPlan):
            raise SolverFailed(f"wants an NVLinkPlan, got {type(plan).__name__}")
        fabric = self._fabric(snapshot)
        live = set(fabric.gpus)
        used = [gpu for gpus in plan.assignment.values() for gpu in gpus]
        if len(set(used)) < len(used):
            raise SolverFailed("two ranks share a GPU")
        if lost := [gpu for gpu in used if gpu not in live]:
            raise SolverFailed(f"{lost[0]} does not answer")
        jobs = {job.id: job for job in _jobs(snapshot, fabric)[0]}
        for job_id, gpus in plan.assignment.items():
            job = jobs.get(job_id)
            if job is not None and len(gpus) != job.gpus:
                raise SolverFailed(f"{job_id} has {len(gpus)} GPUs, wants {job.gpus}")
        if plan.telemetry.snapshot_hash == snapshot.hash:
            self._verify_objective(plan, fabric, tuple(jobs.values()))

    def warm_up(self) -> None:
        """Compile the kernels on two islands of two GPUs with an uplink between them."""
        from qcluster.q_nvlink.formats import parse_node_link

        nodes = [{"id": name} for name in ("g0", "g1", "g2", "g3", *_WARM_SWITCHES)]
        rows = [
            {"source": f"g{i}", "target": f"nvswitch{i // 2}", "bandwidth": 25.0} for i in range(4)
        ]
        rows += [
            {"source": f"g{i}", "target": f"leaf{i % 2}", "bandwidth": 5.0, "kind": "infiniband"}
            for i in range(4)
        ]
        rows += [
            {"source": f"leaf{i}", "target": "spine0", "bandwidth": 10.0, "kind": "infiniband"}
            for i in range(2)
        ]
        fabric = parse_node_link({"nodes": nodes, "edges": rows})
        for gpus in (2, 3):
            job = Job(id="warm", gpus=gpus, kind="all_to_all", bytes=1e6)
            plan_fabric(fabric, [job], config=self.config, deadline_s=5.0)

    def _fabric(self, snapshot: Snapshot) -> Fabric:
        if not snapshot.topology.links:
            raise NotReady("telemetry knows no links yet: give a topology with links")
        if not snapshot.alive_gpus:
            raise NotReady("no GPU answers")
        # The topology rarely changes, and building its fabric takes most of a replan's time.
        key = tuple(
            (k.source, k.target, k.bandwidth_gb_s, k.links, k.kind, k.directed)
            for k in snapshot.topology.links
        ) + tuple((node.id, node.gpus, node.domain) for node in snapshot.topology.nodes)
        if key != self._known[0]:
            self._known = (key, Fabric.from_topology(snapshot.topology))
        return Fabric.from_snapshot(snapshot, whole=self._known[1])

    def _verify_objective(self, plan: NVLinkPlan, fabric: Fabric, jobs: tuple[Job, ...]) -> None:
        admission = admit(fabric, jobs, strict=False)
        problem = PlacementProblem(fabric, admission.jobs, admission.home, {})
        placement = {
            job: [fabric.index[gpu] for gpu in gpus] for job, gpus in plan.assignment.items()
        }
        if set(placement) != {job.id for job in admission.jobs}:
            raise SolverFailed("the plan's jobs are not those that fit")
        cost = float(
            problem.seconds(routed_loads(problem, placement, plan.routes)).max(initial=0.0)
        )
        if not np.isclose(cost, plan.objective, rtol=1e-6):
            raise SolverFailed(f"a step takes {cost:.6g} s, the plan says {plan.objective:.6g} s")


def _jobs(snapshot: Snapshot, fabric: Fabric) -> tuple[tuple[Job, ...], list[str]]:
    """The snapshot's jobs without pins to GPUs that are gone; assumed ones when there are none."""
    live = set(fabric.gpus)
    if not snapshot.jobs:
        groups: dict[str, int] = {}
        pins: dict[str, list[str]] = {}
        for node in fabric.nodes:
            if node.kind == "gpu":
                domain = node.domain or node.host
                groups[domain] = groups.get(domain, 0) + 1
                pins.setdefault(domain, []).append(str(node.id))
        jobs = tuple(
            Job(id=f"domain-{name}", gpus=count, bytes=_ASSUMED_BYTES, pinned=tuple(pins[name]))
            for name, count in groups.items()
        )
        return jobs, ["no jobs in telemetry: an all-reduce in each domain is assumed"]
    found: list[Job] = []
    warnings: list[str] = []
    for job in snapshot.jobs:
        lost = [gpu for gpu in job.pinned if gpu not in live]
        if lost:
            warnings.append(f"{job.id}: pinned to {lost[0]}, which does not answer")
        kept = tuple(gpu for gpu in job.pinned if gpu in live)
        found.append(replace(job, pinned=kept) if lost else job)
    return tuple(found), warnings


def _down(snapshot: Snapshot) -> list[str]:
    state = snapshot.link.get("link_up")
    if state is None:
        return []
    rows = zip(snapshot.topology.links, state, strict=True)
    return [f"{row.id}: {up:.0%} of its lanes are up" for row, up in rows if up < 1.0]


def _telemetry_ids(snapshot: Snapshot, values: Mapping[str, float]) -> dict[str, float]:
    """By link of the topology; the busier direction of a link that has both."""
    out = {}
    for row in snapshot.topology.links:
        back = 0.0 if row.directed else values.get(f"{row.target}->{row.source}", 0.0)
        out[row.id] = max(values.get(row.id, 0.0), back)
    return out


def _measured(snapshot: Snapshot) -> tuple[dict[str, float], list[str]]:
    """Measured use of each link as a share of its nominal bandwidth, where telemetry has rates.

    Counters that all stand at 0 while jobs of several GPUs run measure nothing; the list says so.
    """
    rates = snapshot.link.get("link_tx_gb_s")
    if rates is None:
        return {}, []
    known = rates[~np.isnan(rates)]
    busy = any(job.gpus > 1 for job in snapshot.jobs)
    if busy and len(known) and not known.any():
        return {}, ["all link counters are 0 while jobs run: taken as not measured"]
    return {
        row.id: float(min(max(rate / row.bandwidth_gb_s, 0.0), 1.0))
        for row, rate in zip(snapshot.topology.links, rates, strict=True)
        if not np.isnan(rate)
    }, []
