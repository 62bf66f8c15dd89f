"""What the local searches share: a state with its local fields, in the arrays the kernels take.

A move is a flip of a free spin, or, in a one-hot group, handing the +1 from one member to another;
so every state along a search satisfies the groups.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.problem import IsingProblem

__all__ = ["Arrays", "State", "first_state", "random_state"]

Spins = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Arrays:
    """A problem as flat arrays: CSR couplings, and the group (or -1) of each variable."""

    problem: IsingProblem
    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    data: NDArray[np.float64]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, problem: IsingProblem) -> Arrays:
        """Rows sorted by column."""
        n = problem.n
        left, right = problem.edges.T
        rows = np.concatenate([left, right])
        columns = np.concatenate([right, left])
        order = np.lexsort((columns, rows))
        indptr = np.zeros(n + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n), out=indptr[1:])
        group = np.full(n, -1, dtype=np.int64)
        for number, members in enumerate(problem.groups):
            group[list(members)] = number
        data = np.concatenate([problem.weights, problem.weights])[order]
        return cls(problem, indptr, columns[order], data, group)

    @functools.cached_property
    def small(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]:
        """``csr`` with unsigned 32-bit indices."""
        return self.indptr.astype(np.uint32), self.indices.astype(np.uint32), self.data

    @functools.cached_property
    def members(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first, variables): group g holds ``variables[first[g]:first[g + 1]]``."""
        groups = self.problem.groups
        first = np.zeros(len(groups) + 1, dtype=np.int64)
        np.cumsum([len(group) for group in groups], out=first[1:])
        return first, np.array([i for group in groups for i in group], dtype=np.int64)

    @property
    def csr(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """indptr, indices, data."""
        return self.indptr, self.indices, self.data


@dataclass(eq=False)
class State:
    """Spins as float64, their local fields h + J z, and the hot variable of each group."""

    z: NDArray[np.float64]
    field: NDArray[np.float64]
    hot: NDArray[np.int64]

    @classmethod
    def at(cls, arrays: Arrays, spins: Spins) -> State:
        """The state with these feasible spins."""
        problem = arrays.problem
        z = np.asarray(spins, dtype=np.float64).copy()
        left, right = problem.edges.T
        field = problem.h.copy()
        field += np.bincount(left, weights=problem.weights * z[right], minlength=problem.n)
        field += np.bincount(right, weights=problem.weights * z[left], minlength=problem.n)
        hot = [next(i for i in members if z[i] > 0) for members in problem.groups]
        return cls(z, field, np.array(hot, dtype=np.int64))

    def spins(self) -> Spins:
        """The spins as int8."""
        return self.z.astype(np.int8)


def first_state(problem: IsingProblem) -> Spins:
    """A feasible state without chance: every spin against its own field, in each group the member
    with the smallest field hot.
    """
    z = np.where(problem.h > 0, -1, 1).astype(np.int8)
    for group in problem.groups:
        members = np.array(group)
        z[members] = -1
        z[members[np.argmin(problem.h[members])]] = 1
    return z


def random_state(problem: IsingProblem, generator: np.random.Generator) -> Spins:
    """A uniformly random feasible state."""
    z = generator.choice(np.array([-1, 1], dtype=np.int8), size=problem.n)
    for group in problem.groups:
        z[list(group)] = -1
        z[group[generator.integers(len(group))]] = 1
    return z
