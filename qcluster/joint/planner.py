"""The joint planner: one snapshot and three planners' plans in, one plan out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import NotReady, QClusterError, SolverFailed
from qcluster.fallback import Certified, Stage, certified
from qcluster.joint.config import JointConfig
from qcluster.joint.coordinate import Parts, Power, Task, apart, coordinated, measured
from qcluster.joint.plan import PARTS, Conflict, JointPlan
from qcluster.joint.rates import bound, link_shares
from qcluster.joint.verify import check_parts, check_step
from qcluster.plan import Plan, TelemetryRef, merge_warnings
from qcluster.planner import Planner
from qcluster.q_energy import EnergyPlanner
from qcluster.q_nvlink import NVLinkPlanner
from qcluster.q_routing.planner import PlacementPlan, RoutingPlanner
from qcluster.telemetry import Snapshot

__all__ = ["JointPlanner"]

_EXPIRES_S = 60.0
# Of the time left, for one part that has to be made here.
_PART_SHARE = 0.4
_PLACED = ("placement follows power", "both")
_FEWER, _NO_BETTER = "they get fewer tokens", "no placement was found that is better for it"


class JointPlanner:
    """Brings the plans of experts, links and watts together.

    A peer's plan of the same snapshot is taken as it is; a part that is missing is planned here. A
    part that cannot be planned is replaced by the last one that is still safe on this snapshot, or
    left out with the reason.

    Parameters
    ----------
    config: the fields of ``JointConfig``.
    """

    name: ClassVar[str] = "joint"
    plan_type: ClassVar[type[Plan]] = JointPlan

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = JointConfig.read(config)
        self._placer = RoutingPlanner(self.config.routing.model_dump())
        self._planners: dict[str, Planner] = {
            "routing": self._placer,
            "nvlink": NVLinkPlanner(self.config.nvlink.model_dump()),
            "energy": EnergyPlanner(self.config.energy.model_dump()),
        }
        self._verified: tuple[Snapshot | None, list[Plan]] = (None, [])

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],
        *,
        deadline: Deadline,
    ) -> JointPlan:
        """One plan of all parts that the snapshot allows.

        Raises NotReady, with every part's reason, when there is none.
        """
        started = time.perf_counter()
        before = previous if isinstance(previous, JointPlan) else None
        gathered = _Gathered(self._planners, snapshot, before, peers)
        for name in ("nvlink", "energy", "routing"):
            gathered.take(name, deadline)
        self._verified = (snapshot, gathered.verified)
        if not gathered.parts:
            raise NotReady("; ".join(f"{n}: {why}" for n, why in gathered.absent.items()))
        in_force = before.routing if before is not None else None
        in_force = in_force or _placement(peers.get("routing"))
        task = self._task(snapshot, self.config, gathered.parts, in_force)
        found = certified(
            task,
            stages=(Stage("coordinated", coordinated),),
            fallback=Stage("apart", apart),
            bound=_bound,
            verify=check_step,
            deadline=deadline,
        )
        return self._report(found, task, gathered, time.perf_counter() - started)

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        """Raise SolverFailed unless every part can be carried out and the step is as long as said.

        Each part is asked of its own verifier; rates and stretch are recomputed from the parts.
        """
        if not isinstance(plan, JointPlan):
            raise SolverFailed(f"wants a JointPlan, got {type(plan).__name__}")
        for name in PARTS:
            part = getattr(plan, name)
            if (part is None) != (name in plan.absent):
                raise SolverFailed(f"{name} is neither planned nor absent with a reason")
            if part is not None and not self._passed(part, snapshot):
                try:
                    self._planners[name].verify(part, snapshot)
                except SolverFailed as error:
                    raise SolverFailed(f"{name}: {error}") from None
        check_parts(plan, snapshot)
        if plan.telemetry.snapshot_hash == snapshot.hash:
            parts = {name: getattr(plan, name) for name in PARTS}
            task = self._task(snapshot, JointConfig.read(plan.config), parts, None)
            again = measured(task, plan.routing, plan.energy, "").rate
            if not np.allclose(again, plan.rate, rtol=1e-6, atol=1e-9):
                raise SolverFailed("the rates are not those of the caps and links")

    def _passed(self, part: Plan, snapshot: Snapshot) -> bool:
        """Whether this very part has passed its verifier on this very snapshot, while planning."""
        seen, parts = self._verified
        return snapshot is seen and any(part is one for one in parts)

    def warm_up(self) -> None:
        """Compile the parts' kernels."""
        for planner in self._planners.values():
            planner.warm_up()

    def _task(
        self,
        snapshot: Snapshot,
        config: JointConfig,
        parts: Mapping[str, Any],
        in_force: PlacementPlan | None,
    ) -> Task:
        energy = parts.get("energy")
        return Task(
            snapshot,
            config,
            self._placer,
            routing=parts.get("routing"),
            nvlink=parts.get("nvlink"),
            power=None if energy is None else Power.of(energy, snapshot),
            links=link_shares(snapshot),
            in_force=in_force,
        )

    def _report(
        self, found: Certified[Parts], task: Task, gathered: _Gathered, wall_s: float
    ) -> JointPlan:
        proof, best = found.certificate, found.value
        lower = proof.lower_bound if proof.lower_bound is not None else 1.0
        snapshot, now = task.snapshot, time.time()
        made_here = set(gathered.made_here)
        made_here |= {n for n in PARTS if getattr(best, n) is not gathered.parts.get(n)}
        tried = found.notes.get("tried", {})
        return JointPlan(
            planner=self.name,
            config=self.config.model_dump(mode="json"),
            seed=0,
            solver=found.solver,
            objective=proof.objective,
            lower_bound=proof.lower_bound,
            gap=proof.gap,
            baselines={**proof.baselines, **{n: s for n, s in tried.items() if n != best.way}},
            quantum_gain=None,
            reasons=dict(proof.reasons),
            telemetry=TelemetryRef(
                snapshot_hash=snapshot.hash,
                age_s=snapshot.age_s(now),
                simulated=snapshot.simulated,
            ),
            wall_s=wall_s,
            warnings=merge_warnings(
                *([f"{n}: {line}" for line in part.warnings] for n, part in gathered.parts.items())
            ),
            created_at=now,
            expires_at=now + _EXPIRES_S,
            routing=best.routing,
            nvlink=best.nvlink,
            energy=best.energy,
            measure=_measure(best),
            gpu_ids=snapshot.topology.gpu_ids,
            rate=best.rate,
            relative_speed=1.0 / proof.objective,
            upper_bound=1.0 / lower,
            absent=dict(gathered.absent),
            made_here=tuple(name for name in PARTS if name in made_here),
            conflicts=(*gathered.conflicts, *_conflicts(task, best, proof.baselines["apart"])),
        )


class _Gathered:
    """The parts for one snapshot, with what went wrong on the way."""

    def __init__(
        self,
        planners: Mapping[str, Planner],
        snapshot: Snapshot,
        before: JointPlan | None,
        peers: Mapping[str, Plan],
    ) -> None:
        self._planners, self._snapshot = planners, snapshot
        self._before, self._peers = before, peers
        self.parts: dict[str, Plan] = {}
        self.absent: dict[str, str] = {}
        self.made_here: list[str] = []
        self.verified: list[Plan] = []
        self.conflicts: list[Conflict] = []

    def take(self, name: str, deadline: Deadline) -> None:
        """The peer's plan of this snapshot, or one made here, or the last that is still safe."""
        peer = self._peers.get(name)
        if peer is not None and peer.telemetry.snapshot_hash == self._snapshot.hash:
            self.parts[name] = peer
            return
        last = getattr(self._before, name, None) or peer
        planner = self._planners[name]
        try:
            found = planner.plan(
                self._snapshot, last, self.parts, deadline=deadline.share(_PART_SHARE)
            )
            planner.verify(found, self._snapshot)
        except NotReady as error:
            self.absent[name] = str(error)
        except QClusterError as error:
            self._fall_back(name, last, str(error))
        else:
            self.parts[name] = found
            self.made_here.append(name)
            self.verified.append(found)

    def _fall_back(self, name: str, last: Plan | None, why: str) -> None:
        try:
            if last is None:
                raise SolverFailed("there is no earlier plan")
            self._planners[name].verify(last, self._snapshot)
        except QClusterError as error:
            self.absent[name] = f"{why}; {error}"
            return
        self.parts[name] = last
        self.conflicts.append(
            Conflict(
                kind="refused",
                between=(name,),
                what=why,
                resolution=f"plan {last.plan_id}, which is still safe, stays",
            )
        )


def _placement(plan: Plan | None) -> PlacementPlan | None:
    return plan if isinstance(plan, PlacementPlan) else None


def _measure(parts: Parts) -> Any:
    if parts.routing is not None:
        return "experts"
    return "jobs" if parts.nvlink is not None and parts.nvlink.assignment else "gpus"


def _bound(task: Task) -> float:
    alive = int(task.snapshot.alive.sum())
    total: float | None = float(alive)
    if task.power is not None:
        known = task.power.plan.upper_bound
        # GPUs whose power is not planned run at full speed.
        unplanned = alive - int(task.snapshot.alive[task.power.row].sum())
        total = None if known is None else known + unplanned
    if task.routing is not None:
        return bound(total, alive, task.config.communication_share)
    members = sum(len(group) for group in task.groups())
    return bound(total, members, 0.0)


def _conflicts(task: Task, best: Parts, before: float) -> list[Conflict]:
    """What the parts held against each other, where something was done about it."""
    found = []
    alive, after = task.snapshot.alive, best.stretch
    if task.energy is not None and best.way != "apart":
        speed = task.speeds(task.energy)[alive]
        found.append(
            Conflict(
                kind="power",
                between=("energy", "routing" if best.routing is not None else "nvlink"),
                what=f"caps leave GPUs between {speed.min():.1%} and {speed.max():.1%} of full "
                f"speed, and a step waits for the slowest",
                resolution=best.way,
                before=before,
                after=after,
            )
        )
    hurt = [i for i in np.flatnonzero(alive) if task.links[i] < 1.0]
    if hurt and best.routing is not None:
        worst = min(hurt, key=lambda i: float(task.links[i]))
        found.append(
            Conflict(
                kind="links",
                between=("nvlink", "routing"),
                what=f"{len(hurt)} GPUs have lost links, {task.snapshot.topology.gpu_ids[worst]} "
                f"keeps {task.links[worst]:.0%} of its bandwidth",
                resolution=_FEWER if best.way in _PLACED else _NO_BETTER,
                before=before,
                after=after,
            )
        )
    return found
