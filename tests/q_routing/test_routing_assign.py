"""Token assignment: capacities hold, the bound is a bound, quality against the exact answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import Infeasible, InputError
from qcluster.q_routing import Assignment, assign_tokens
from qcluster.q_routing._token_kernels import demand, demand_top, evict, picks


def clustered(tokens, experts, seed=0):
    rng = np.random.default_rng(seed)
    centre, hot = rng.normal(size=(16, experts)), rng.normal(size=experts)
    kind = rng.choice(16, tokens, p=rng.dirichlet(np.ones(16)))
    return (centre[kind] + 0.7 * rng.normal(size=(tokens, experts)) + hot).astype(np.float32)


def exact(scores, capacity):
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(np.repeat(scores, capacity, axis=1), maximize=True)
    return scores[rows, columns // capacity].sum()


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 3), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_capacities_hold_and_the_bound_is_a_bound(tokens, experts, k, seed):
    k = min(k, experts)
    scores = np.random.default_rng(seed).normal(size=(tokens, experts))
    capacity = -(-tokens * k // experts)
    found = assign_tokens(scores, capacity=capacity, k=k)
    expert = found.expert.reshape(tokens, -1)
    assert expert.shape == (tokens, k)
    assert np.bincount(expert.ravel(), minlength=experts).max() <= capacity
    assert all(len(set(row)) == k for row in expert.tolist())
    assert found.objective == pytest.approx(np.take_along_axis(scores, expert, 1).sum())
    assert found.objective <= found.upper_bound + 1e-9
    if k == 1:
        assert exact(scores, capacity) <= found.upper_bound + 1e-6


def test_near_the_exact_answer():
    scores = clustered(512, 32).astype(float)
    best = exact(scores, 16)
    found = assign_tokens(scores, capacity=16)
    assert best * 0.995 <= found.objective <= best + 1e-6 <= found.upper_bound + 1e-5


def test_certified_on_many_tokens():
    scores = clustered(40_000, 64)
    fast = assign_tokens(scores, capacity=625, sweeps=0)
    good = assign_tokens(scores, capacity=625)
    assert fast.objective >= 0.98 * fast.upper_bound
    assert good.objective >= 0.999 * good.upper_bound
    assert np.bincount(good.expert, minlength=64).max() <= 625


def test_room_to_spare_costs_nothing():
    scores = clustered(500, 8)
    found = assign_tokens(scores, capacity=500)
    assert np.array_equal(found.expert, scores.argmax(axis=1))
    assert found.objective == pytest.approx(found.upper_bound, rel=1e-6)


def test_each_expert_its_own_capacity():
    scores = clustered(100, 4)
    capacity = np.array([0, 10, 20, 70])
    found = assign_tokens(scores, capacity=capacity)
    assert (np.bincount(found.expert, minlength=4) == capacity).all()


def test_weights_fill_capacities_by_weight():
    rng = np.random.default_rng(0)
    weights, scores = rng.uniform(0.5, 2, 400), clustered(400, 8)
    room = weights.sum() / 8 * 1.05
    found = assign_tokens(scores, capacity=room, weights=weights)
    assert np.bincount(found.expert, weights=weights).max() <= room
    assert 0.97 * found.upper_bound <= found.objective <= found.upper_bound


def test_tight_top_k_finds_its_way():
    # Two experts of four have room for all, so every token must take both: k = 2, no slack.
    found = assign_tokens(np.zeros((6, 4)), capacity=[6, 6, 0, 0], k=2)
    assert sorted(found.expert[0]) == [0, 1]
    scores = clustered(64, 8, 3)
    tight = assign_tokens(scores, capacity=8 * 3, k=3)
    assert np.bincount(tight.expert.ravel()).tolist() == [24] * 8


def test_round_trip_and_repeatability():
    scores = clustered(5000, 16)
    first, second = (assign_tokens(scores, capacity=313) for _ in range(2))
    assert first == second == Assignment.from_dict(first.to_dict())


def test_demand_twin():
    rng = np.random.default_rng(1)
    scores, price, weight = rng.normal(size=(50, 6)), rng.random(6), rng.uniform(1, 2, 50)
    rows, load = np.arange(0, 50, 2), np.empty(6)
    value = scores - weight[:, None] * price
    total = demand(scores, price, weight, rows, load)
    best = value.argmax(axis=1)
    assert total == pytest.approx(value.max(axis=1)[rows].sum())
    assert load == pytest.approx(np.bincount(best[rows], weight[rows], minlength=6))
    total = demand_top(scores, price, weight, rows, 3, load)
    assert total == pytest.approx(np.sort(value[rows])[:, -3:].sum())
    top = np.argsort(-value[rows])[:, :3]
    assert load == pytest.approx(np.bincount(top.ravel(), np.repeat(weight[rows], 3), minlength=6))


def test_picks_twin_and_eviction():
    rng = np.random.default_rng(2)
    scores, price, weight = rng.normal(size=(40, 5)), rng.random(5), np.ones(40)
    out, regret, load = np.empty((40, 2), np.int64), np.empty((40, 2)), np.empty(5)
    total = picks(scores, price, weight, out, regret, load)
    value = scores - price
    assert np.array_equal(out, np.argsort(-value)[:, :2])
    ranked = -np.sort(-value)
    assert regret == pytest.approx(ranked[:, :2] - ranked[:, 2:3])
    assert total == pytest.approx(ranked[:, :2].sum())
    room, cast = np.full(5, 10.0), np.empty(80, np.int64)
    order = np.argsort(regret.ravel(), kind="stable")
    n = evict(out, order, weight, room, load, cast)
    assert load.max() <= 10
    assert (out.ravel()[cast[:n]] == -1).all()
    assert (out >= 0).sum() + n == 80


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([[1.0, np.nan]], {}, "row 1, field 'scores': holds a score that is not finite"),
        ([[1.0, 2.0], [np.inf, 0]], {}, "row 2"),
        ([], {}, "wants numbers of shape"),
        (np.empty((0, 3)), {}, "holds no token"),
        ([[True, False]], {}, "wants numbers"),
        ([[1.0, 2.0]], {"k": 3}, "asks for 3 of 2"),
        ([[1.0, 2.0]], {"k": 0}, "whole number"),
        ([[1.0, 2.0]], {"capacity": -1}, "at least 0"),
        ([[1.0, 2.0]], {"capacity": [1, 2, 3]}, "one number or 2"),
        ([[1.0, 2.0]], {"weights": [0.0]}, "above 0"),
        ([[1.0, 2.0]], {"weights": [1, 2]}, "wants 1 numbers"),
    ],
)
def test_bad_input_is_named(scores, options, message):
    with pytest.raises(InputError, match=message):
        assign_tokens(scores, **{"capacity": 1, **options})


def test_too_little_capacity_says_by_how_much():
    with pytest.raises(Infeasible, match="1 less"):
        assign_tokens(np.zeros((5, 2)), capacity=2)
    with pytest.raises(Infeasible, match="no expert can serve a token twice"):
        assign_tokens(np.zeros((2, 3)), capacity=[9, 0, 0], k=2)
    with pytest.raises(Infeasible, match="weights"):
        assign_tokens(np.zeros((3, 2)), capacity=3.0, weights=[2.0, 2.0, 2.0])
