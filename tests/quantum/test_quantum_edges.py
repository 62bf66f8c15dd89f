"""Problems at the edge: nothing to choose, nothing to gain, huge numbers, several optima."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.quantum import SOLVERS, IsingProblem, QAOASimulator, solve
from qcluster.quantum.exact import ExactSolver
from qcluster.quantum.simulator import MIXERS

EDGES = {
    "nothing": (IsingProblem([]), 0.0),
    "offset alone": (IsingProblem([], offset=-3.5), -3.5),
    "one spin": (IsingProblem([2.0]), -2.0),
    "one free spin": (IsingProblem([0.0]), 0.0),
    "one forced spin": (IsingProblem([2.0], groups=[[0]]), 2.0),
    "no couplings": (IsingProblem([1.0, -2.0, 0.5]), -3.5),
    "no cost": (IsingProblem(np.zeros(6)), 0.0),
    "isolated vertices": (IsingProblem(np.zeros(7), {(2, 5): 1.0}), -1.0),
    "two optima": (IsingProblem([0.0, 0.0], {(0, 1): -1.0}), -1.0),
    "many optima": (IsingProblem(np.zeros(5), {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.0}), -1.0),
    "huge couplings": (IsingProblem([0.0, 1e12], {(0, 1): 1e12}, 1.0), 1.0 - 2e12),
    "huge and tiny": (IsingProblem([1e-3, 0.0], {(0, 1): 1e12}), -1e12 - 1e-3),
    "tiny couplings": (IsingProblem([0.0, 1e-12], {(0, 1): 1e-12}), -2e-12),
    "one level a group": (IsingProblem([1.0, 2.0], {(0, 1): 4.0}, groups=[[0], [1]]), 7.0),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("solver", ["auto", *SOLVERS.names()])
def test_every_solver_answers(solver, name):
    problem, best = EDGES[name]
    answer = solve(problem, solver=solver, deadline_s=0.5)
    assert answer.z.shape == (problem.n,)
    assert answer.objective == pytest.approx(best, rel=1e-12)
    assert answer.lower_bound == pytest.approx(best, rel=1e-12)
    assert json.loads(json.dumps(answer.to_dict()))["objective"] == answer.objective


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("name", EDGES)
def test_every_mixer_has_a_mean_between_the_extremes(mixer, name):
    problem, _ = EDGES[name]
    simulator = QAOASimulator(problem, mixer)
    unit = max(problem.scale, 1e-300)
    value, by_gamma, by_beta = simulator.value_and_grad([0.3 / unit, 0.1], [-0.4, 0.2])
    low, high = (simulator.diagonal + problem.offset)[[
        np.argmin(simulator.diagonal), np.argmax(simulator.diagonal)]]  # fmt: skip
    slack = 1e-9 * (problem.scale + abs(problem.offset))
    assert low - slack <= value <= high + slack
    assert np.isfinite([*by_gamma, *by_beta]).all()
    assert simulator.sample([0.1], [0.1], shots=3, seed=0).shape == (3, problem.n)


def test_doubled_and_turned_edges_add_up_and_loops_are_constants():
    once = IsingProblem(np.zeros(3), {(0, 1): 3.0, (1, 2): -1.0})
    edges = [[0, 1], [1, 0], [2, 1], [0, 1]]
    many = IsingProblem(np.zeros(3), edges=edges, weights=[1.0, 1.5, -1.0, 0.5])
    z = np.array([1, -1, 1])
    assert many.energy(z) == once.energy(z)
    assert len(many.edges) == 2
    gone = IsingProblem(np.zeros(2), edges=[[0, 1], [1, 0]], weights=[1.0, -1.0])
    assert solve(gone).objective == 0
    loop = IsingProblem(np.zeros(2), edges=[[1, 1]], weights=[2.0])
    assert loop.energy([1, -1]) == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_name(bad):
    for arguments, field in (
        (([bad],), "h"),
        (([0.0, 0.0], {(0, 1): bad}), "J"),
        (([0.0], None, bad), "offset"),
    ):
        with pytest.raises(InputError) as caught:
            IsingProblem(*arguments)
        assert caught.value.field == field


def test_what_no_memory_holds_is_refused_with_the_bytes():
    problem = IsingProblem(np.zeros(200))
    with pytest.raises(InputError, match="about 2\\^206 bytes"):
        QAOASimulator(problem)
    answer = solve(problem, solver="qaoa", deadline_s=0.3)
    assert "bytes" in answer.fallback_reason
    assert answer.objective == 0


def test_enumeration_gives_one_of_the_optima_and_always_the_same():
    problem = EDGES["many optima"][0]
    answers = {tuple(solve(problem, solver="exact").z) for _ in range(3)}
    assert len(answers) == 1
    assert ExactSolver().refuses(IsingProblem(np.zeros(40))) is not None


SCRIPT = """
import json, numpy as np
from qcluster.quantum import IsingProblem, solve
rng = np.random.default_rng(7)
problem = IsingProblem(rng.normal(size=12), np.triu(rng.normal(size=(12, 12)), 1))
found = {}
for name in ("annealing", "qaoa", "qaoa_warm", "recursive_qaoa", "qaoa_fixed"):
    answer = solve(problem, solver=name, deadline_s=60.0, seed=3)
    angles = [answer.notes.get("gammas"), answer.notes.get("betas")]
    found[name] = [answer.z.tolist(), answer.objective, angles, answer.notes.get("sampled_mean")]
print(json.dumps(found, sort_keys=True))
"""


def test_a_seed_means_the_same_whatever_the_number_of_threads(capsys):
    exec(SCRIPT, {})  # the same lines as in the other process
    here = capsys.readouterr().out
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = "2" if os.environ.get("OMP_NUM_THREADS") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True,
        env={**os.environ, **dict.fromkeys(names, threads)},
    )  # fmt: skip
    assert there.stdout == here
