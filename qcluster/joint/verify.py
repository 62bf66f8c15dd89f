"""Checks of a joint plan that share nothing with how it was found: loads are summed by slot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import SolverFailed
from qcluster.joint.plan import JointPlan
from qcluster.q_routing.planner import PlacementPlan
from qcluster.telemetry import Snapshot

if TYPE_CHECKING:
    from qcluster.joint.coordinate import Parts, Task

__all__ = ["check_parts", "check_step"]


def check_step(task: Task, parts: Parts) -> None:
    """Raise SolverFailed unless the parts' stretch is what their slots, caps and links give."""
    if parts.routing is None:
        return
    again = _experts_stretch(parts.routing, parts.rate, task.snapshot.alive)
    if not math.isclose(again, parts.stretch, rel_tol=1e-6):
        raise SolverFailed(f"a step takes {again:.6g} times the ideal, not {parts.stretch:.6g}")


def check_parts(plan: JointPlan, snapshot: Snapshot) -> None:
    """Raise SolverFailed unless the plan's own claims follow from its parts and rates."""
    if plan.gpu_ids != snapshot.topology.gpu_ids:
        raise SolverFailed("the cluster has other GPUs than the plan")
    if plan.rate.shape != (len(plan.gpu_ids),) or not np.isfinite(plan.rate).all():
        raise SolverFailed("the plan has not one finite rate a GPU")
    if (plan.rate > 1.0 + 1e-9).any() or (plan.rate < 0).any():
        raise SolverFailed("a rate is outside 0 to 1")
    if plan.objective > plan.baselines.get("apart", math.inf) * (1 + 1e-9):
        raise SolverFailed("the parts apart are better than the joint plan")
    if plan.lower_bound is not None and plan.lower_bound > plan.objective * (1 + 1e-9):
        raise SolverFailed("the objective lies below its bound")
    if plan.routing is not None:
        again = _experts_stretch(plan.routing, plan.rate, plan.rate > 0)
        if not math.isclose(again, plan.objective, rel_tol=1e-6):
            raise SolverFailed(f"claims stretch {plan.objective:.6g}, its parts give {again:.6g}")


def _experts_stretch(
    routing: PlacementPlan, rate: NDArray[np.float64], alive: NDArray[np.bool_]
) -> float:
    placement, load = routing.placement, routing.load
    total, slowest = 0.0, 0.0
    for slots, tokens in zip(placement.slots, load, strict=True):
        copies = np.bincount(slots[slots >= 0], minlength=len(tokens))
        held = np.zeros(len(rate))
        for slot, expert in enumerate(slots):
            if expert >= 0:
                held[placement.gpu_of_slot[slot]] += tokens[expert] / copies[expert]
        busy = held > 0
        if (rate[busy] <= 0).any():
            raise SolverFailed("experts are placed on a GPU that does not answer")
        slowest += float((held[busy] / rate[busy]).max(initial=0.0))
        total += float(tokens.sum())
    ideal = total / max(int(alive.sum()), 1)
    return slowest / ideal if ideal > 0 else 1.0
