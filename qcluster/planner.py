"""The seam between live telemetry and a domain: a planner is a plain class with ``plan``.

Planners know no Ray and no HTTP. The actor that hosts one hands it a snapshot, the plan in force
and the other planners' latest plans, and gets a plan back; ``verify`` is asked before the plan is
stored, and again with a newer snapshot to decide whether an old plan is still safe to show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.packed import PackedPlan, unpack
from qcluster.plan import Plan, TelemetryRef

if TYPE_CHECKING:
    from qcluster.telemetry import Snapshot

__all__ = ["Planner", "build_planner", "in_force", "run_planner", "take_in"]


class Planner(Protocol):
    """What the generic planner host runs."""

    name: ClassVar[str]
    """``routing``, ``energy``, ``nvlink`` or ``joint``; the key of its plans in the store."""
    plan_type: ClassVar[type[Plan]]
    """Rebuilds this planner's stored plans: ``plan_type.from_dict``."""

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],
        *,
        deadline: Deadline,
    ) -> Plan:
        """A plan for what the snapshot shows.

        ``previous`` is this planner's plan in force; the new one departs from it within the
        configured move budget. ``peers`` maps planner names to their latest plans and may be
        empty. Called often; must return its best so far when the deadline comes. Raises NotReady
        when the snapshot lacks what this planner needs, saying what.
        """
        ...

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        """Raise SolverFailed when the plan cannot be carried out on the snapshot's hardware.

        Independent of the solver: it recomputes what the plan claims from the problem alone.
        """
        ...

    def warm_up(self) -> None:
        """Compile kernels and load libraries, so that the first ``plan`` is not slow."""
        ...


@functools.lru_cache(maxsize=8)
def _built(path: str, config_json: str) -> Planner:
    planner: Planner = _class(path)(json.loads(config_json))  # type: ignore[call-arg]
    planner.warm_up()
    # What stands by now stays: later collections need not walk it, which takes tens of ms.
    gc.collect()
    gc.freeze()
    return planner


def build_planner(path: str, config: Mapping[str, Any]) -> Planner:
    """The planner at ``module:Class`` with a configuration, made and warmed once a process."""
    return _built(path, json.dumps(dict(config), sort_keys=True))


def take_in(paths: Mapping[str, str], bodies: Mapping[str, bytes]) -> None:
    """Read stored plans ahead of time; ``run_planner`` then wants no more than their ids.

    Between a sample and its plan every millisecond counts, and reading plans takes tens.

    Parameters
    ----------
    paths: planner names to ``module:Class``.
    bodies: the newest plan of each planner, packed (see ``qcluster.packed``).
    """
    for name, body in bodies.items():
        # One that is damaged or of an earlier version may not be readable; then plan without it.
        with contextlib.suppress(InputError):
            _decoded(paths[name], unpack(body))


def run_planner(
    paths: Mapping[str, str],
    name: str,
    config: Mapping[str, Any],
    snapshot: Snapshot,
    newest: Mapping[str, str],
    seconds: float,
    lasts_s: float,
) -> PackedPlan:
    """Entry point of the worker process: plan, verify, return the plan packed.

    Plans cross processes as JSON, so that whoever hosts a planner need not import its domain.

    Parameters
    ----------
    paths: planner names to ``module:Class``, of this planner and its peers.
    newest: the id of each planner's newest plan, of those that ``take_in`` was given last.
    seconds: time for the plan.
    lasts_s: seconds until the plan counts as old.
    """
    planner = build_planner(paths[name], config)
    known = {other: _READ.get(paths[other], {}).get(plan_id) for other, plan_id in newest.items()}
    plans = {other: plan for other, plan in known.items() if plan is not None}
    previous = in_force(name, plans)
    plans.pop(name, None)
    plan = planner.plan(snapshot, previous, plans, deadline=Deadline.after(seconds))
    planner.verify(plan, snapshot)
    now = time.time()
    source = TelemetryRef(
        snapshot_hash=snapshot.hash, age_s=snapshot.age_s(now), simulated=snapshot.simulated
    )
    plan = dataclasses.replace(plan, telemetry=source, expires_at=now + lasts_s)
    _remember(paths[name], plan)
    return PackedPlan.of(plan.to_dict())


def in_force(name: str, plans: Mapping[str, Plan]) -> Plan | None:
    """The plan that a planner's next one departs from: its own newest, or its part of a joint plan
    that was made later, because that is what is carried out.
    """
    own, joint = plans.get(name), plans.get("joint")
    part: Plan | None = getattr(joint, name, None)
    if own is None or joint is None or part is None or joint.created_at < own.created_at:
        return own
    return part


# By path of the planner: reading a large plan takes as long as making one, and most are read twice.
_READ: dict[str, dict[str, Plan]] = {}
_READ_KEPT = 2


def _decoded(path: str, data: Mapping[str, Any]) -> Plan:
    known = _READ.get(path, {}).get(data["plan_id"])
    if known is None:
        known = _class(path).plan_type.from_dict(data)
        _remember(path, known)
    return known


def _remember(path: str, plan: Plan) -> None:
    kept = {**_READ.get(path, {}), plan.plan_id: plan}
    _READ[path] = dict(list(kept.items())[-_READ_KEPT:])


def _class(path: str) -> type[Planner]:
    module, _, name = path.partition(":")
    found: type[Planner] = getattr(importlib.import_module(module), name)
    return found
