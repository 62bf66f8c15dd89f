"""The live planner on snapshots: quality, stickiness, what it refuses, what verify finds."""

import dataclasses
import json

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.errors import InputError, NotReady, SolverFailed
from qcluster.planner import build_planner
from qcluster.q_routing.formats import read_trace, windows_of
from qcluster.q_routing.planner import PlacementPlan, RoutingPlanner
from qcluster.q_routing.windows import blend, switched
from qcluster.telemetry import Batch, Block, Node, Ring, Topology

TOPOLOGY = Topology(nodes=(Node(id="a", gpus=4), Node(id="b", gpus=4)))
FOREVER = Deadline.never()


def snapshots(windows, lost=()):
    ring = Ring()
    ids = TOPOLOGY.gpu_ids
    for i, load in enumerate(windows):
        up = np.array([0.0 if gpu in lost else 1.0 for gpu in ids])
        block = Block.of("gpu", ids, {"up": up})
        ring.add(
            Batch(source="test", ts_s=1e9 + i, blocks=(block,), expert_load=load, topology=TOPOLOGY)
        )
        yield ring.snapshot()


def loads(seed=0, windows=3, layers=3, experts=24):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(experts), size=layers)
    return np.stack([[rng.multinomial(4000, row) for row in p] for _ in range(windows)]).astype(
        float
    )


def run(planner, series):
    plan = None
    for snapshot in series:
        plan = planner.plan(snapshot, plan, {}, deadline=FOREVER)
        planner.verify(plan, snapshot)
        yield plan


def test_plans_follow_the_load_within_the_budget():
    planner = RoutingPlanner({"max_moved": 0.1, "balanced_enough": 1.0, "min_gain": 0.0})
    plans = list(run(planner, snapshots(np.concatenate([loads(0), loads(1)]))))
    slots = plans[0].placement.slots.size
    assert plans[0].balancedness_after > 0.98
    assert plans[0].moved_slots == 0
    assert all(0 <= p.moved_slots <= 0.1 * slots for p in plans[1:])
    assert plans[3].switched
    assert not plans[5].switched
    assert plans[3].balancedness_after > plans[3].balancedness_before
    assert plans[3].balancedness_next == pytest.approx(plans[3].balancedness_before)
    for plan in plans:
        assert plan.planner == "routing"
        assert plan.lower_bound <= plan.objective == pytest.approx(1 / plan.balancedness_after)
        assert plan.gpu_load_before.shape == plan.gpu_load_after.shape == (8,)
        assert plan.gpu_load_after.sum() == pytest.approx(plan.load.sum())
        assert plan.telemetry.snapshot_hash
        assert plan.expires_at > plan.created_at
        assert PlacementPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_balanced_plan_is_left_alone():
    plans = list(run(RoutingPlanner({"balanced_enough": 0.9}), snapshots(loads())))
    assert [p.kept for p in plans] == [False, True, True]
    assert all(p.moved_slots == 0 for p in plans)
    assert np.array_equal(plans[0].placement.slots, plans[2].placement.slots)


def test_a_lost_gpu_is_emptied_even_when_balanced():
    planner = RoutingPlanner({"balanced_enough": 0.5, "max_moved": 0.3, "num_slots": 40})
    windows = loads()
    (first,) = run(planner, snapshots(windows[:1]))
    (now,) = snapshots(windows[:1], lost={"a/1"})
    with pytest.raises(SolverFailed, match="a/1, which does not answer"):
        planner.verify(first, now)
    plan = planner.plan(now, first, {}, deadline=FOREVER)
    planner.verify(plan, now)
    assert not plan.kept
    assert plan.gpu_load_after[1] == 0


def test_another_cluster_or_model_starts_afresh():
    planner = RoutingPlanner({})
    (plan,) = run(planner, snapshots(loads(experts=24)[:1]))
    (other,) = snapshots(loads(experts=32)[:1])
    fresh = planner.plan(other, plan, {}, deadline=FOREVER)
    planner.verify(fresh, other)
    assert fresh.moved_slots == 0


def test_not_ready_says_what_is_missing():
    planner = RoutingPlanner({})
    with pytest.raises(NotReady, match="no GPUs"):
        planner.plan(Ring().snapshot(), None, {}, deadline=FOREVER)
    ring = Ring()
    ring.add(Batch(source="test", ts_s=1e9, topology=TOPOLOGY))
    with pytest.raises(NotReady, match="no expert loads"):
        planner.plan(ring.snapshot(), None, {}, deadline=FOREVER)
    for bad, message in ((0.0, "all zero"), (np.nan, "not finite"), (-1.0, "not finite")):
        (snapshot,) = snapshots([np.full((2, 4), bad)])
        with pytest.raises(NotReady, match=message):
            planner.plan(snapshot, None, {}, deadline=FOREVER)
    (dark,) = snapshots(loads()[:1], lost=set(TOPOLOGY.gpu_ids))
    with pytest.raises(NotReady, match="no GPU answers"):
        planner.plan(dark, None, {}, deadline=FOREVER)


def test_verify_recounts_what_the_plan_claims():
    planner = RoutingPlanner({})
    (snapshot,) = snapshots(loads()[:1])
    plan = planner.plan(snapshot, None, {}, deadline=FOREVER)
    with pytest.raises(SolverFailed, match="claims balancedness"):
        planner.verify(dataclasses.replace(plan, balancedness_after=0.5), snapshot)
    slots = plan.placement.slots.copy()
    slots[0, 1] = slots[0, 0]
    broken = dataclasses.replace(plan.placement, slots=slots)
    with pytest.raises(SolverFailed, match="twice"):
        planner.verify(dataclasses.replace(plan, placement=broken), snapshot)
    with pytest.raises(SolverFailed, match="other GPUs"):
        planner.verify(dataclasses.replace(plan, gpu_ids=("x/0",)), snapshot)


def test_configuration_is_checked():
    with pytest.raises(InputError, match=r"config\.max_moved"):
        RoutingPlanner({"max_moved": 1.5})
    with pytest.raises(InputError, match=r"config\.speed"):
        RoutingPlanner({"speed": 1})
    (snapshot,) = snapshots(loads()[:1])
    with pytest.raises(InputError, match="num_slots"):
        RoutingPlanner({"num_slots": 8}).plan(snapshot, None, {}, deadline=FOREVER)


def test_hierarchical_mode_uses_the_topology_s_nodes():
    planner = RoutingPlanner({"mode": "hierarchical", "num_groups": 4, "num_slots": 32})
    plans = list(run(planner, snapshots(loads())))
    node = plans[-1].placement.gpu_of_slot // 4
    for row in plans[-1].placement.slots:
        assert all(len(set(node[row // 6 == g])) == 1 for g in range(4))


def test_switches_are_seen_at_the_distance_asked_for():
    one, two = np.array([[10.0, 0.0]]), np.array([[5.0, 5.0]])
    assert switched(one, two, 0.49)
    assert not switched(one, two, 0.51)
    assert not switched(one, 7 * one, 0.0)


def test_older_windows_weigh_less_and_nothing_from_before_a_switch():
    one, two = np.array([[8.0, 2.0]]), np.array([[2.0, 8.0]])
    load, switch = blend(np.stack([one, one, one]), 0.5, 0.3)
    assert load.tolist() == [[14.0, 3.5]]
    assert not switch
    load, switch = blend(np.stack([one, one, two]), 0.5, 0.3)
    assert load.tolist() == two.tolist()
    assert switch
    load, switch = blend(np.stack([one, two, two]), 0.5, 0.3)
    assert load.tolist() == (1.5 * two).tolist()
    assert not switch


def test_built_by_path_and_warmed():
    planner = build_planner("qcluster.q_routing.planner:RoutingPlanner", {"max_moved": 0.2})
    assert planner.config.max_moved == 0.2


def test_real_traces_replayed_as_live_telemetry(data_dir):
    """Two tasks in turn: the plan recovers from every switch at 5 % of slots a window."""
    tasks = [
        windows_of(read_trace(data_dir / "routing" / f"dsv2lite_{task}.npz"), 1000, 64)
        for task in ("intent", "law")
    ]
    series = np.concatenate([tasks[0][:3], tasks[1][:3]])
    planner = RoutingPlanner({"num_slots": 80})
    plans = list(run(planner, snapshots(series)))
    assert plans[0].balancedness_after > 0.998
    assert plans[3].switched
    assert plans[3].balancedness_after > plans[3].balancedness_before + 0.1
    assert plans[-1].balancedness_after > 0.95
    assert all(p.moved_slots <= 0.05 * p.placement.slots.size for p in plans[1:])
