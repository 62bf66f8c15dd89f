"""The move budget: how far a new plan may depart from the one in force.

Moving an expert, a rank or a power cap costs something while the cluster runs, so replans are
*sticky*: they may change at most a given share of all positions against the previous plan. The
three planners share this one object. It counts Hamming distance to the reference; local searches
ask it before each step, and ``clip`` cuts a finished plan down to the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["MoveBudget"]


@dataclass(frozen=True)
class MoveBudget:
    """At most ``limit`` positions may differ from ``reference``.

    ``reference`` is the plan in force, any shape and integer dtype.
    """

    reference: NDArray[np.int64]
    limit: int

    @classmethod
    def of(cls, reference: ArrayLike, share: float | None) -> MoveBudget:
        """A budget of ``share`` of all positions, rounded down; None means no limit.

        Raises InputError when the share is not between 0 and 1.
        """
        array = np.asarray(reference, dtype=np.int64)
        if share is None:
            return cls(array, array.size)
        if not 0.0 <= share <= 1.0:
            raise InputError(f"must be a share from 0 to 1, got {share}", field="max_moved")
        return cls(array, int(share * array.size))

    def moved(self, current: ArrayLike) -> int:
        """How many positions of ``current`` differ from the reference."""
        return int(np.count_nonzero(np.asarray(current) != self.reference))

    def left(self, current: ArrayLike) -> int:
        """How many more positions may change; negative when over budget."""
        return self.limit - self.moved(current)

    def cost(self, current: NDArray[np.int64], position: Any, value: int) -> int:
        """Change of distance when ``current[position]`` becomes ``value``: -1, 0 or 1."""
        home = int(self.reference[position])
        return int(value != home) - int(int(current[position]) != home)

    def clip(self, target: ArrayLike, gain: ArrayLike) -> NDArray[np.int64]:
        """``target`` with only its most valuable changes kept.

        Parameters
        ----------
        target: the plan that would be best without a budget, shape of the reference.
        gain: what each position's change is worth, same shape; the largest are kept, ties by
            position, so the result is reproducible.

        The positions must be independent of each other: for swaps, use a search that asks
        ``cost`` instead.
        """
        target = np.asarray(target, dtype=np.int64)
        worth = np.where(target != self.reference, np.asarray(gain, dtype=float), -np.inf).ravel()
        order = np.argsort(-worth, kind="stable")[: self.limit]
        kept = order[np.isfinite(worth[order])]
        result = self.reference.ravel().copy()
        result[kept] = target.ravel()[kept]
        return result.reshape(self.reference.shape)
