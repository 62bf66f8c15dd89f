"""Routing agents that learn: environment, policy, training, and the optimum to compare with."""

from __future__ import annotations

from qcluster.q_nvlink.rl.env import FlowEnv
from qcluster.q_nvlink.rl.optimum import least_utilisation
from qcluster.q_nvlink.rl.paths import Paths, find_paths
from qcluster.q_nvlink.rl.policy import Agents, RoutePolicy, default_policy, route
from qcluster.q_nvlink.rl.train import fit_routes, random_env

__all__ = [
    "Agents",
    "FlowEnv",
    "Paths",
    "RoutePolicy",
    "default_policy",
    "find_paths",
    "fit_routes",
    "least_utilisation",
    "random_env",
    "route",
]
