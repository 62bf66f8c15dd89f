"""Taking noise out of results again: extrapolation to zero noise, readout correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["ReadoutError", "extrapolate_to_zero"]

Floats = NDArray[np.float64]


def extrapolate_to_zero(
    scales: ArrayLike, values: ArrayLike, *, degree: int | None = None
) -> float:
    """The value at noise scale 0 of a polynomial through results at ``scales`` > 0.

    ``degree`` None goes through all points (Richardson; Temme, Bravyi and Gambetta, 2017); a lower
    one is fitted by least squares, which amplifies shot noise less.
    """
    x, y = np.asarray(scales, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise InputError(f"wants two lists of equal length, got {x.shape} and {y.shape}",
                         field="scales")  # fmt: skip
    if not np.isfinite(x).all() or (x <= 0).any() or len(set(x.tolist())) != len(x):
        raise InputError("wants different positive numbers", field="scales")
    if not np.isfinite(y).all():
        raise InputError("holds a number that is not finite", field="values")
    degree = len(x) - 1 if degree is None else degree
    if not 0 <= degree < len(x):
        raise InputError(f"wants 0 to {len(x) - 1}, got {degree}", field="degree")
    powers = np.vander(x / x.max(), degree + 1, increasing=True)
    return float(np.linalg.lstsq(powers, y, rcond=None)[0][0])


@dataclass(frozen=True)
class ReadoutError:
    """Bits read wrongly: ``one_for_zero`` is P(read 1 | was 0), ``zero_for_one`` the other.

    Raises InputError outside [0, 1], and when the two add up to 1, where readout tells nothing.
    """

    one_for_zero: float
    zero_for_one: float

    def __post_init__(self) -> None:
        for name in ("one_for_zero", "zero_for_one"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"wants a number in [0, 1], got {getattr(self, name)}", field=name)
        if abs(self.one_for_zero + self.zero_for_one - 1) < 1e-9:
            raise InputError("readout tells nothing: the errors add up to 1", field="zero_for_one")

    def apply(self, probabilities: ArrayLike) -> Floats:
        """What is read when every qubit of a distribution (2^n,) errs independently."""
        return self._on_every_qubit(probabilities, self._matrix())

    def correct(self, probabilities: ArrayLike) -> Floats:
        """The distribution nearest (least squares) to undoing ``apply``: non-negative, sum 1."""
        inverse: Floats = np.linalg.inv(self._matrix()).astype(np.float64)
        raw = self._on_every_qubit(probabilities, inverse)
        return _onto_simplex(raw)

    def _matrix(self) -> Floats:
        e, f = self.one_for_zero, self.zero_for_one
        return np.array([[1 - e, f], [e, 1 - f]])

    def _on_every_qubit(self, probabilities: ArrayLike, matrix: Floats) -> Floats:
        values = np.asarray(probabilities, dtype=np.float64)
        size = len(values) if values.ndim == 1 else 0
        if size < 1 or size & (size - 1) or not np.isfinite(values).all():
            raise InputError(f"wants (2^n,) finite numbers, got shape {values.shape}",
                             field="probabilities")  # fmt: skip
        for qubit in range(size.bit_length() - 1):
            values = (matrix @ values.reshape(-1, 2, 1 << qubit)).ravel()
        return values


def _onto_simplex(values: Floats) -> Floats:
    """Euclidean projection onto the probability simplex (Held, Wolfe and Crowder, 1974)."""
    ordered = np.sort(values)[::-1]
    shifts = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    count = int(np.flatnonzero(ordered > shifts)[-1]) + 1
    return np.asarray(np.maximum(values - shifts[count - 1], 0.0))
