"""Many throughput-over-power curves as flat arrays, which is what solvers of a budget read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.problem import Curve

__all__ = ["CurveTable"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Increments = tuple[Ints, Ints, Ints, Floats, Floats]


class CurveTable:
    """Many curves' points in flat arrays: curve c owns ``begin[c]`` to ``begin[c + 1]``.

    ``power`` and ``value`` (points,) float64, ``allowed`` (points,) bool. Building one checks
    nothing; it takes what ``Curve`` or a planner has checked.
    """

    def __init__(
        self,
        power: Floats,
        value: Floats,
        begin: NDArray[np.int64],
        allowed: NDArray[np.bool_],
    ) -> None:
        self.power, self.value, self.begin, self.allowed = power, value, begin, allowed

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> CurveTable:
        """From checked curves, in order."""
        begin = np.zeros(len(curves) + 1, np.int64)
        begin[1:] = np.cumsum([len(curve.power_w) for curve in curves])
        return cls(
            np.concatenate([curve.power_w for curve in curves]),
            np.concatenate([curve.throughput for curve in curves]),
            begin,
            np.concatenate([curve.allowed for curve in curves]),
        )

    @property
    def n(self) -> int:
        """How many curves."""
        return len(self.begin) - 1

    @cached_property
    def increments(self) -> Increments:
        """Every curve's upper hull (``_kernels.hull_increments``), computed once."""
        from qcluster.q_energy import _kernels

        found: Increments = _kernels.hull_increments(
            self.power, self.value, self.begin, self.allowed
        )
        return found

    @cached_property
    def floor_w(self) -> float:
        """Sum of every curve's lowest allowed watts."""
        low = np.minimum.reduceat(np.where(self.allowed, self.power, np.inf), self.begin[:-1])
        return float(low.sum())
