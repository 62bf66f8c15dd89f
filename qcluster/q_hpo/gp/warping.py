"""Power transforms of the values: what is large is pressed together, order is kept.

Values are shifted to start at zero and scaled by their interquartile range, then transformed as by
Yeo & Johnson (2000): ((1 + z)^p - 1) / p, or log(1 + z) for p = 0, and standardised. The log
Jacobian makes likelihoods of different powers comparable. ``DEEP`` stands for the logarithm of
values in a smaller unit, for losses of which many are nearly as good as the best: it tells them
apart.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEEP", "POWERS", "log_slopes", "warp"]

F = NDArray[np.float64]
POWERS = (1.0, 0.5, 0.0)
DEEP = -1.0


def warp(y: F, power: float) -> tuple[F, float]:
    """``y`` (n,) transformed and standardised, and the log Jacobian of the transform."""
    z = _shifted(y, power)[0]
    out = np.log1p(z) if power <= 0 else ((1.0 + z) ** power - 1.0) / power
    sd = float(out.std()) or 1.0
    return (out - out.mean()) / sd, float(log_slopes(y, power).sum())


def log_slopes(y: F, power: float) -> F:
    """(n,) log of the transform's slope at each value: together the log Jacobian."""
    z, scale = _shifted(y, power)
    out = np.log1p(z) if power <= 0 else ((1.0 + z) ** power - 1.0) / power
    sd = float(out.std()) or 1.0
    slopes: F = (max(power, 0.0) - 1.0) * np.log1p(z) - math.log(sd) - math.log(scale)
    return slopes


def _shifted(y: F, power: float) -> tuple[F, float]:
    """Values from zero up in units of their interquartile range, or for ``DEEP`` of what parts the
    best quarter of them from the best, and that unit.
    """
    rest = y - y.min()
    low, high = np.percentile(rest, [25, 75])
    if power == DEEP:
        scale = float(low) or float(rest[rest > 0].min(initial=math.inf))
        if scale >= high - low or not math.isfinite(scale):
            scale = float(high - low)
    else:
        scale = float(high - low)
    scale = scale or float(y.std()) or 1.0
    return rest / scale, scale
