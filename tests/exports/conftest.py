"""Plans of a small cluster with a GPU that does not answer, as the store keeps them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.plan import SolverRef
from qcluster.q_energy.planner import EnergyPlanner
from qcluster.q_nvlink.planner import NVLinkPlanner
from qcluster.q_routing import place_experts
from qcluster.q_routing.planner import PlacementPlan
from qcluster.telemetry import Ring, Topology
from qcluster.telemetry.sources.simulate.simulator import Scenario, Simulator


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    return Simulator(Scenario(rack="dgx-h100", nodes=3), start_ts_s=1_700_000_000.0)


@pytest.fixture(scope="session")
def topology(simulator: Simulator) -> Topology:
    return simulator.topology


@pytest.fixture(scope="session")
def plans(simulator: Simulator) -> dict[str, dict[str, Any]]:
    """Planner to plan, through JSON and back."""
    ring = Ring()
    for _ in range(8):
        ring.add(simulator.step())
    snapshot = ring.snapshot()
    made = {
        "nvlink": NVLinkPlanner({}).plan(snapshot, None, {}, deadline=Deadline.after(5.0)),
        "energy": EnergyPlanner({}).plan(snapshot, None, {}, deadline=Deadline.after(5.0)),
        "routing": routing_plan(),
    }
    found = {name: json.loads(json.dumps(plan.to_dict())) for name, plan in made.items()}
    found["joint"] = {"planner": "joint", **{k: v for k, v in found["nvlink"].items() if k in KEPT}}
    found["joint"] |= {name: found[name] for name in ("routing", "nvlink", "energy")}
    return found


KEPT = ("plan_id", "created_at", "seed", "config", "solver", "telemetry", "objective", "wall_s")


def routing_plan() -> PlacementPlan:
    """Three layers of 16 experts on 8 GPUs, of which the sixth is lost."""
    load = np.random.default_rng(7).zipf(1.6, (3, 16)).clip(max=500).astype(float)
    alive = np.arange(8) != 5
    placement = place_experts(
        load, num_slots=24, num_gpus=8, alive=alive, slots_per_gpu=np.full(8, 3)
    )
    return PlacementPlan(
        planner="routing",
        config={},
        seed=0,
        solver=SolverRef(requested="replan", used="replan"),
        objective=1 / placement.balancedness,
        placement=placement,
        gpu_ids=tuple(f"h{i // 4}/{i % 4}" for i in range(8)),
        balancedness_before=0.5,
        balancedness_after=placement.balancedness,
        balancedness_next=None,
        upper_bound=placement.upper_bound,
        moved_slots=0,
    )
