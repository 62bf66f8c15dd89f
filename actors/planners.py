"""The live planners: which planner class each host runs, and whose plans it may see."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

from actors.planner_host import PlannerHost
from qcluster.errors import InputError

__all__ = [
    "HOSTS",
    "EnergyPlanner",
    "JointPlanner",
    "NVLinkPlanner",
    "RoutingPlanner",
    "checked_configs",
]

_PATHS = {
    "routing": "qcluster.q_routing.planner:RoutingPlanner",
    "energy": "qcluster.q_energy.planner:EnergyPlanner",
    "nvlink": "qcluster.q_nvlink.planner:NVLinkPlanner",
    "joint": "qcluster.joint.planner:JointPlanner",
}


# The joint plan is the one that is carried out, so it comes first.
_BEHIND = 10


# Joint plans are what these planners' next ones depart from; what they see of each other is there.
_JOINT = {"joint": _PATHS["joint"]}


class RoutingPlanner(PlannerHost):
    """Which expert sits on which GPU."""

    name: ClassVar[str] = "routing"
    path: ClassVar[str] = _PATHS["routing"]
    peers: ClassVar[Mapping[str, str]] = _JOINT
    nice: ClassVar[int] = _BEHIND


class EnergyPlanner(PlannerHost):
    """Which watts each GPU gets."""

    name: ClassVar[str] = "energy"
    path: ClassVar[str] = _PATHS["energy"]
    peers: ClassVar[Mapping[str, str]] = _JOINT
    nice: ClassVar[int] = _BEHIND


class NVLinkPlanner(PlannerHost):
    """Which GPUs and links each job uses."""

    name: ClassVar[str] = "nvlink"
    path: ClassVar[str] = _PATHS["nvlink"]
    peers: ClassVar[Mapping[str, str]] = _JOINT
    nice: ClassVar[int] = _BEHIND


class JointPlanner(PlannerHost):
    """One plan of the three, and the one that is carried out."""

    name: ClassVar[str] = "joint"
    path: ClassVar[str] = _PATHS["joint"]
    peers: ClassVar[Mapping[str, str]] = {
        name: path for name, path in _PATHS.items() if name != "joint"
    }


_CONFIGS = {
    "routing": "qcluster.q_routing.config:PlacementConfig",
    "energy": "qcluster.q_energy.config:EnergyConfig",
    "nvlink": "qcluster.q_nvlink.config:LiveConfig",
    "joint": "qcluster.joint.config:JointConfig",
}


def checked_configs(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Planners' configurations with the joint planner's completed by those of its parts.

    Raises InputError naming planner and field.
    """
    if not configs:
        return {name: {} for name in _CONFIGS}  # the defaults, without loading their rooms
    own: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        if name not in _CONFIGS:
            raise InputError(f"no such planner; there are {', '.join(_CONFIGS)}", field=str(name))
        if not isinstance(config, Mapping):
            raise InputError("wants a mapping of fields", field=name)
        own[name] = dict(config)
    parts = {name: config for name, config in own.items() if name != "joint"}
    made = {name: own.get(name, {}) for name in _CONFIGS}
    made["joint"] = {**parts, **made["joint"]}
    for name, config in made.items():
        module, _, kind = _CONFIGS[name].partition(":")
        try:
            getattr(importlib.import_module(module), kind).read(config)
        except InputError as error:
            place = (error.field or "config").removeprefix("config.")
            raise InputError(error.message, field=f"{name}.{place}") from None
    return made


HOSTS: Mapping[str, type[PlannerHost]] = {
    host.name: host for host in (RoutingPlanner, EnergyPlanner, NVLinkPlanner, JointPlanner)
}
"""All hosts by planner name."""
