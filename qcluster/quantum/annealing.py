"""Simulated annealing with incremental fields, restarts and recombination.

One run cools linearly in temperature (Kirkpatrick, Gelatt and Vecchi, 1983; Myklebust, 2015, for
the linear schedule) and ends in a local optimum. Between runs nothing is thrown away: runs start
in turn from chance and from the best state, reheated half-way, and each result is recombined with
the best state part by part (Houdayer, 2001), so a run that is better in some region only still
improves the answer. Runs grow in length as long as time allows: fourfold while they are short.
"""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.local import Arrays, State, random_state
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solver import SOLVERS, Found

__all__ = ["AnnealingSolver", "energy_scale", "temperature_range"]

Floats = NDArray[np.float64]
Spins = NDArray[np.int8]

FIRST_SWEEPS = 100
LONG_SWEEPS = 1000
VISITS = 2_000_000_000
SLICE_VISITS = 200_000


class AnnealingSolver:
    """Anneals until the deadline, or until ``visits`` spins have been offered a flip, or until
    ``patience`` runs in a row have found nothing better.
    """

    name: ClassVar[str] = "annealing"
    quantum: ClassVar[bool] = False

    def __init__(self, visits: int = VISITS, patience: int = 16) -> None:
        self.visits, self.patience = visits, patience

    def refuses(self, problem: IsingProblem) -> str | None:  # noqa: ARG002
        """It takes every problem."""
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: Spins | None = None,
    ) -> Found:
        """The best state of all runs, never worse than ``start``."""
        generator = np.random.default_rng(seed)
        first = random_state(problem, generator) if start is None else start
        if not problem.n:
            return Found(np.asarray(first, np.int8), float(problem.energy(first)))
        search = _Search(problem, first, generator, deadline)
        sweeps, runs, idle, budget = FIRST_SWEEPS, 0, 0, self.visits // problem.n
        while idle < self.patience and budget > 0 and (runs == 0 or not deadline.expired):
            better = search.run(min(sweeps, budget), warm=runs % 2 == 1)
            budget -= sweeps
            runs += 1
            idle = 0 if better else idle + 1
            if runs % 2 == 0:
                sweeps *= 4 if sweeps < LONG_SWEEPS else 2
        z, energy = search.best.spins(), float(problem.energy(search.best.z))
        if start is not None and energy > (held := float(problem.energy(start))):
            z, energy = np.asarray(start, dtype=np.int8), held
        return Found(z, energy, notes={"runs": runs, "longest_run_sweeps": search.longest})


class _Search:
    """The best state so far, and runs that improve it."""

    def __init__(
        self,
        problem: IsingProblem,
        first: Spins,
        generator: np.random.Generator,
        deadline: Deadline,
    ) -> None:
        self.problem, self.generator, self.deadline = problem, generator, deadline
        self.arrays = Arrays.of(problem)
        self.best = State.at(self.arrays, first)
        self.hot, self.cold = temperature_range(problem)
        self.slack = 1e-12 * max(self.hot, 1e-300)
        self.bits = generator.integers(1, 2**63, size=1, dtype=np.uint64)
        self.longest = 0
        self._rate = np.inf  # sweeps a second, as measured
        self._quench(self.best)

    def run(self, sweeps: int, *, warm: bool) -> bool:
        """One cooling; whether the best state improved."""
        share = self.generator.uniform(0.2, 0.6) if warm else 1.0
        spins = self.best.spins() if warm else random_state(self.problem, self.generator)
        state = State.at(self.arrays, spins)
        left = self.deadline.remaining()
        if np.isfinite(left) and np.isfinite(self._rate):
            sweeps = max(1, min(sweeps, int(0.9 * self._rate * left)))
        self.longest = max(self.longest, sweeps)
        top = self.cold + share * (self.hot - self.cold)
        begun = time.monotonic()
        done = self._cool(state, 1.0 / np.linspace(top, self.cold, sweeps))
        self._rate = done / max(time.monotonic() - begun, 1e-9)
        self._quench(state)
        return self._keep(state)

    def _cool(self, state: State, betas: Floats) -> int:
        """Slices between looks at the clock; how many sweeps were made."""
        from qcluster.quantum import _kernels

        length = max(1, SLICE_VISITS // self.problem.n)
        for first in range(0, len(betas), length):
            part = betas[first : first + length]
            if self.problem.groups:
                _kernels.anneal_groups(
                    state.z, state.field, self.arrays.group, state.hot, *self.arrays.small, part,
                    self.bits,
                )  # fmt: skip
            else:
                _kernels.anneal(state.z, state.field, *self.arrays.small, part, self.bits)
            if self.deadline.expired:
                return first + len(part)
        return len(betas)

    def _quench(self, state: State) -> None:
        from qcluster.quantum import _kernels

        _kernels.quench(
            state.z, state.field, self.arrays.group, state.hot, *self.arrays.csr, self.slack
        )

    def _keep(self, state: State) -> bool:
        """Take over what ``state`` does better."""
        taken = self._take(state.z)
        if not self.problem.groups and not self.problem.h.any():
            taken += self._take(-state.z)  # as good, and differs from the best elsewhere
        if taken:
            self._quench(self.best)
        return bool(taken)

    def _take(self, z: Floats) -> int:
        from qcluster.quantum import _kernels

        best, arrays = self.best, self.arrays
        return int(
            _kernels.recombine(
                best.z, z, best.field, arrays.group, best.hot, *arrays.members, *arrays.csr,
                self.slack,
            )
        )  # fmt: skip


def energy_scale(problem: IsingProblem) -> float:
    """Root mean square of the energy a spin sees, sqrt(mean_i(h_i^2 + sum_j J_ij^2)); 1 if 0."""
    if not problem.n:
        return 1.0
    total = float(np.square(problem.h).sum() + 2 * np.square(problem.weights).sum())
    return float(np.sqrt(total / problem.n)) or 1.0


def temperature_range(problem: IsingProblem) -> tuple[float, float]:
    """(hot, cold) in units of energy: hot is the typical local field, cold freezes the weakest
    coupling but no less than a fiftieth of hot.
    """
    hot = energy_scale(problem)
    strengths = np.concatenate([np.abs(problem.weights), np.abs(problem.h)])
    strengths = strengths[strengths > 0]
    weakest = float(strengths.min()) if len(strengths) else hot
    return hot, min(hot, max(0.3 * weakest, 0.02 * hot))


SOLVERS.register(AnnealingSolver.name, AnnealingSolver())
