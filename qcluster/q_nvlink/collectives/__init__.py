"""Throughput-optimal collectives on any fabric, with bound and simulation."""

from __future__ import annotations

from qcluster.q_nvlink.collectives.plan import (
    Collective,
    Simulation,
    collective_bound,
    plan_collective,
    simulate,
)

__all__ = ["Collective", "Simulation", "collective_bound", "plan_collective", "simulate"]
