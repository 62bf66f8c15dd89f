"""What the simulated linear solvers take: a real system, checked once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["real_system"]

Floats = NDArray[np.float64]


def real_system(A: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """A (m, n) and b (m,) as float64.

    Raises InputError, naming the field, for other shapes, what is not real and finite, and zero.
    """
    try:
        matrix, right = np.asarray(A, dtype=np.float64), np.asarray(b, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants real numbers in rows of equal length", field="A") from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise InputError(f"wants shape (m, n), got {matrix.shape}", field="A")
    if right.shape != (len(matrix),):
        raise InputError(f"wants shape ({len(matrix)},), got {right.shape}", field="b")
    for name, array in (("A", matrix), ("b", right)):
        if not np.isfinite(array).all():
            raise InputError("holds a number that is not finite", field=name)
        if not array.any():
            raise InputError("is zero", field=name)
    return matrix, right
