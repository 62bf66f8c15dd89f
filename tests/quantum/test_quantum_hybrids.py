"""Large-neighbourhood search with QAOA, and recursive QAOA."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.quantum import IsingProblem, solve
from qcluster.quantum.exact import ExactSolver
from qcluster.quantum.lns import QAOANeighbourhoodSolver, _cut, connected_part
from qcluster.quantum.local import Arrays, State, random_state
from qcluster.quantum.recursive import RecursiveQAOASolver, Rule, eliminate
from qcluster.quantum.space import Space
from qcluster.testing.ising_solver import IsingSolverConformance


class TestNeighbourhood(IsingSolverConformance):
    solver = QAOANeighbourhoodSolver()
    exact = True


class TestRecursive(IsingSolverConformance):
    solver = RecursiveQAOASolver()

    def test_groups_hold(self):
        item = self.problem(6, groups=1)
        assert "group" in self.solver.refuses(item)

    def test_never_worse_than_the_start(self):
        for seed in range(5):
            item = self.problem(9, seed=seed)
            start = random_state(item, np.random.default_rng(seed))
            assert self.found(item, start=start).energy <= item.energy(start) + 1e-9

    def test_a_deadline_that_has_passed_still_gets_an_answer(self):
        self.found(self.problem(9), seconds=0.0)

    def test_answers_problems_without_choice(self):
        assert self.found(IsingProblem([])).energy == 0
        assert self.found(IsingProblem(np.zeros(8))).energy == 0


def sparse(n, seed, groups=None):
    generator = np.random.default_rng(seed)
    edges = generator.integers(0, n, size=(2 * n, 2))
    return IsingProblem(
        generator.normal(size=n), edges=edges, weights=generator.normal(size=2 * n), groups=groups
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.booleans(), st.integers(0, 2**31))
def test_a_cut_part_prices_moves_as_the_whole(n, grouped, seed):
    generator = np.random.default_rng(seed)
    item = sparse(n, seed, [[0, 3, 5], [1, 2]] if grouped else None)
    arrays = Arrays.of(item)
    state = State.at(arrays, random_state(item, generator))
    free = connected_part(arrays, int(generator.integers(n)), 5, generator)
    part = _cut(arrays, state, free)
    assert len(free) == len(set(free.tolist())) == part.n
    assert sum(np.log2(len(g)) for g in part.groups) + part.n - sum(map(len, part.groups)) <= 5
    changed = state.z.copy()
    changed[free] = random_state(part, generator)
    difference = item.energy(changed) - item.energy(state.z)
    assert part.energy(changed[free]) - part.energy(state.z[free]) == pytest.approx(
        difference, abs=1e-9
    )


@pytest.mark.parametrize("groups", [None, [[4 * g + k for k in range(4)] for g in range(10)]])
def test_refinement_never_worsens_its_warm_start(groups):
    item = sparse(60, 1, groups)
    for seed in range(3):
        found = QAOANeighbourhoodSolver(parts=0.5).solve(
            item, deadline=Deadline.after(5), seed=seed
        )
        assert found.energy <= found.notes["warm_start_energy"]
        assert found.notes["circuits"] > 0
        assert item.feasible(found.z)


def test_refinement_improves_a_bad_start():
    from qcluster.quantum.lns import _Refinement

    item = sparse(80, 2)
    start = random_state(item, np.random.default_rng(0))
    refinement = _Refinement(QAOANeighbourhoodSolver(), item, start, 0)
    energies = [item.energy(start)]
    for _ in range(40):
        refinement.step(Deadline.never())
        energies.append(item.energy(refinement.state.z))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 10
    assert refinement.improved > 5
    assert np.allclose(refinement.state.field, item.h + item.matrix @ refinement.state.z)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**31), st.booleans(), st.sampled_from([1, -1]))
def test_elimination_keeps_energies(n, seed, single, sign):
    generator = np.random.default_rng(seed)
    item = sparse(n, seed)
    gone, other = generator.choice(n, size=2, replace=False).tolist()
    rule = Rule(gone, None if single else other, sign)
    smaller = eliminate(item, rule)
    z = generator.choice([-1, 1], size=n)
    z[gone] = sign if single else sign * z[other]
    assert smaller.energy(np.delete(z, gone)) == pytest.approx(item.energy(z), abs=1e-9)


def test_recursion_reaches_good_states():
    gaps = []
    for seed in range(6):
        item = sparse(12, seed)
        best = ExactSolver().solve(item, deadline=Deadline.never(), seed=0).energy
        found = RecursiveQAOASolver().solve(item, deadline=Deadline.never(), seed=0)
        assert found.notes["rounds"] == 6
        gaps.append((found.notes["recursion_energy"] - best) / abs(best))
    assert np.median(gaps) < 0.02


@pytest.mark.parametrize("groups", [None, [[4, 1, 0]], [[0, 2], [3, 1, 4]], [[0]]])
def test_moments_are_weighted_sums_of_spins(groups):
    space = Space.of(IsingProblem(np.zeros(6), groups=groups))
    weights = np.random.default_rng(0).normal(size=space.size)
    z = space.spins(np.arange(space.size)).astype(float)
    singles, pairs = space.moments(weights)
    assert np.allclose(singles, weights @ z)
    assert np.allclose(pairs, np.einsum("x,xi,xj->ij", weights, z, z))


def test_through_solve():
    solution = solve(sparse(200, 0), solver="qaoa_lns", deadline_s=0.5)
    assert solution.solver == "qaoa_lns"
    assert solution.quantum_gain == min(solution.baselines.values()) - solution.objective
    assert "annealing" in solution.baselines
    assert solve(sparse(12, 0), solver="recursive_qaoa").notes["rounds"] == 6
    refused = solve(sparse(40, 0), solver="recursive_qaoa", deadline_s=0.2)
    assert "bytes" in refused.fallback_reason
