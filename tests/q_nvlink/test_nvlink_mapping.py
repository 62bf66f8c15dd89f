"""Rank mapping: optimal where that can be checked, bounded always, on asymmetric matrices too."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink import place_ranks
from qcluster.q_nvlink.mapping import Mapping
from qcluster.q_nvlink.mapping._kernels import tabu, tabu_symmetric
from qcluster.q_nvlink.mapping.reference import brute_force, cost

BEST = {"nug12": 578, "nug20": 2570, "esc32a": 130, "tai20b": 122455319, "bur26a": 5426670}


def read(path) -> tuple[np.ndarray, np.ndarray]:
    values = np.array(path.read_text().split(), dtype=float)
    n = int(values[0])
    return values[1 : 1 + n * n].reshape(n, n), values[1 + n * n : 1 + 2 * n * n].reshape(n, n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 2), st.booleans())
def test_small_problems_are_solved_and_proven(seed, n, spare, negative):
    rng = np.random.default_rng(seed)
    low = -5 if negative else 0
    flow = rng.integers(low, 9, (n, n)).astype(float)
    dist = rng.integers(0, 9, (n + spare, n + spare)).astype(float)
    found = place_ranks(flow, dist, deadline_s=0.05)
    assert len(set(found.location.tolist())) == n
    assert found.objective == pytest.approx(cost(flow, dist, found.location))
    assert found.objective == pytest.approx(brute_force(flow, dist))
    assert found.lower_bound <= found.objective + 1e-9
    if not negative:
        assert found.proven


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_tabu_counts_its_changes_right_on_asymmetric_matrices(seed, m):
    rng = np.random.default_rng(seed)
    flow = rng.integers(0, 9, (m, m)).astype(float)
    dist = rng.integers(0, 9, (m, m)).astype(float)
    start = rng.permutation(m).astype(np.int64)
    walker, best = start.copy(), np.empty(m, dtype=np.int64)
    change = tabu(flow, dist, m, walker, best, 60, np.array([seed + 1], dtype=np.uint64))
    assert sorted(best.tolist()) == list(range(m))
    assert cost(flow, dist, start) + change == pytest.approx(cost(flow, dist, best))
    assert change <= 0


def test_qaplib_optima(data_dir):
    for name, best in BEST.items():
        flow, dist = read(data_dir / "nvlink" / "qaplib" / f"{name}.dat")
        for seconds in (1.5, 6.0, 24.0):  # a busy machine may need more
            found = place_ranks(flow, dist, deadline_s=seconds)
            if found.objective == best:
                break
        assert found.objective == best, name
        assert found.lower_bound <= best


def test_listed_permutations_give_the_listed_values(data_dir):
    for name in ("nug12", "had20", "tai20b", "bur26a", "chr25a"):
        flow, dist = read(data_dir / "nvlink" / "qaplib" / f"{name}.dat")
        listed = (data_dir / "nvlink" / "qaplib" / f"{name}.sln").read_text().split()
        place = np.array(listed[2:], dtype=np.int64) - 1
        values = {cost(flow, dist, place), cost(dist, flow, place)}
        assert float(listed[1]) in values


def test_spare_locations_are_used_where_they_are_near():
    flow = np.array([[0, 10.0, 0], [10.0, 0, 1.0], [0, 1.0, 0]])
    dist = np.abs(np.subtract.outer([0, 50, 100, 101, 102], [0, 50, 100, 101, 102])).astype(float)
    found = place_ranks(flow, dist, deadline_s=0.2)
    assert set(found.location.tolist()) == {2, 3, 4}
    assert found.location[1] == 3
    assert found.objective < found.baselines["linear"]


def test_larger_than_enumeration_with_spares():
    rng = np.random.default_rng(2)
    flow = rng.integers(0, 5, (9, 9)).astype(float)
    dist = rng.integers(1, 9, (16, 16)).astype(float)
    found = place_ranks(flow, dist, deadline_s=0.5)
    assert found.objective <= found.baselines["linear"]
    assert found.lower_bound <= found.objective


def test_meets_its_bound_and_stops_early():
    flow = np.zeros((40, 40))
    found = place_ranks(flow, np.ones((40, 40)), deadline_s=30.0)
    assert found.proven
    assert found.wall_s < 10


def test_empty_and_single():
    assert place_ranks(np.zeros((0, 0)), np.zeros((3, 3))).location.tolist() == []
    one = place_ranks([[2.0]], [[5.0, 0], [0, 3.0]])
    assert (one.location.tolist(), one.objective) == ([1], 6.0)


def test_record_round_trip():
    found = place_ranks(np.ones((3, 3)), np.ones((3, 3)))
    assert Mapping.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("flow", "distance", "text"),
    [
        ([[1, 2]], [[1]], "'flow'.*shape"),
        ([[1]], [[1, 2]], "'distance'.*shape"),
        ([[float("nan")]], [[1]], r"flow\[0\]\[0\]"),
        ([[1]], [[float("inf")]], r"distance\[0\]\[0\]"),
        ([["a"]], [[1]], "numbers"),
        ([[1, 2], [3]], [[1]], "numbers"),
    ],
)
def test_bad_matrices(flow, distance, text):
    with pytest.raises(InputError, match=text):
        place_ranks(flow, distance)


def test_too_few_locations():
    with pytest.raises(Infeasible, match="3 ranks, but 2"):
        place_ranks(np.ones((3, 3)), np.ones((2, 2)))


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 9), st.integers(0, 2**32 - 1), st.booleans())
def test_the_symmetric_search_walks_as_the_general_one(n, seed, idle):
    rng = np.random.default_rng(seed)
    flow, dist = rng.integers(0, 9, (n, n)), rng.integers(0, 9, (n, n))
    flow, dist = (np.triu(x, 1) + np.triu(x, 1).T for x in (flow, dist))
    ranks = max(1, n - 2) if idle else n
    flow[ranks:] = flow[:, ranks:] = 0
    start = rng.permutation(n).astype(np.int64)
    found = []
    for search in (tabu, tabu_symmetric):
        walker, best = start.copy(), np.empty(n, dtype=np.int64)
        state = np.array([seed + 1], dtype=np.uint64)
        change = search(flow.astype(float), dist.astype(float), ranks, walker, best, 50, state)
        before = (flow * dist[np.ix_(start, start)]).sum()
        assert change == (flow * dist[np.ix_(best, best)]).sum() - before
        found.append((walker.tolist(), best.tolist()))
    assert found[0] == found[1]


def test_silent_ranks_and_one_sided_matrices_are_made_small_without_changing_costs():
    rng = np.random.default_rng(3)
    flow, dist = rng.integers(0, 9, (14, 14)).astype(float), rng.integers(0, 9, (14, 14))
    dist = (dist + dist.T).astype(float)
    flow[[1, 4, 5, 9]] = 0
    flow[:, [1, 4, 5, 9]] = 0
    found = place_ranks(flow, dist, deadline_s=0.3)
    assert sorted(found.location.tolist()) == list(range(14))
    again = (flow * dist[np.ix_(found.location, found.location)]).sum()
    assert found.objective == pytest.approx(again)
    assert found.objective <= (flow * dist).sum()
