"""The feasible configurations of an Ising problem as a product of axes, and their energies.

Every one-hot group of k variables is one axis of k levels (level l: its l-th variable is +1), every
other variable an axis of two (level = bit, 0 is z = +1). So m groups of k need k^m amplitudes, not
2^(mk), and infeasible configurations have no index. Axis 0 varies fastest; without groups index and
basis state of a quantum computer agree (qubit 0 is the least significant bit).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.quantum.problem import IsingProblem

__all__ = ["Axis", "Space", "linear_form"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Axis:
    """One free variable, or the variables of a one-hot group."""

    variables: tuple[int, ...]
    one_hot: bool

    @functools.cached_property
    def levels(self) -> Floats:
        """(levels, variables) spins of each level."""
        if not self.one_hot:
            return np.array([[1.0], [-1.0]])
        return 2.0 * np.eye(len(self.variables)) - 1.0


@dataclass(frozen=True, eq=False)
class Space:
    """The product of ``axes``, which together cover ``n`` variables."""

    n: int
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, problem: IsingProblem, *, full: bool = False) -> Space:
        """The feasible space, axes ordered by their first variable; ``full`` ignores groups."""
        groups = () if full else problem.groups
        grouped = {i for group in groups for i in group}
        axes = [Axis((i,), False) for i in range(problem.n) if i not in grouped]
        axes += [Axis(group, True) for group in groups]
        return cls(problem.n, tuple(sorted(axes, key=lambda axis: min(axis.variables))))

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Levels of each axis, axis 0 (the fastest) first."""
        return tuple(len(axis.levels) for axis in self.axes)

    @functools.cached_property
    def size(self) -> int:
        """Number of configurations; a Python int, since it may exceed 64 bits."""
        return math.prod(self.shape)

    def without_mirror(self) -> Space:
        """The half in which the last axis, a free spin, is +1."""
        last = Axis(self.axes[-1].variables, one_hot=True)  # one variable: the level +1 alone
        return Space(self.n, (*self.axes[:-1], last))

    def spins(self, index: ArrayLike) -> NDArray[np.int8]:
        """Spins (..., n) of the configurations with these indices (...)."""
        rest = np.asarray(index, dtype=np.int64)
        z = np.empty((*rest.shape, self.n), dtype=np.int8)
        for axis, levels in zip(self.axes, self.shape, strict=True):
            rest, level = np.divmod(rest, levels)
            z[..., list(axis.variables)] = axis.levels[level]
        return z

    def index(self, z: ArrayLike) -> int:
        """The index of feasible spins (n,)."""
        spins = np.asarray(z)
        index = 0
        for axis, levels in zip(reversed(self.axes), reversed(self.shape), strict=True):
            own = spins[list(axis.variables)]
            level = int(np.argmax(own > 0)) if axis.one_hot else int(own[0] < 0)
            index = index * levels + level
        return index

    def moments(self, weights: Floats) -> tuple[Floats, Floats]:
        """sum_x w(x) z_i (n,) and sum_x w(x) z_i z_j (n, n) of ``weights`` (size,), any signs."""
        singles, pairs = np.zeros(self.n), np.zeros((self.n, self.n))
        rest = np.asarray(weights)
        # From the slowest axis down: what is behind is summed away.
        for position in reversed(range(len(self.axes))):
            axis, own = self.axes[position], list(self.axes[position].variables)
            block = rest.reshape(self.shape[position], -1)
            singles[own] = axis.levels.T @ block.sum(axis=1)
            pairs[np.ix_(own, own)] = (axis.levels.T * block.sum(axis=1)) @ axis.levels
            below = axis.levels.T @ block  # (own variables, configurations of the axes below)
            for lower in reversed(range(position)):
                others = list(self.axes[lower].variables)
                part = below.reshape(len(own), self.shape[lower], -1)
                both = part.sum(axis=2) @ self.axes[lower].levels
                pairs[np.ix_(own, others)] = both
                pairs[np.ix_(others, own)] = both.T
                below = part.sum(axis=1)
            rest = block.sum(axis=0)
        return singles, pairs

    def energies(
        self, h: Floats, edges: NDArray[np.int64], weights: Floats, offset: float = 0.0
    ) -> Floats:
        """Energy (size,) of every configuration, in float64, built axis by axis in O(size)."""
        J = np.zeros((self.n, self.n))
        J[edges[:, 0], edges[:, 1]] = weights
        J += J.T
        energy = np.array([offset], dtype=np.float64)
        for position, axis in enumerate(self.axes):
            own = list(axis.variables)
            blocks = []
            for spins in axis.levels:
                inner = spins @ h[own] + spins @ J[np.ix_(own, own)] @ spins / 2
                block = energy + inner
                coefficients = spins @ J[own]
                if position and coefficients.any():
                    block += linear_form(self.axes[:position], coefficients)
                blocks.append(block)
            energy = np.concatenate(blocks)
        return energy


def linear_form(axes: Sequence[Axis], coefficients: Floats) -> Floats:
    """sum_i coefficients_i z_i over the variables of ``axes``, for all their configurations."""
    if len(axes) > 3:
        half = (len(axes) + 1) // 2
        low = linear_form(axes[:half], coefficients)
        high = linear_form(axes[half:], coefficients)
        return np.add.outer(high, low).ravel()
    values = np.zeros(1)
    for axis in axes:
        steps = axis.levels @ coefficients[list(axis.variables)]
        values = np.add.outer(steps, values).ravel()
    return values
