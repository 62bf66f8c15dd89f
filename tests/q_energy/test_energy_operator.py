"""What an operator reads in a plan: clocks, hosts without GPUs, who chose the pipeline and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from qcluster.deadline import Deadline
from qcluster.explain import explain
from qcluster.q_energy import EnergyPlan, EnergyPlanner, plan_energy
from qcluster.telemetry import Node, Snapshot, Topology

CLOCKS = (500, 1000, 1500, 1980)


def cluster(power: list[float], *, head_w: float | None = None, **more: Any) -> Snapshot:
    """One node of H100, and a head node without GPUs."""
    nodes = (
        Node(id="head", gpus=0),
        Node(id="a", gpus=len(power), model="H100", min_w=200, max_w=700, clocks_mhz=CLOCKS),
    )
    node = {} if head_w is None else {"node_power_w": np.array([head_w, np.nan])}
    fields: dict[str, Any] = {
        "seq": 1, "ts_s": 1.0, "topology": Topology(nodes=nodes),
        "alive": np.ones(len(power), bool), "gpu": {"power_w": np.array(power)}, "node": node,
    }  # fmt: skip
    return Snapshot(**{**fields, **more})


def planned(planner: EnergyPlanner, snap: Snapshot, previous: Any = None) -> EnergyPlan:
    plan = planner.plan(snap, previous, {}, deadline=Deadline.after(60.0))
    planner.verify(plan, snap)
    return plan


def test_a_host_without_gpus_draws_all_its_power_beside_the_caps() -> None:
    planner = EnergyPlanner({"budget_w": 1500.0})
    plan = planned(planner, cluster([600.0, 650.0], head_w=400.0))
    assert plan.overhead_w == 400.0
    assert plan.caps_w.sum() <= 1100.0 + 1e-6
    assert not plan.warnings
    assert planned(planner, cluster([600.0, 650.0])).overhead_w == 0.0
    frame = pd.DataFrame({"ts_s": 0.0, "node": ["head", "a"], "power_w": [400.0, 1000.0]})
    offline = plan_energy(frame, cluster([1.0, 1.0]).topology, budget_w=1500.0)
    assert offline.overhead_w == pytest.approx(400.0 + 0.3 * 1000.0)


def test_a_cap_just_below_the_demand_keeps_the_highest_clock() -> None:
    # The second GPU's share ends within watts of what it wants, since slopes meet there.
    planner = EnergyPlanner({"budget_w": 1300.0})
    plan = planned(planner, cluster([600.0, 300.0, 600.0, 100.0]))
    (node,) = [node for node in plan.nodes if node.caps_w]
    assert 300.0 < node.caps_w["a/1"] < 309.0
    assert node.freq_cap_mhz["a/1"] == 1980
    assert node.freq_cap_mhz["a/0"] < 1980


def test_the_table_of_pipelines_is_in_the_plan_and_told() -> None:
    planner = EnergyPlanner({"meta": True, "gnn": False, "budget_w": 900.0})
    plan, rng = None, np.random.default_rng(0)
    for k in range(4):
        power = rng.uniform(300, 690, 2).tolist()
        plan = planned(planner, cluster(power, seq=k, ts_s=float(k)), plan)
    assert plan is not None
    (costs,) = plan.pipeline_table.values()
    known = {name: cost for name, cost in costs.items() if cost is not None}
    assert known["independent"] >= known["classical"] >= 1.0 - 1e-9
    assert plan.pipeline_table == plan.meta.table()  # type: ignore[union-attr]
    told = explain(plan.to_dict())["because"]
    assert any(line.startswith(f"Pipeline {plan.pipeline}, chosen by ") for line in told)
    (line,) = [
        line for line in told if line.startswith("Mean cost over the cheapest for 'no jobs'")
    ]
    assert f"classical {known['classical']:.4f}" in line
    joint = explain({**plan.to_dict(), "planner": "joint", "energy": plan.to_dict()})
    assert line in joint["because"]
    quiet = explain(planned(EnergyPlanner({"budget_w": 900.0}), cluster([300.0])).to_dict())
    assert not any(line.startswith("Pipeline") for line in quiet["because"])
