"""Power transforms of the values: what is large is pressed together, order is kept.

Values are shifted to start at zero and scaled by their interquartile range, then transformed as by
Yeo & Johnson (2000): ((1 + z)^p - 1) / p, or log(1 + z) for p = 0, and standardised. The log
Jacobian makes likelihoods of different powers comparable.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["POWERS", "log_slopes", "warp"]

F = NDArray[np.float64]
POWERS = (1.0, 0.5, 0.0)


def warp(y: F, power: float) -> tuple[F, float]:
    """``y`` (n,) transformed and standardised, and the log Jacobian of the transform."""
    z = _shifted(y)[0]
    out = np.log1p(z) if power == 0 else ((1.0 + z) ** power - 1.0) / power
    sd = float(out.std()) or 1.0
    return (out - out.mean()) / sd, float(log_slopes(y, power).sum())


def log_slopes(y: F, power: float) -> F:
    """(n,) log of the transform's slope at each value: together the log Jacobian."""
    z, scale = _shifted(y)
    out = np.log1p(z) if power == 0 else ((1.0 + z) ** power - 1.0) / power
    sd = float(out.std()) or 1.0
    slopes: F = (power - 1.0) * np.log1p(z) - math.log(sd) - math.log(scale)
    return slopes


def _shifted(y: F) -> tuple[F, float]:
    """Values from zero up in units of their interquartile range, and that unit."""
    low, high = np.percentile(y, [25, 75])
    scale = float(high - low) or float(y.std()) or 1.0
    return (y - y.min()) / scale, scale
