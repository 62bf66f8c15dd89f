"""Simulated annealing with incremental fields (Kirkpatrick, Gelatt and Vecchi, 1983).

Restarts of a geometric cooling schedule until the deadline or a fixed number of sweeps; each ends
with a descent. Temperatures come from the problem: hot enough that the largest local field is
flipped with probability 1/2, cold enough that the smallest is flipped once in a hundred sweeps.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.local import Arrays, State, random_state
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solver import SOLVERS, Found

__all__ = ["AnnealingSolver", "temperature_range"]

SWEEPS = 1000
RESTARTS = 32
SPINS_BETWEEN_LOOKS = 200_000


class AnnealingSolver:
    """At most ``restarts`` runs of ``sweeps`` sweeps; fewer when the deadline comes."""

    name: ClassVar[str] = "annealing"
    quantum: ClassVar[bool] = False

    def __init__(self, sweeps: int = SWEEPS, restarts: int = RESTARTS) -> None:
        self.sweeps, self.restarts = sweeps, restarts

    def refuses(self, problem: IsingProblem) -> str | None:  # noqa: ARG002
        """It takes every problem."""
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,
        start: NDArray[np.int8] | None = None,
    ) -> Found:
        """The best state of all runs, never worse than ``start``."""
        generator = np.random.default_rng(seed)
        arrays = Arrays.of(problem)
        best_z = random_state(problem, generator) if start is None else np.asarray(start, np.int8)
        best = float(problem.energy(best_z))
        betas = _schedule(problem, self.sweeps)
        runs = 0
        for _ in range(self.restarts if problem.n else 0):
            z = _run(arrays, random_state(problem, generator), betas, generator, deadline)
            energy = float(problem.energy(z))
            runs += 1
            if energy < best:
                best, best_z = energy, z
            if deadline.expired:
                break
        return Found(best_z, best, notes={"runs": runs, "sweeps": self.sweeps})


def temperature_range(problem: IsingProblem) -> tuple[float, float]:
    """Inverse temperatures (hot, cold), in units of 1 / energy."""
    strength = np.abs(problem.h)
    magnitudes = np.abs(problem.weights)
    smallest = np.where(problem.h != 0, strength, np.inf)
    for end in problem.edges.T:
        strength = strength + np.bincount(end, weights=magnitudes, minlength=problem.n)
        np.minimum.at(smallest, end, magnitudes)
    if not np.isfinite(smallest).any():
        return 1.0, 1.0
    hot = np.log(2) / (2 * float(strength.max()))
    cold = np.log(100) / (2 * float(smallest.min()))
    # Couplings over many decades would make the coldest end so cold that most sweeps are frozen.
    typical = float(np.median(smallest[np.isfinite(smallest)]))
    return hot, max(hot, min(cold, np.log(1e4) / (2 * typical)))


def _schedule(problem: IsingProblem, sweeps: int) -> NDArray[np.float64]:
    hot, cold = temperature_range(problem)
    return np.geomspace(hot, cold, sweeps)


def _run(
    arrays: Arrays,
    z: NDArray[np.int8],
    betas: NDArray[np.float64],
    generator: np.random.Generator,
    deadline: Deadline,
) -> NDArray[np.int8]:
    """One cooling in slices, so that the deadline is looked at; ends with a descent."""
    from qcluster.quantum import _kernels

    problem = arrays.problem
    state = State.at(arrays, z)
    energy = best = float(problem.energy(z))
    best_z = state.z.copy()
    bits = generator.integers(1, 2**63, size=1, dtype=np.uint64)
    slice_length = max(1, SPINS_BETWEEN_LOOKS // max(1, problem.n))
    for first in range(0, len(betas), slice_length):
        energy, best = _kernels.anneal(
            state.z, state.field, arrays.group, state.hot, *arrays.csr,
            betas[first : first + slice_length], bits, energy, best_z, best,
        )  # fmt: skip
        if deadline.expired:
            break
    final = State.at(arrays, best_z.astype(np.int8))
    _kernels.descend(final.z, final.field, arrays.group, final.hot, *arrays.csr, 4 * problem.n)
    return final.spins()


SOLVERS.register(AnnealingSolver.name, AnnealingSolver())
