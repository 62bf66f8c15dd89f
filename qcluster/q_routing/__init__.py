"""Routing: where experts stand, how copies share load, which expert each token goes to."""

from __future__ import annotations

from qcluster.q_routing import simulator
from qcluster.q_routing.assign import Assignment, assign_tokens
from qcluster.q_routing.config import PlacementConfig, RoutingConfig
from qcluster.q_routing.eplb import rebalance_experts
from qcluster.q_routing.placement import place_experts
from qcluster.q_routing.problem import Placement
from qcluster.q_routing.recommend import recommend
from qcluster.q_routing.route import RoutingPlan, route
from qcluster.q_routing.split import split_load
from qcluster.q_routing.traffic import dispatch

__all__ = [
    "Assignment",
    "Placement",
    "PlacementConfig",
    "RoutingConfig",
    "RoutingPlan",
    "assign_tokens",
    "dispatch",
    "place_experts",
    "rebalance_experts",
    "recommend",
    "route",
    "simulator",
    "split_load",
]
