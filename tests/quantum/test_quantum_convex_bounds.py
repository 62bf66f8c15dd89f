"""Bounds that are proofs: below every energy, and close where theory says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.quantum import IsingProblem, solve
from qcluster.quantum.bounds import lower_bound
from qcluster.quantum.convex_bounds import best_bound, integer_bound, semidefinite_bound


def least(item):
    bits = (np.arange(2**item.n)[:, None] >> np.arange(item.n)) & 1
    return min(item.energy(z) for z in 1 - 2 * bits if item.feasible(z))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.integers(0, 2**32), st.booleans(), st.booleans())
def test_bounds_are_below_every_configuration(n, seed, grouped, fields):
    generator = np.random.default_rng(seed)
    item = IsingProblem(
        generator.normal(size=n) * fields, np.triu(generator.normal(size=(n, n)), 1), 0.5,
        [[2, 0, 1]] if grouped and n > 2 else None,
    )  # fmt: skip
    minimum = least(item)
    slack = 1e-12 * max(1.0, item.scale)
    assert semidefinite_bound(item) <= minimum + slack
    assert integer_bound(item, seconds=20.0) <= minimum + slack
    assert integer_bound(item, seconds=20.0) == pytest.approx(minimum, abs=3e-6 * (1 + item.scale))


def test_semidefinite_bound_is_exact_on_trees_and_known_on_a_ring():
    tree = IsingProblem(np.zeros(5), {(0, 1): 1.0, (1, 2): -2.0, (1, 3): 0.5, (3, 4): 4.0})
    assert semidefinite_bound(tree) == pytest.approx(-7.5, abs=1e-3)
    # Five couplings of 1 in a ring: 5 cos(4 pi / 5) (Goemans and Williamson, 1995).
    ring = IsingProblem(np.zeros(5), {(i, (i + 1) % 5): 1.0 for i in range(5)})
    assert semidefinite_bound(ring) == pytest.approx(5 * np.cos(4 * np.pi / 5), abs=1e-4)
    assert semidefinite_bound(IsingProblem([2.0, -1.0], offset=3.0)) == pytest.approx(0, abs=1e-6)
    assert semidefinite_bound(IsingProblem(np.zeros(4), offset=3.0)) == 3.0


def test_dense_problems_are_bounded_far_better_than_by_cycles():
    generator = np.random.default_rng(1)
    item = IsingProblem(np.zeros(100), np.triu(generator.normal(size=(100, 100)), 1))
    found = solve(item, deadline_s=0.3)
    gaps = [(found.objective - bound) / abs(found.objective)
            for bound in (lower_bound(item), semidefinite_bound(item))]  # fmt: skip
    assert gaps[1] < 0.4 * gaps[0]
    assert found.lower_bound == pytest.approx(semidefinite_bound(item))


def test_sparse_problems_of_dozens_are_solved_to_their_proof():
    generator = np.random.default_rng(2)
    edges = generator.integers(0, 40, size=(60, 2))
    item = IsingProblem(generator.normal(size=40), edges=edges, weights=generator.normal(size=60))
    found = solve(item, deadline_s=0.3)
    assert found.lower_bound == pytest.approx(found.objective, abs=1e-5 * item.scale)
    groups = [[3 * g, 3 * g + 1, 3 * g + 2] for g in range(10)]
    grouped = IsingProblem(item.h, edges=item.edges, weights=item.weights, groups=groups)
    found = solve(grouped, deadline_s=0.3)
    assert best_bound(grouped) <= found.objective + 1e-9
    assert best_bound(grouped) > found.objective - 0.02 * item.scale


def test_out_of_time_is_no_proof():
    generator = np.random.default_rng(3)
    item = IsingProblem(np.zeros(60), np.triu(generator.normal(size=(60, 60)), 1))
    bound = integer_bound(item, seconds=1e-6)
    assert bound <= solve(item, deadline_s=0.2).objective


def test_semidefinite_bound_of_a_shared_graph(data_dir):
    item = IsingProblem.read(data_dir / "quantum" / "gset" / "G1.txt")
    upper = (item.weights.sum() - semidefinite_bound(item)) / 2
    assert 12083.2 <= upper < 12090  # the relaxation's value is in the literature: 12083.2
