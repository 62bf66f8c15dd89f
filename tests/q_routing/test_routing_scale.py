"""The live planner at scale: after its deadline it begins nothing, and every plan is valid."""

import math

import numpy as np
import pytest
from clock import Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from qcluster.deadline import Deadline
from qcluster.q_routing._sticky_kernels import arrange_layer, match_layer
from qcluster.q_routing.placement import keep, place, verify_placement
from qcluster.q_routing.planner import RoutingPlanner
from qcluster.q_routing.problem import PlacementProblem
from qcluster.q_routing.sticky import align
from qcluster.telemetry import Batch, Block, Node, Ring, Topology

OVER = Deadline(-math.inf)


def zipf(s, layers, experts, seed):
    rng = np.random.default_rng(seed)
    p = np.arange(1, experts + 1.0) ** -s
    rows = [rng.multinomial(20_000, rng.permutation(p / p.sum())) for _ in range(layers)]
    return np.array(rows, dtype=float)


def snapshots(nodes, windows):
    topology = Topology(nodes=tuple(Node(id=f"n{i}", gpus=8) for i in range(nodes)))
    ids, ring = topology.gpu_ids, Ring()
    block = Block.of("gpu", ids, {"up": np.ones(len(ids))})
    for i, load in enumerate(windows):
        batch = {"source": "test", "ts_s": 1e9 + i, "blocks": (block,), "topology": topology}
        ring.add(Batch(**batch, expert_load=load))
        yield ring.snapshot()


@pytest.fixture(scope="module")
def warm():
    RoutingPlanner({}).warm_up()


@pytest.mark.parametrize(
    ("nodes", "layers", "experts", "config"),
    [
        (9, 26, 64, {}),
        (64, 26, 64, {}),
        (64, 26, 64, {"max_moved": 1.0}),
        (360, 58, 256, {"num_slots": 2880}),
        (360, 58, 256, {"num_slots": 2880, "max_moved": 1.0}),
    ],
    ids=["72", "512", "512 any moves", "2880", "2880 any moves"],
)
@pytest.mark.parametrize("looks", [1, 8, 40])
def test_after_the_deadline_nothing_new_is_begun(
    warm, monkeypatch, nodes, layers, experts, config, looks
):
    planner = RoutingPlanner({"balanced_enough": 1.0, "min_gain": 0.0, **config})
    # The last window is a switch of domain, for which the plan in force is far off.
    windows = [zipf(s, layers, experts, seed) for s, seed in ((0.8, 0), (0.8, 0), (1.1, 1))]
    plan = None
    for snapshot in snapshots(nodes, windows):
        with monkeypatch.context() as patch:
            clock = Clock(patch, looks)
            plan = planner.plan(snapshot, plan, {}, deadline=Deadline.after(0.3))
        # Each layer may see once that the time is over, and so may each stage.
        assert clock.after <= layers + 10
        planner.verify(plan, snapshot)
        assert plan.balancedness_after >= plan.balancedness_before - 1e-9
        assert plan.moved_slots <= planner.config.max_moved * plan.placement.slots.size


def test_no_time_at_all_still_gives_a_plan():
    problem = PlacementProblem.of(zipf(0.8, 3, 24, 0), num_slots=40, num_gpus=8)
    first = place(problem, None, None, OVER)
    verify_placement(problem, first.slots)
    other = PlacementProblem.of(zipf(0.8, 3, 24, 1), num_slots=40, num_gpus=8)
    stayed = place(other, first.slots, 0.5, OVER)
    assert np.array_equal(stayed.slots, first.slots)
    assert np.array_equal(keep(other, first.slots).slots, first.slots)
    assert stayed.balancedness <= stayed.upper_bound


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_greedy_names_are_a_permutation_within_kinds_and_half_as_good_as_exact(seed, gpus, room):
    rng = np.random.default_rng(seed)
    experts = room + int(rng.integers(0, 8))
    start, kind = np.arange(gpus + 1) * room, np.sort(rng.integers(0, 3, gpus))
    old, new = (
        np.concatenate([rng.permutation(experts)[:room] for _ in range(gpus)]) for _ in range(2)
    )
    name = np.empty(gpus, dtype=np.int64)
    match_layer(old, new, start, kind, experts, name)
    assert sorted(name) == list(range(gpus))
    assert (kind[name] == kind).all()
    parts = [[set(row) for row in of.reshape(gpus, room).tolist()] for of in (old, new)]
    common = np.array([[len(a & b) for b in parts[1]] for a in parts[0]])
    allowed = np.where(kind[:, None] == kind[None], common, -1000)
    best = allowed[linear_sum_assignment(allowed, maximize=True)].sum()
    assert common[name, np.arange(gpus)].sum() >= best / 2
    out = np.empty_like(new)
    arrange_layer(old, new, start, name, out)
    after = out.reshape(gpus, room)
    for b in range(gpus):
        assert set(after[name[b]].tolist()) == parts[1][b]
    # What old and new have in common on a GPU stays in its slot.
    assert (out == old).sum() == common[name, np.arange(gpus)].sum()


@pytest.mark.parametrize("exact", [True, False])
def test_a_renamed_plan_is_recognised(exact):
    problem = PlacementProblem.of(zipf(0.8, 4, 48, 2), num_slots=48, num_gpus=12)
    slots = place(problem, None, None, Deadline.never()).slots
    order = np.random.default_rng(3).permutation(12)
    shuffled = slots.reshape(4, 12, 4)[:, order, ::-1].reshape(4, 48)
    back = align(problem, slots, shuffled, Deadline.never(), exact)
    assert np.array_equal(back, shuffled)
    assert align(problem, slots, shuffled, OVER, exact) is None
