"""Bounds on forecasts that hold as often as they say, also when the job drifts.

Scores are relative errors (actual - predicted) / predicted. Held-out runs give their quantiles
(split conformal, Papadopoulos et al. 2002); on line the quantile is moved up after a miss and down
after a hit, so that the long-run share of misses is right whatever the data do (quantile tracking,
Angelopoulos, Candes and Tibshirani 2023).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantile_of", "scores", "track"]

Floats = NDArray[np.float64]

# Step of the tracker as a share of the scores' spread; larger follows faster and wavers more.
_RATE = 0.03


def scores(actual: Floats, predicted: Floats) -> Floats:
    """Relative errors, the shape of both; 1 W is the least denominator."""
    out: Floats = (actual - predicted) / np.maximum(predicted, 1.0)
    return out


def quantile_of(values: Floats, share: float) -> float:
    """The conformal quantile: with its finite-sample correction, at most the largest score."""
    n = values.size
    if not n:
        return 0.0
    return float(np.quantile(values, min(1.0, share * (n + 1) / n)))


def track(seen: Floats, share: float, start: float, lag: int) -> Floats:
    """The bound in force at each time, (times,), from scores (times, nodes) of the same times.

    A score of time t is known ``lag`` steps later. ``start`` is the calibrated quantile.
    """
    level = start
    spread = float(np.quantile(np.abs(seen), 0.95)) if seen.size else 0.0
    rate = _RATE * max(spread, abs(start), 1e-3)
    out = np.empty(len(seen))
    for t in range(len(seen)):
        if t >= lag:
            missed = float(np.mean(seen[t - lag] > out[t - lag]))
            level += rate * (missed - (1.0 - share))
        out[t] = level
    return out
