"""Descent from a fixed state: the deterministic fallback of every Ising question."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.quantum.local import Arrays, State, first_state
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.solver import SOLVERS, Found

__all__ = ["GreedySolver"]

STEPS_BETWEEN_LOOKS = 64
# A steepest move looks at every variable; beyond this size moves are taken in order instead, so
# that the fallback stays a matter of milliseconds.
STEEPEST = 2000


class GreedySolver:
    """Takes the move that lowers the energy most until none does (above 2,000 variables: every move
    that lowers it, in order); draws nothing.
    """

    name: ClassVar[str] = "greedy"
    quantum: ClassVar[bool] = False

    def refuses(self, problem: IsingProblem) -> str | None:  # noqa: ARG002
        """It takes every problem."""
        return None

    def solve(
        self,
        problem: IsingProblem,
        *,
        deadline: Deadline,
        seed: int,  # noqa: ARG002 - it draws nothing
        start: NDArray[np.int8] | None = None,
    ) -> Found:
        """A local optimum below ``start``, or below the state against the fields alone."""
        from qcluster.quantum import _kernels

        first = first_state(problem) if start is None else start
        arrays = Arrays.of(problem)
        state = State.at(arrays, first)
        moves = 0
        while problem.n <= STEEPEST:
            made = _kernels.descend(
                state.z, state.field, arrays.group, state.hot, *arrays.csr, STEPS_BETWEEN_LOOKS
            )
            moves += made
            if made < STEPS_BETWEEN_LOOKS or deadline.expired:
                break
        else:
            slack = 1e-12 * float(np.abs(state.field).max())
            _kernels.quench(state.z, state.field, arrays.group, state.hot, *arrays.csr, slack)
        z = state.spins()
        energy = float(problem.energy(z))
        if start is not None and energy > (held := float(problem.energy(start))):
            z, energy = np.asarray(start, dtype=np.int8), held
        notes = {"moves": moves} if problem.n <= STEEPEST else {"order": "first improvement"}
        return Found(z, energy, notes=notes)


SOLVERS.register(GreedySolver.name, GreedySolver())
