"""The live planners: which planner class each host runs, and whose plans it may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from actors.planner_host import PlannerHost

__all__ = ["HOSTS", "EnergyPlanner", "JointPlanner", "NVLinkPlanner", "RoutingPlanner"]

_PATHS = {
    "routing": "qcluster.q_routing.planner:RoutingPlanner",
    "energy": "qcluster.q_energy.planner:EnergyPlanner",
    "nvlink": "qcluster.q_nvlink.planner:NVLinkPlanner",
    "joint": "qcluster.joint.planner:JointPlanner",
}


# The joint plan is the one that is carried out, so it comes first.
_BEHIND = 5


def _others(name: str) -> dict[str, str]:
    return {other: path for other, path in _PATHS.items() if other != name}


class RoutingPlanner(PlannerHost):
    """Which expert sits on which GPU."""

    name: ClassVar[str] = "routing"
    path: ClassVar[str] = _PATHS["routing"]
    peers: ClassVar[Mapping[str, str]] = _others("routing")
    nice: ClassVar[int] = _BEHIND


class EnergyPlanner(PlannerHost):
    """Which watts each GPU gets."""

    name: ClassVar[str] = "energy"
    path: ClassVar[str] = _PATHS["energy"]
    peers: ClassVar[Mapping[str, str]] = _others("energy")
    nice: ClassVar[int] = _BEHIND


class NVLinkPlanner(PlannerHost):
    """Which GPUs and links each job uses."""

    name: ClassVar[str] = "nvlink"
    path: ClassVar[str] = _PATHS["nvlink"]
    peers: ClassVar[Mapping[str, str]] = _others("nvlink")
    nice: ClassVar[int] = _BEHIND


class JointPlanner(PlannerHost):
    """One plan of the three, and the one that is carried out."""

    name: ClassVar[str] = "joint"
    path: ClassVar[str] = _PATHS["joint"]
    peers: ClassVar[Mapping[str, str]] = _others("joint")


HOSTS: Mapping[str, type[PlannerHost]] = {
    host.name: host for host in (RoutingPlanner, EnergyPlanner, NVLinkPlanner, JointPlanner)
}
"""All hosts by planner name."""
