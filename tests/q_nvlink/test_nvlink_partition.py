"""Ranks over NVLink domains: within hard capacities, never above the simple ways, bound proven."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink import Partition, partition_ranks
from qcluster.q_nvlink.partition import reference
from qcluster.q_nvlink.partition._kernels import cluster, contract, refine
from qcluster.q_nvlink.partition.bounds import least_crossing
from qcluster.q_nvlink.partition.cycle import Draws
from qcluster.q_nvlink.partition.outside import list_outside
from qcluster.q_nvlink.partition.starts import list_starts, repaired


def weights(n: int, seed: int, density: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.triu(rng.integers(1, 100, (n, n)) * (rng.random((n, n)) < density), 1)
    return (found + found.T).astype(float)


def capacities(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    found = rng.multinomial(n, np.full(k, 1 / k)) + rng.integers(0, 2, k)
    return found.astype(np.int64)


def teams(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Teams that talk among themselves, a little with the next, ranks shuffled."""
    rng = np.random.default_rng(seed)
    n = count * size
    team = np.arange(n) // size
    found = np.where(team[:, None] == team[None, :], 100.0, 0.0)
    found[np.arange(n), (np.arange(n) + size) % n] += 1.0
    np.fill_diagonal(found, 0.0)
    order = rng.permutation(n)
    return found[np.ix_(order, order)]


def check(traffic: np.ndarray, room: np.ndarray, found: Partition) -> None:
    assert found.domain.shape == (len(traffic),)
    assert (np.bincount(found.domain, minlength=len(room)) <= room).all()
    apart = found.domain[:, None] != found.domain[None, :]
    assert found.objective == pytest.approx(traffic[apart].sum())
    assert found.lower_bound <= found.objective * (1 + 1e-9)
    assert all(found.objective <= value * (1 + 1e-9) for value in found.baselines.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10**6))
def test_small_ones_are_optimal_and_the_bound_holds(n, k, seed):
    rng = np.random.default_rng(seed)
    traffic = rng.integers(0, 20, (n, n)) * (rng.random((n, n)) < 0.6)
    np.fill_diagonal(traffic, 0)
    room = capacities(n, k, rng)
    found = partition_ranks(traffic, room, deadline_s=0.5)
    check(traffic, room, found)
    best = reference.brute_force(np.asarray(traffic + traffic.T, dtype=float), room)
    assert found.objective == pytest.approx(best)
    assert found.lower_bound <= best + 1e-9


@pytest.mark.parametrize(("count", "size"), [(8, 8), (2, 72), (8, 72), (36, 8)])
def test_teams_find_each_other(count, size):
    traffic = teams(count, size)
    room = np.full(count, size)
    found = partition_ranks(traffic, room, deadline_s=2.0)
    check(traffic, room, found)
    assert found.objective == pytest.approx(count * size)  # the little with the next


def test_unequal_and_roomy_domains():
    traffic = teams(6, 10)
    room = np.array([30, 10, 25, 0, 3])
    found = partition_ranks(traffic, room, deadline_s=1.0)
    check(traffic, room, found)
    assert found.objective < found.baselines["linear"] / 5


def test_ranks_that_are_silent_and_one_domain_cost_nothing():
    assert partition_ranks(np.zeros((5, 5)), [2, 3], deadline_s=0.05).proven
    assert partition_ranks(weights(6, 0), [6], deadline_s=0.05).objective == 0.0
    assert len(partition_ranks(np.zeros((0, 0)), [4]).domain) == 0


def test_the_diagonal_does_not_count():
    traffic = weights(8, 1)
    again = partition_ranks(traffic + np.diag(np.full(8, 1e6)), [4, 4], deadline_s=0.5)
    assert again.objective == partition_ranks(traffic, [4, 4], deadline_s=0.5).objective


def test_same_seed_same_answer_and_it_round_trips():
    traffic = teams(4, 4)
    a, b = (partition_ranks(traffic, [4] * 4, deadline_s=0.5, seed=3) for _ in range(2))
    assert a.objective == b.objective
    again = Partition.from_dict(json.loads(json.dumps(a.to_dict())))
    assert again.to_dict() == a.to_dict()


@pytest.mark.parametrize(
    ("traffic", "room", "text"),
    [
        ([[0, -1], [0, 0]], [1, 1], r"traffic\[0\]\[1\].*at least 0"),
        ([[0, float("nan")], [0, 0]], [1, 1], r"traffic\[0\]\[1\]"),
        ([[0, float("inf")], [0, 0]], [1, 1], "finite"),
        ([[0, 1, 2]], [1], "shape"),
        ("abc", [1], "matrix"),
        ([[0, 1], [0]], [1], "matrix"),
        ([[0, 1], [0, 0]], [1, -1], r"capacities\[1\]"),
        ([[0, 1], [0, 0]], [1.5, 1], "counts"),
        ([[0, 1], [0, 0]], [True, True], "counts"),
        ([[0, 1], [0, 0]], 2, "counts"),
    ],
)
def test_what_makes_no_sense_is_named(traffic, room, text):
    with pytest.raises(InputError, match=text):
        partition_ranks(traffic, room)


@pytest.mark.parametrize("room", [[1, 1], [], [0]])
def test_too_little_room(room):
    with pytest.raises(Infeasible, match="3 ranks"):
        partition_ranks(np.ones((3, 3)), room)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 24), st.integers(1, 5), st.integers(0, 10**6))
def test_clusters_pair_ranks_of_one_kind_and_keep_all_weights(n, kinds, seed):
    rng = np.random.default_rng(seed)
    weight, size = weights(n, seed), rng.integers(1, 4, n)
    same = rng.integers(0, kinds, n)
    label, count = cluster(weight, size, same, rng.permutation(n), 4)
    held = np.bincount(label, minlength=count)
    assert held.min() >= 1
    assert held.max() <= 2
    for c in range(count):
        assert len(set(same[label == c])) == 1
        assert held[c] == 1 or size[label == c].sum() <= 4
    assert np.allclose(contract(weight, label, count), reference.contract(weight, label, count))


@pytest.mark.parametrize("n", [12, 120])
def test_refining_stays_feasible_tells_its_gain_and_reaches_what_descent_does(n):
    rng = np.random.default_rng(n)
    weight, room = weights(n, 5), np.full(4, n // 4 + 1)
    part = rng.permutation(np.arange(n) % 4).astype(np.int64)
    before = part.copy()
    state = np.array([7], dtype=np.uint64)
    gain = refine(weight, np.ones(n, dtype=np.int64), part, room, 200, state)
    assert (np.bincount(part, minlength=4) <= room).all()
    assert reference.crossing(weight, before) - gain == pytest.approx(
        reference.crossing(weight, part)
    )
    if n == 12:
        plain = reference.descend(weight, before, room)
        assert reference.crossing(weight, part) <= reference.crossing(weight, plain) + 1e-9


@pytest.mark.parametrize("n", [30, 130])
def test_refining_clusters_respects_their_sizes(n):
    rng = np.random.default_rng(n)
    size = rng.integers(1, 4, n)
    part = (np.arange(n) % 5).astype(np.int64)
    room = np.bincount(part, weights=size, minlength=5).astype(np.int64) + 1
    refine(weights(n, 2), size, part, room, 100, np.array([3], dtype=np.uint64))
    assert (np.bincount(part, weights=size, minlength=5) <= room).all()


def test_starts_and_repair_keep_capacities():
    rng = np.random.default_rng(0)
    weight, room = weights(30, 3), np.array([12, 3, 9, 6, 0, 4])
    for start in list_starts(weight, room, 6, Draws(rng)):
        assert (np.bincount(start, minlength=6) <= room).all()
        assert start.min() >= 0
    fixed = repaired(weight, np.zeros(30, dtype=np.int64), room)
    assert (np.bincount(fixed, minlength=6) <= room).all()


def test_halves_find_the_long_boundaries_of_a_grid():
    side = 16
    at = np.arange(side * side).reshape(side, side)
    grid = np.zeros((side * side,) * 2)
    for a, b in ((at[:, :-1], at[:, 1:]), (at[:-1], at[1:])):
        grid[a.ravel(), b.ravel()] = 1.0
    order = np.random.default_rng(3).permutation(side * side)
    room = np.full(8, 32)
    starts = list(list_starts(grid + grid.T, room, 3, Draws(np.random.default_rng(0))))
    packed, halved, grown = (reference.crossing(grid + grid.T, part) for part in starts)
    assert halved < min(packed, grown)
    found = partition_ranks(grid[np.ix_(order, order)], room, deadline_s=2.0)
    assert found.objective <= 80  # 4 x 8 blocks, 16 lines of 16 in all less the outer ones


@pytest.mark.parametrize("room", [[5], [3, 0, 4], [1, 1, 1, 1, 1, 1]])
def test_starts_within_odd_capacities(room):
    n = sum(room)
    for start in list_starts(weights(n, 3), np.array(room), 3, Draws(np.random.default_rng(1))):
        assert (np.bincount(start, minlength=len(room)) <= room).all()


def test_the_bound_sees_what_no_domain_can_hold():
    everyone = np.ones((8, 8)) - np.eye(8)
    assert least_crossing(everyone, np.array([4, 4])) == pytest.approx(16.0)
    assert least_crossing(everyone, np.array([8, 8])) == 0.0
    assert partition_ranks(everyone, [4, 4], deadline_s=0.1).proven


def test_installed_partitioners_are_asked_and_repaired(monkeypatch):
    calls = []

    def part_graph(k, adjacency, eweights):
        calls.append("metis")
        assert len(eweights) == adjacency[0][-1] == len(adjacency[1])
        return 0, [0] * 12

    def kaffpa(vwgt, xadj, adjcwgt, adjncy, k, imbalance, quiet, seed, mode):
        calls.append("kahip")
        assert len(vwgt) == len(xadj) - 1
        return 0, [i % k for i in range(12)]

    metis = SimpleNamespace(CSRAdjacency=lambda a, b: (a, b), part_graph=part_graph)
    monkeypatch.setitem(sys.modules, "pymetis", metis)
    monkeypatch.setitem(sys.modules, "kahip", SimpleNamespace(kaffpa=kaffpa))
    monkeypatch.setattr("qcluster.q_nvlink.partition.outside.find_spec", lambda _: object())
    found = list(list_outside(weights(12, 0), np.array([4, 4, 4])))
    assert calls == ["metis", "kahip"]
    for part in found:
        assert (np.bincount(part, minlength=3) <= 4).all()
    assert not list(list_outside(weights(12, 0), np.array([4, 4, 5])))
    assert not list(list_outside(np.zeros((12, 12)), np.array([4, 4, 4])))
