"""Every registered Ising solver against the conformance tests and the shared instances."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.quantum import SOLVERS, IsingProblem
from qcluster.quantum.annealing import AnnealingSolver, temperature_range
from qcluster.quantum.exact import ExactSolver
from qcluster.quantum.formats import read_problems
from qcluster.quantum.greedy import GreedySolver
from qcluster.quantum.qaoa import QAOASolver, energy_scale, optimise_angles, ramp_angles
from qcluster.quantum.simulator import QAOASimulator
from qcluster.testing.ising_solver import IsingSolverConformance


class TestExact(IsingSolverConformance):
    solver = ExactSolver()
    exact = True


class TestGreedy(IsingSolverConformance):
    solver = GreedySolver()


class TestAnnealing(IsingSolverConformance):
    solver = AnnealingSolver(sweeps=200, restarts=4)
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
    annealed = AnnealingSolver(200, 5).solve(item, deadline=Deadline.never(), seed=0)
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
    assert 0 < hot < cold < np.inf
    assert temperature_range(IsingProblem(np.zeros(5))) == (1.0, 1.0)


def test_annealing_of_a_toroidal_grid(data_dir):
    item = IsingProblem.read(data_dir / "quantum" / "gset" / "G11.txt")
    found = AnnealingSolver(1000, 4).solve(item, deadline=Deadline.never(), seed=0)
    assert (item.weights.sum() - found.energy) / 2 >= 556


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
