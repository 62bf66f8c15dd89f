"""What answers become: the library's own types where it has them, plain dicts where it has not."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ServerEvent", "StoredPlan", "typed_answer", "typed_plan"]

# Named, not imported: a caller that only reads plans should not wait for every domain.
_ANSWERS = {
    "routing.plan": "qcluster.q_routing:RoutingPlan",
    "routing.placement": "qcluster.q_routing:Placement",
    "energy.plan": "qcluster.q_energy:EnergyPlan",
    "nvlink.plan": "qcluster.q_nvlink:NVLinkPlan",
    "nvlink.all-to-all": "qcluster.q_nvlink:Schedule",
    "nvlink.gangs": "qcluster.q_nvlink:GangPlan",
    "nvlink.partition": "qcluster.q_nvlink:Partition",
    "solve": "qcluster.quantum:Solution",
    "quantum.kernel": "qcluster.quantum.kernels:GramMatrix",
}
_PLANS = {
    "routing": "qcluster.q_routing.planner:PlacementPlan",
    "energy": "qcluster.q_energy:EnergyPlan",
    "nvlink": "qcluster.q_nvlink:NVLinkPlan",
    "joint": "qcluster.joint:JointPlan",
}
_READING = ("age_s", "stale", "alarm")


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """A planner's plan that is safe to carry out now.

    ``plan`` is an EnergyPlan, NVLinkPlan, PlacementPlan or JointPlan, or a dict where this version
    of the library does not know the planner. ``age_s`` is in seconds; while ``stale`` is true,
    ``alarm`` says why there is nothing newer.
    """

    planner: str
    plan: Any
    age_s: float
    stale: bool
    alarm: str | None


@dataclass(frozen=True, kw_only=True)
class ServerEvent:
    """One event of the stream: ``snapshot``, ``plan`` or ``heartbeat``."""

    id: str | None
    event: str
    data: dict[str, Any]


def typed_answer(kind: str, data: Mapping[str, Any]) -> Any:
    """An answer to a question of this kind in the library's type; a dict for an unknown kind."""
    return _load(_ANSWERS[kind]).from_dict(data) if kind in _ANSWERS else dict(data)


def typed_plan(planner: str, data: Mapping[str, Any]) -> StoredPlan:
    """A stored plan as the server reads it out, with its age and state beside it."""
    body = {name: value for name, value in data.items() if name not in _READING}
    known = planner in _PLANS
    return StoredPlan(
        planner=planner,
        plan=_load(_PLANS[planner]).from_dict(body) if known else body,
        age_s=data["age_s"],
        stale=data["stale"],
        alarm=data["alarm"],
    )


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
