"""``solve``: chain, certificate, fallbacks and bad arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.cli import main
from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.quantum import SOLVERS, Found, IsingProblem, Solution, solve
from qcluster.quantum.bounds import cycle_bound, lower_bound, magnitude_bound
from qcluster.quantum.requests import SolveRequest
from qcluster.quantum.solve import ising_stage, verify_spins, warm_up
from qcluster.request import parse_request


def problem(n, seed=0, groups=None):
    generator = np.random.default_rng(seed)
    return IsingProblem(
        generator.normal(size=n), np.triu(generator.normal(size=(n, n)), 1), 0.5, groups
    )


def test_small_problems_are_proven_optimal():
    solution = solve(problem(10))
    assert solution.solver == "exact"
    assert solution.requested == "auto"
    assert solution.gap == 0
    assert solution.lower_bound == solution.objective
    assert {"greedy", "annealing"} <= set(solution.baselines)
    assert solution.quantum_gain is None
    assert solution.reasons["quantum_gain"]


def test_quantum_gain_is_what_the_numbers_show():
    for seed in range(3):
        solution = solve(problem(8, seed), solver="qaoa", deadline_s=2)
        assert solution.quantum_gain == min(solution.baselines.values()) - solution.objective
        assert {"greedy", "annealing", "exact"} <= set(solution.baselines)
        assert solution.quantum_gain <= 1e-9  # exact is a baseline: nothing can win


def test_a_solver_that_refuses_falls_back_with_the_reason():
    solution = solve(problem(30), solver="qaoa", deadline_s=0.2)
    assert solution.solver == "annealing"
    assert "bytes" in solution.fallback_reason
    assert solution.quantum_gain is None


def test_large_problem_meets_its_deadline():
    generator = np.random.default_rng(0)
    edges = generator.integers(0, 3000, size=(9000, 2))
    item = IsingProblem(np.zeros(3000), edges=edges, weights=generator.normal(size=9000))
    warm_up()
    solution = solve(item, deadline_s=0.3)
    assert solution.wall_s < 1.0
    assert solution.solver == "annealing"
    assert solution.objective < solution.baselines["greedy"]
    assert solution.lower_bound <= solution.objective


def test_solution_round_trips_through_json():
    solution = solve(problem(6), solver="qaoa")
    text = json.dumps(solution.to_dict(), allow_nan=False)
    assert Solution.from_dict(json.loads(text)) == solution


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"solver": "magic"}, "solver"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_bad_arguments_are_named(arguments, field):
    with pytest.raises(InputError) as caught:
        solve(problem(3), **arguments)
    assert caught.value.field == field


def test_not_a_problem():
    with pytest.raises(InputError):
        solve({"h": [1]})


def test_a_solver_that_lies_is_caught():
    class Liar:
        name = "liar"
        quantum = False

        def refuses(self, problem):
            return None

        def solve(self, problem, *, deadline, seed, start=None):
            return Found(np.ones(problem.n, dtype=np.int8), -1e9)

    SOLVERS.register("liar", Liar())
    try:
        with pytest.raises(SolverFailed):
            ising_stage("liar").run(problem(4), deadline=Deadline.never(), seed=0)
        solution = solve(problem(4), solver="liar")
        assert "liar" in solution.fallback_reason
    finally:
        SOLVERS._found.pop("liar")


def test_verifier():
    item = problem(4, groups=[[0, 1]])
    verify_spins(item, np.array([1, -1, 1, 1]))
    for bad in ([1, 1, 1, 1], [1, -1, 1], [1, -1, 0, 1]):
        with pytest.raises(SolverFailed):
            verify_spins(item, np.array(bad))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32), st.booleans())
def test_bound_is_below_every_configuration(n, seed, grouped):
    item = problem(n, seed, [[0, 1, 2]] if grouped and n > 2 else None)
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    feasible = [z for z in 1 - 2 * bits if item.feasible(z)]
    assert lower_bound(item) <= min(item.energy(z) for z in feasible) + 1e-9


def test_request_example_and_errors():
    request = parse_request("solve", json.dumps(SolveRequest.example).encode())
    solution = request.run()
    assert solution.requested == "qaoa"
    with pytest.raises(InputError) as caught:
        parse_request("solve", {"h": [1.0], "J": [[0, 5, 1.0]]}).run()
    assert caught.value.field == "J"
    with pytest.raises(InputError):
        parse_request("solve", b'{"h": [1e999]}')
    with pytest.raises(InputError):
        parse_request("solve", b'{"h": [1.0], "ofset": 3}')


def test_cli_prints_one_solution_a_problem(tmp_path, capsys):
    one = {"h": [1, -1], "J": [[0, 1, 0.5]]}
    path = tmp_path / "p.json"
    path.write_text(json.dumps(one))
    assert main(["solve", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == -2.5
    assert main(["solve", str(path)]) == 0
    assert "lower bound" in capsys.readouterr().out
    path.write_text(json.dumps([one, one]))
    assert main(["solve", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["solve", str(path)]) == 0


def test_cli_bad_input_is_one_line(tmp_path, capsys):
    path = tmp_path / "p.json"
    for text in ("", "{", "[]", "[1]", '{"h": [NaN]}', '{"h": [1e400]}', "[" * 200_000, "1 2 x"):
        path.write_text(text)
        assert main(["solve", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "p.json" in error
    assert main(["solve", str(tmp_path / "absent")]) == 2
    path.write_text('{"h": [1]}')
    assert main(["solve", str(path), "--solver", "magic"]) == 2


def test_cycle_bound_is_exact_on_one_frustrated_cycle():
    for n in (3, 4, 7):
        ring = [(i, (i + 1) % n) for i in range(n)]
        weights = np.arange(1.0, n + 1)
        if n % 2 == 0:
            weights[0] *= -1
        item = IsingProblem(np.zeros(n), edges=ring, weights=weights)
        assert cycle_bound(item) == pytest.approx(solve(item).objective)
        assert magnitude_bound(item) < cycle_bound(item) - 1


def test_cycle_bound_sees_fields_and_proves_trees():
    tree = IsingProblem(np.zeros(4), {(0, 1): 1.0, (1, 2): -2.0, (1, 3): 0.5}, offset=1.0)
    assert cycle_bound(tree) == pytest.approx(solve(tree).objective)
    against = IsingProblem([1.0, 1.0], {(0, 1): -3.0})  # fields agree with the coupling
    assert cycle_bound(against) == pytest.approx(-5)
    torn = IsingProblem([1.0, -1.0], {(0, 1): -3.0})
    assert cycle_bound(torn) == pytest.approx(solve(torn).objective)


def test_cycle_bound_of_a_shared_graph(data_dir):
    item = IsingProblem.read(data_dir / "quantum" / "gset" / "G14.txt")
    upper = (item.weights.sum() - cycle_bound(item)) / 2
    assert 3064 <= upper < 3600
    assert cycle_bound(item, steps=1000) <= cycle_bound(item)
