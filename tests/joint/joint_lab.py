"""Snapshots of simulated machines, and what planners make of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from qcluster.deadline import Deadline
from qcluster.joint import JointPlan, JointPlanner
from qcluster.plan import Plan
from qcluster.q_energy import EnergyPlanner
from qcluster.q_nvlink import NVLinkPlanner
from qcluster.q_routing.planner import RoutingPlanner
from qcluster.telemetry import Snapshot
from qcluster.telemetry.ring import Ring
from qcluster.telemetry.sources.simulate import parse
from qcluster.telemetry.sources.simulate.simulator import Simulator

PLANNERS = {"routing": RoutingPlanner, "nvlink": NVLinkPlanner, "energy": EnergyPlanner}


def snapshot(spec: str = "dgx-h100,nodes=2,seed=3", ticks: int = 5) -> Snapshot:
    simulator, ring = Simulator(parse(spec)[0], start_ts_s=1000.0), Ring()
    for _ in range(ticks):
        ring.add(simulator.step())
    return ring.snapshot()


def without(shown: Snapshot, **changes: Any) -> Snapshot:
    """The snapshot with some of its content replaced."""
    return dataclasses.replace(shown, **changes)


def unequal(shown: Snapshot, seed: int = 0) -> Snapshot:
    """The same GPUs, a third of them drawing much more than the others."""
    rng = np.random.default_rng(seed)
    draw = np.where(rng.random(len(shown.alive)) < 0.35, 690.0, 330.0)
    owner = shown.topology.owner
    hosts = 600.0 + np.bincount(owner, weights=draw)
    return without(
        shown,
        gpu={**shown.gpu, "power_w": draw},
        node={**shown.node, "node_power_w": hosts},
        power_w=np.empty((0, 0)),
        power_ts_s=np.empty(0),
    )


def peers(shown: Snapshot, configs: dict[str, Any] | None = None) -> dict[str, Plan]:
    """What each planner makes of the snapshot by itself."""
    made = {}
    for name, planner in PLANNERS.items():
        own = planner((configs or {}).get(name))  # type: ignore[abstract]
        made[name] = own.plan(shown, None, {}, deadline=Deadline.after(20.0))
    return made


def joint(
    shown: Snapshot, config: dict[str, Any] | None = None, previous: Plan | None = None, **more: Any
) -> JointPlan:
    """A verified joint plan."""
    planner = JointPlanner(config)
    plan = planner.plan(shown, previous, more.get("peers", {}), deadline=Deadline.after(20.0))
    planner.verify(plan, shown)
    return plan
