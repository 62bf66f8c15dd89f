"""Ray actors: they hold state and time, never algorithms.

``TelemetryHub`` and ``PlanStore`` hold what the cluster is and what was planned;
``RoutingPlanner``, ``EnergyPlanner``, ``NVLinkPlanner`` and ``JointPlanner`` are one generic host
around the planners of ``qcluster``; ``NodeAgent`` reads one machine and carries plans out on it.
``StudyHost``, ``CodecPool``, ``AttentionWorker`` and ``QuantumGateway`` answer questions that need
state or a process of their own. All are plain classes that run without Ray too;
``actors.cluster`` turns them into actors.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AttentionWorker": "actors.attention_worker",
    "CodecPool": "actors.codec_pool",
    "TelemetryHub": "actors.hub",
    "PlanStore": "actors.store",
    "QuantumGateway": "actors.gateway",
    "NodeAgent": "actors.node_agent",
    "RoutingPlanner": "actors.planners",
    "EnergyPlanner": "actors.planners",
    "JointPlanner": "actors.planners",
    "NVLinkPlanner": "actors.planners",
    "StudyHost": "actors.studies",
}

__all__ = [
    "AttentionWorker",
    "CodecPool",
    "EnergyPlanner",
    "JointPlanner",
    "NVLinkPlanner",
    "NodeAgent",
    "PlanStore",
    "QuantumGateway",
    "RoutingPlanner",
    "StudyHost",
    "TelemetryHub",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'actors' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)
