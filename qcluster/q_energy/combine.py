"""Forecasts mixed on line by their past errors, so that no member can drag the mixture down.

Exponential weights (Vovk 1990; Littlestone and Warmuth 1994) under delayed feedback (Weinberger and
Ordentlich 2002): a forecast's error counts once its time has come. The absolute error of a mixture
is at most the weighted mean of its members' errors, and a member that errs more loses its weight
exponentially fast in horizons, not in readings, as errors within one horizon are of one event.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE", "follow", "weights"]

Floats = NDArray[np.float64]

RATE = 2.0
"""A member that errs twice as much as the best over one horizon falls by this power of e."""

_LEAST_ERROR = 1e-3  # relative; below it members count as equally right


def weights(members: Floats, run: Floats, step: int, prior: Floats, skip: int = 0) -> Floats:
    """(times, members) weights in force at each time, summing to 1.

    Parameters
    ----------
    members: (members, times, nodes) forecasts, each of ``step`` steps after its time.
    run: (times, nodes) readings. Those up to a time decide its weights, none later.
    prior: (members,) weights before any error is known, above 0.
    skip: forecasts made in the first ``skip`` steps are not held against anyone.
    """
    times = len(run)
    wrong = np.zeros((len(members), times))
    if times > step + skip:
        apart = np.abs(members[:, skip:-step] - run[skip + step :])
        share = apart / np.maximum(run[skip + step :], 1.0)
        wrong[:, skip + step :] = np.minimum(share, 1.0).mean(axis=2)
    total = np.cumsum(wrong, axis=1)
    best = total.min(axis=0)
    seen = np.maximum(np.arange(times) - (step + skip) + 1, 1)
    rate = RATE / (step * np.maximum(best / seen, _LEAST_ERROR))
    power = np.log(prior)[:, None] - rate * (total - best)
    found = np.exp(power - power.max(axis=0))
    return np.asarray((found / found.sum(axis=0)).T)


def follow(members: Floats, run: Floats, step: int, prior: Floats, skip: int = 0) -> Floats:
    """(times, nodes) the mixture of ``members`` under ``weights``."""
    share = weights(members, run, step, prior, skip)
    return np.asarray(np.einsum("tk,ktn->tn", share, members))
