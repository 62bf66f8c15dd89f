"""Routing: where experts stand, how copies share load, which expert each token goes to."""

from __future__ import annotations

from qcluster.q_routing import simulator
from qcluster.q_routing.assign import Assignment, assign_tokens
from qcluster.q_routing.config import PlacementConfig, RoutingConfig
from qcluster.q_routing.eplb import rebalance_experts
from qcluster.q_routing.placement import place_experts
from qcluster.q_routing.problem import Placement
from qcluster.q_routing.recommend import recommend
from qcluster.q_routing.recorder import Recorder
from qcluster.q_routing.route import RoutingPlan, route
from qcluster.q_routing.simulate import Simulation, simulate
from qcluster.q_routing.split import split_load
from qcluster.q_routing.traces import Trace, read_arrivals, replay
from qcluster.q_routing.traffic import dispatch

__all__ = [
    "Assignment",
    "Placement",
    "PlacementConfig",
    "Recorder",
    "RoutingConfig",
    "RoutingPlan",
    "Simulation",
    "Trace",
    "assign_tokens",
    "dispatch",
    "place_experts",
    "read_arrivals",
    "rebalance_experts",
    "recommend",
    "replay",
    "route",
    "simulate",
    "simulator",
    "split_load",
]
