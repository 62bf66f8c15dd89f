"""Power transforms of the values: what is large is pressed together, order is kept.

Values are shifted to start at zero and scaled by their interquartile range, then transformed as by
Yeo & Johnson (2000): ((1 + z)^p - 1) / p, or log(1 + z) for p = 0, and standardised. The log
Jacobian makes likelihoods of different powers comparable.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["POWERS", "warp"]

F = NDArray[np.float64]
POWERS = (1.0, 0.5, 0.0)


def warp(y: F, power: float) -> tuple[F, float]:
    """``y`` (n,) transformed and standardised, and the log Jacobian of the transform."""
    low, high = np.percentile(y, [25, 75])
    scale = float(high - low) or float(y.std()) or 1.0
    z = (y - y.min()) / scale
    if power == 0:
        out, jacobian = np.log1p(z), -float(np.log1p(z).sum())
    else:
        out = ((1.0 + z) ** power - 1.0) / power
        jacobian = (power - 1.0) * float(np.log1p(z).sum())
    sd = float(out.std()) or 1.0
    return (out - out.mean()) / sd, jacobian - len(y) * (math.log(sd) + math.log(scale))
