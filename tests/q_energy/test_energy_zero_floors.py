"""GPUs whose lowest limit is below what they draw at rest, such as those with max_w alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.q_energy import EnergyPlanner, plan_energy
from qcluster.q_energy.capping import CapProblem, dual_bound, predicted_speed, solve_caps
from qcluster.q_energy.trace import PowerTrace
from qcluster.q_energy.units import Units
from qcluster.telemetry import Node, Snapshot, Topology


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_bound_holds_where_caps_may_lie_below_rest(seed: int, part: float) -> None:
    rng = np.random.default_rng(seed)
    n = 3
    demand = rng.uniform(80, 700, n)
    low = np.where(rng.random(n) < 0.5, 0.0, rng.uniform(0, 60, n))
    units = Units(
        kind="gpu", ids=("a", "b", "c"), nodes=("n",), node=np.zeros(n, int), min_w=low,
        max_w=np.full(n, 700.0), p50_w=0.9 * demand, demand_w=demand,
        idle_w=np.minimum(rng.uniform(30, 175, n), 0.9 * demand),
        memory=rng.uniform(0, 0.8, n), overhead_w=np.zeros(1),
    )  # fmt: skip
    problem = CapProblem.of(units, low.sum() + part * (demand.sum() - low.sum()))
    bound = -dual_bound(problem)
    grids = [np.linspace(low[i], demand[i], 25) for i in range(n)]
    best = max(
        float(predicted_speed(units, np.array(caps)).sum())
        for caps in itertools.product(*grids)
        if sum(caps) <= problem.cap_budget_w
    )
    answer = solve_caps(problem, shared=True, deadline=Deadline.after(60.0))
    assert best <= bound + 1e-9
    assert best - 1e-9 <= -answer.certificate.objective <= bound + 1e-9


@pytest.mark.parametrize("hold", ["caps", "draw"])
def test_a_topology_without_floors_is_planned(hold: str) -> None:
    nodes = tuple(Node(id=name, gpus=2, model="my board", max_w=700.0) for name in "ab")
    snapshot = Snapshot(
        seq=1, ts_s=1.0, topology=Topology(nodes=nodes), alive=np.ones(4, bool),
        gpu={"power_w": np.array([690.0, 650.0, 100.0, 640.0])},
    )  # fmt: skip
    planner = EnergyPlanner({"budget_w": 900.0, "hold": hold})
    plan = planner.plan(snapshot, None, {}, deadline=Deadline.after(60.0))
    planner.verify(plan, snapshot)
    trace = PowerTrace.of(
        np.array(["a/0", "a/1", "b/0", "b/1"]), np.zeros(4), np.array([690.0, 650.0, 100.0, 640.0])
    )
    offline = plan_energy(trace, Topology(nodes=nodes), budget_w=900.0)
    assert offline.caps_w.sum() <= 900.0 + 1e-6
    for made in (plan, offline):
        (line,) = (line for line in made.warnings if "min_w" in line)
        assert line.startswith("4 GPUs, those of 'a' for one")
    nodes = tuple(Node(id=name, gpus=2, min_w=100.0, max_w=700.0) for name in "ab")
    bounded = plan_energy(trace, Topology(nodes=nodes), budget_w=900.0)
    assert not any("min_w" in line for line in bounded.warnings)
