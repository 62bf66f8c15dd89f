"""Proven lower bounds on the energy of an Ising problem.

A bound here is a proof that is cheap to check; none is a guess from a good solution.
"""

from __future__ import annotations

import numpy as np

from qcluster.quantum.problem import IsingProblem

__all__ = ["lower_bound", "magnitude_bound"]


def magnitude_bound(problem: IsingProblem) -> float:
    """offset - sum |J| - sum_i |h_i|, with the fields of a one-hot group at their exact minimum.

    Exactly one member of a group is +1, so its fields give min_l (2 h_l - sum h) and no less;
    couplings count by their magnitude.
    """
    free = np.ones(problem.n, dtype=bool)
    value = problem.offset - float(np.abs(problem.weights).sum())
    for group in problem.groups:
        fields = problem.h[list(group)]
        value += float(2 * fields.min() - fields.sum())
        free[list(group)] = False
    return value - float(np.abs(problem.h[free]).sum())


def lower_bound(problem: IsingProblem) -> float:
    """The best bound that is known here."""
    return magnitude_bound(problem)
