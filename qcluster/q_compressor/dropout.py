"""The dropout simulator: which channels can be left out, by Monte Carlo.

Random sets of channels are zeroed, and the change of mean square error is regressed on who was
missing (an additive model; compare Molchanov and others, 2017). With squared error and independent
zeroing the truth is each channel's energy; the study finds it from samples, as it would for a loss
of which only samples can be had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

__all__ = ["ChannelStudy", "measure_channels"]

F64 = NDArray[np.float64]
# Rows of the tensor that a trial looks at.
ROWS = 256


@dataclass(frozen=True)
class ChannelStudy:
    """``sensitivity`` (channels,): the loss added by leaving each out; ``trials`` made."""

    sensitivity: F64
    trials: int


def measure_channels(
    x: F64, *, trials: int = 64, rate: float = 0.2, seed: int = 0,
    loss: Callable[[F64, F64], float] | None = None,
) -> ChannelStudy:  # fmt: skip
    """Sensitivity of the columns of x (rows, channels).

    Parameters
    ----------
    trials: at least; there are always twice as many as channels, or the regression has no answer.
    rate: share of channels that a trial zeroes.
    loss: of (thinned, whole); by default the squared error a row.

    Raises InputError for shapes and values out of range.
    """
    if x.ndim != 2 or 0 in x.shape or not np.isfinite(x).all():
        raise InputError(f"wants finite values (rows, channels), got {x.shape}", field="x")
    if not 0 < rate < 1 or trials < 1:
        raise InputError(f"wants a share in (0, 1) and trials, got {rate}, {trials}", field="rate")
    rng = np.random.default_rng(seed)
    channels = x.shape[1]
    count = max(trials, 2 * channels)
    picked = rng.choice(len(x), size=min(ROWS, len(x)), replace=False)
    some = x[np.sort(picked)]
    gone = rng.random((count, channels)) < rate
    if loss is None:
        # The default loss of all trials at once.
        change = gone @ np.square(some).mean(axis=0)
    else:
        change = np.array([loss(np.where(g, 0.0, some), some) for g in gone])
    design = np.concatenate([gone.astype(np.float64), np.ones((count, 1))], axis=1)
    found = np.linalg.lstsq(design, change, rcond=None)[0][:channels]
    return ChannelStudy(np.asarray(found), count)
