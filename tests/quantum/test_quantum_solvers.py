"""Every registered Ising solver against the conformance tests and the shared instances."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.quantum import SOLVERS, IsingProblem, _kernels
from qcluster.quantum.annealing import AnnealingSolver, energy_scale, temperature_range
from qcluster.quantum.exact import ExactSolver
from qcluster.quantum.formats import read_problems
from qcluster.quantum.greedy import GreedySolver
from qcluster.quantum.local import Arrays, State, random_state
from qcluster.quantum.qaoa import QAOASolver, interpolate_angles, optimise_angles, ramp_angles
from qcluster.quantum.simulator import QAOASimulator
from qcluster.testing.ising_solver import IsingSolverConformance


class TestExact(IsingSolverConformance):
    solver = ExactSolver()
    exact = True


class TestGreedy(IsingSolverConformance):
    solver = GreedySolver()


class TestAnnealing(IsingSolverConformance):
    solver = AnnealingSolver()
    exact = True


class TestQAOA(IsingSolverConformance):
    solver = QAOASolver()
    exact = True


def problem(n, seed=0, groups=None):
    generator = np.random.default_rng(seed)
    return IsingProblem(
        generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1), 0.5, groups
    )


def test_names_of_the_registry():
    assert {"exact", "greedy", "annealing", "qaoa"} <= set(SOLVERS.names())


def test_shared_instances_to_their_optima(data_dir):
    path = data_dir / "quantum" / "ising_small.json"
    records = json.loads(path.read_text())
    for record, item in zip(records, read_problems(path), strict=True):
        found = ExactSolver().solve(item, deadline=Deadline.never(), seed=0)
        assert abs(found.energy - record["ground_energy"]) <= 1e-9
        assert found.lower_bound == found.energy


def test_exact_over_several_blocks_and_groups():
    groups = [[6 * g + k for k in range(6)] for g in range(7)]
    item = problem(44, groups=groups)
    found = ExactSolver().solve(item, deadline=Deadline.never(), seed=0)
    annealed = AnnealingSolver().solve(item, deadline=Deadline.never(), seed=0)
    assert item.feasible(found.z)
    assert found.energy <= annealed.energy + 1e-9
    assert found.lower_bound == found.energy


def test_exact_of_mirrored_problems_fixes_one_spin():
    item = IsingProblem(np.zeros(18), problem(18, 1).dense())
    found = ExactSolver().solve(item, deadline=Deadline.never(), seed=0)
    assert found.z[-1] == 1
    rest = item.fix(range(17), found.z)
    other = ExactSolver().solve(rest, deadline=Deadline.never(), seed=0)
    assert np.isclose(other.energy, found.energy)


def test_exact_cut_short_proves_nothing():
    found = ExactSolver().solve(problem(22), deadline=Deadline.after(0), seed=0)
    assert found.lower_bound is None
    assert found.notes["complete"] is False


def test_refusals_carry_numbers():
    assert "2^31" in ExactSolver().refuses(IsingProblem(np.zeros(31)))
    assert "bytes" in QAOASolver().refuses(IsingProblem(np.zeros(30)))
    assert "2^800" in QAOASolver().refuses(IsingProblem(np.zeros(800)))


def test_annealing_temperatures_span_the_problem():
    hot, cold = temperature_range(problem(12))
    assert 0 < cold < hot < np.inf
    hot, cold = temperature_range(IsingProblem(np.zeros(5)))
    assert 0 < cold <= hot


def test_annealing_of_a_toroidal_grid(data_dir):
    item = IsingProblem.read(data_dir / "quantum" / "gset" / "G11.txt")
    found = AnnealingSolver(visits=40_000_000).solve(item, deadline=Deadline.never(), seed=0)
    assert (item.weights.sum() - found.energy) / 2 >= 562


def test_annealing_is_bounded_by_its_visits():
    found = AnnealingSolver(visits=3000, patience=10**9).solve(
        problem(30), deadline=Deadline.never(), seed=0
    )
    assert found.notes["runs"] == 1
    assert found.notes["longest_run_sweeps"] == 100


def arrays_of(item, z):
    arrays = Arrays.of(item)
    return arrays, State.at(arrays, np.asarray(z, dtype=np.int8))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_recombination_takes_the_best_of_each_part(n, seed):
    generator = np.random.default_rng(seed)
    chain = [(i, i + 1) for i in range(n - 1)]  # sparse, so that there are several parts
    item = IsingProblem(generator.normal(size=n), edges=chain, weights=generator.normal(size=n - 1))
    first, second = generator.choice([-1, 1], size=(2, n))
    arrays, state = arrays_of(item, first)
    _kernels.recombine(
        state.z, second.astype(float), state.field, arrays.group, state.hot, *arrays.members,
        *arrays.csr, 1e-12,
    )  # fmt: skip
    differ = np.flatnonzero(first != second)
    parts = np.split(differ, np.flatnonzero(np.diff(differ) > 1) + 1) if len(differ) else []
    children = []
    for chosen in itertools.product((False, True), repeat=len(parts)):
        child = first.copy()
        for part, flip in zip(parts, chosen, strict=True):
            child[part] = second[part] if flip else first[part]
        children.append(item.energy(child))
    assert item.energy(state.z) == pytest.approx(min(children, default=item.energy(first)))
    assert np.allclose(state.field, item.h + item.matrix @ state.z)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_recombination_keeps_groups_and_never_worsens(seed):
    generator = np.random.default_rng(seed)
    groups = [[3 * g, 3 * g + 1, 3 * g + 2] for g in range(4)]
    edges = generator.integers(0, 15, size=(12, 2))
    item = IsingProblem(
        generator.normal(size=15), edges=edges, weights=generator.normal(size=12), groups=groups
    )
    first, second = random_state(item, generator), random_state(item, generator)
    arrays, state = arrays_of(item, first)
    _kernels.recombine(
        state.z, second.astype(float), state.field, arrays.group, state.hot, *arrays.members,
        *arrays.csr, 1e-12,
    )  # fmt: skip
    assert item.feasible(state.z)
    assert item.energy(state.z) <= min(item.energy(first), item.energy(second)) + 1e-9
    assert np.allclose(state.field, item.h + item.matrix @ state.z)
    assert all(state.z[i] == 1 for i in state.hot)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 14), st.booleans(), st.integers(0, 2**31))
def test_kernels_keep_fields_and_groups_true(n, grouped, seed):
    item = problem(n, seed, [[0, 1, 2]] if grouped else None)
    z = random_state(item, np.random.default_rng(seed))
    arrays, state = arrays_of(item, z)
    bits = np.array([seed + 1], dtype=np.uint64)
    betas = np.linspace(0.1, 2.0, 20)
    if grouped:
        _kernels.anneal_groups(
            state.z, state.field, arrays.group, state.hot, *arrays.small, betas, bits
        )
    else:
        _kernels.anneal(state.z, state.field, *arrays.small, betas, bits)
    assert np.allclose(state.field, item.h + item.matrix @ state.z)
    before = item.energy(state.z)
    _kernels.quench(state.z, state.field, arrays.group, state.hot, *arrays.csr, 1e-12)
    assert item.energy(state.z) <= before + 1e-9
    assert item.feasible(state.z)


def test_greedy_stops_where_no_move_helps():
    item = problem(15, groups=[[0, 1, 2, 3], [4, 5]])
    z = GreedySolver().solve(item, deadline=Deadline.never(), seed=0).z
    for i in range(6, 15):
        other = z.copy()
        other[i] *= -1
        assert item.energy(other) >= item.energy(z) - 1e-9
    for group in item.groups:
        for i in group:
            other = z.copy()
            other[list(group)] = -1
            other[i] = 1
            assert item.energy(other) >= item.energy(z) - 1e-9


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_angles_follow_the_scale_of_the_energies(scale):
    plain = problem(8)
    item = IsingProblem(plain.h * scale, edges=plain.edges, weights=plain.weights * scale)
    simulator = QAOASimulator(item)
    gammas, betas = ramp_angles(item, 3)
    before = simulator.expectation(gammas, betas)
    assert before < 0  # better than the uniform state: signs and scale are right
    gammas, betas, log = optimise_angles(simulator, gammas, betas, deadline=Deadline.never())
    assert simulator.expectation(gammas, betas) <= before
    assert simulator.expectation(gammas, betas) == pytest.approx(min(log["energies"]))
    assert energy_scale(item) == pytest.approx(scale * energy_scale(plain))


def test_interpolation_keeps_the_shape_of_a_schedule():
    assert np.allclose(interpolate_angles(np.array([0.5])), [0.5, 0.5])
    ramp = interpolate_angles(np.array([0.2, 0.4, 0.6]))
    assert np.allclose(ramp, [0.2, 1 / 3, 7 / 15, 0.6])


def test_more_layers_are_no_worse():
    item = problem(8)
    energies = [
        min(QAOASolver(layers).solve(item, deadline=Deadline.never(), seed=0).notes["energies"])
        for layers in (1, 2, 4)
    ]
    assert energies == sorted(energies, reverse=True)
