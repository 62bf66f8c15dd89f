"""What every Ising solver must do. Subclass in a test module and set ``solver``:

    class TestMySolver(IsingSolverConformance):
        solver = MySolver()

Needs pytest to run, but imports nothing of it.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.local import random_state
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solve import verify_spins
from qcluster.quantum.solver import Found, IsingSolver

__all__ = ["IsingSolverConformance"]

# A solver may look at its deadline only between steps; this is how long a step may take.
LATE_S = 0.5


class IsingSolverConformance:
    """Answers are feasible, priced right, no worse than their start, repeatable and in time."""

    solver: ClassVar[IsingSolver]
    exact: ClassVar[bool] = False
    """Set when the solver must reach the optimum of small problems."""

    def problem(self, n: int, seed: int = 0, groups: int = 0) -> IsingProblem:
        """A random problem of n spins of which the first 3 * ``groups`` form one-hot groups."""
        generator = np.random.default_rng(seed)
        couplings = np.triu(generator.normal(size=(n, n)), 1)
        members = [[3 * g, 3 * g + 1, 3 * g + 2] for g in range(groups)]
        return IsingProblem(generator.normal(size=n), couplings, offset=0.25, groups=members)

    def found(
        self,
        problem: IsingProblem,
        *,
        seconds: float = 2.0,
        seed: int = 0,
        start: NDArray[np.int8] | None = None,
    ) -> Found:
        """Solve and check what holds for every answer."""
        assert self.solver.refuses(problem) is None
        found = self.solver.solve(problem, deadline=Deadline.after(seconds), seed=seed, start=start)
        verify_spins(problem, found.z)
        assert np.isclose(found.energy, problem.energy(found.z), rtol=1e-12, atol=1e-9)
        if found.lower_bound is not None:
            assert found.lower_bound <= found.energy + 1e-9
        return found

    def test_answers_problems_without_choice(self) -> None:
        assert self.found(IsingProblem([])).energy == 0
        assert self.found(IsingProblem([], offset=3.0)).energy == 3
        assert self.found(IsingProblem([2.0])).energy >= -2
        assert self.found(IsingProblem(np.zeros(4))).energy == 0
        assert self.found(IsingProblem([1.0, 1.0], groups=[[0], [1]])).energy == 2

    def test_energy_is_that_of_the_spins(self) -> None:
        for n in (2, 5, 9):
            self.found(self.problem(n, seed=n))

    def test_groups_hold(self) -> None:
        for groups in (1, 2, 3):
            self.found(self.problem(10, seed=groups, groups=groups))

    def test_never_worse_than_the_start(self) -> None:
        for seed in range(5):
            problem = self.problem(9, seed=seed, groups=2)
            start = random_state(problem, np.random.default_rng(seed))
            assert self.found(problem, start=start).energy <= problem.energy(start) + 1e-9

    def test_same_seed_same_answer(self) -> None:
        problem = self.problem(8, seed=3)
        first, second = (self.found(problem, seconds=30, seed=7) for _ in range(2))
        assert np.array_equal(first.z, second.z)

    def test_a_deadline_that_has_passed_still_gets_an_answer(self) -> None:
        problem = self.problem(9, groups=1)
        self.found(problem)  # compiles what there is to compile
        begun = time.monotonic()
        self.found(problem, seconds=0.0)
        assert time.monotonic() - begun < LATE_S

    def test_huge_and_tiny_couplings(self) -> None:
        for scale in (1e-12, 1e12):
            plain = self.problem(6)
            scaled = IsingProblem(plain.h * scale, edges=plain.edges, weights=plain.weights * scale)
            found = self.solver.solve(scaled, deadline=Deadline.after(2), seed=0)
            assert np.isclose(found.energy, scaled.energy(found.z), rtol=1e-12, atol=1e-9 * scale)

    def test_optimum_of_small_problems(self) -> None:
        if not self.exact:
            return
        for seed in range(5):
            problem = self.problem(8, seed=seed, groups=1)
            best = min(problem.energy(z) for z in _feasible(problem))
            assert np.isclose(self.found(problem, seed=seed).energy, best)


def _feasible(problem: IsingProblem) -> list[NDArray[np.float64]]:
    bits = (np.arange(2**problem.n)[:, None] >> np.arange(problem.n)) & 1
    return [z for z in 1.0 - 2.0 * bits if problem.feasible(z)]
