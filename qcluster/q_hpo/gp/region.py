"""A box around the best point that grows with successes and shrinks with failures.

The rule of Eriksson, Pearce, Gardner, Turner & Poloczek (2019), read off the history: no state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["trust_box"]

F = NDArray[np.float64]
_START, _LARGEST, _SMALLEST = 0.8, 1.6, 2.0**-7
_SUCCESSES = 3


def trust_box(points: F, values: F, design: int) -> tuple[F, F]:
    """Corners (d,) and (d,) of the box for the next trial, inside the unit cube.

    points (n, d) and values (n,), NaN where one failed, in the order they were told; the first
    ``design`` ones only say where the best is. A box that became too small starts again.
    """
    n, d = points.shape
    length, won, lost = _START, 0, 0
    patience = max(4, d)
    first = values[:design]
    best = float(np.nanmin(first)) if np.isfinite(first).any() else np.inf
    for value in values[design:]:
        better = np.isfinite(value) and value < best - 1e-3 * abs(best)
        best = min(best, float(value)) if np.isfinite(value) else best
        won, lost = (won + 1, 0) if better else (0, lost + 1)
        if won == _SUCCESSES:
            length, won = min(2 * length, _LARGEST), 0
        elif lost == patience:
            length, lost = length / 2, 0
        if length < _SMALLEST:
            length = _START
    if not n or not np.isfinite(values).any():
        return np.zeros(d), np.ones(d)
    centre = points[int(np.nanargmin(values))]
    return np.maximum(centre - length / 2, 0.0), np.minimum(centre + length / 2, 1.0)
