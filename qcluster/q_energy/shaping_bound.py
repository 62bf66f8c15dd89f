"""How far shifts and caps can lower the peak of jobs at all, whoever sets them.

The highest sum is at least the mean sum, over the whole time with caps, over any stretch without:
a start moved by a few seconds moves work into a stretch or out of it only at its ends. With caps
the mean is that of the cheapest way to do the work in the time that the delay allows, bounded by
Lagrangian duality (Everett 1963): no price of a second gives more than the optimum.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.curves import speed

__all__ = ["peak_bound"]

Floats = NDArray[np.float64]

_SHARES = np.linspace(0.0, 1.0, 401)  # of the power above rest
_PRICES = 24
_STRETCHES = 24


def peak_bound(
    traces_w: Floats, *, max_shift: int, delay: float, memory_bound: float = 0.3
) -> float:
    """Watts that the highest sum of jobs cannot be below.

    Parameters
    ----------
    traces_w: (jobs, times) watts above 0, uncapped; a job that reaches the end begins anew.
    max_shift: by how many readings starts may move.
    delay: mean share of the time that jobs may lose, 0 (no caps at all) to below 1.
    memory_bound: share of the jobs' time that does not follow the clock.

    Raises InputError for bad values.
    """
    traces = np.asarray(traces_w, dtype=np.float64)
    if traces.ndim != 2 or not traces.size or not (np.isfinite(traces) & (traces > 0)).all():
        raise InputError("wants jobs x times of finite watts above 0", field="traces_w")
    if isinstance(max_shift, bool) or not 0 <= max_shift < traces.shape[1]:
        raise InputError(f"wants readings from 0 on, got {max_shift!r}", field="max_shift")
    for name, value in (("delay", delay), ("memory_bound", memory_bound)):
        if isinstance(value, bool) or not 0 <= value < 1:
            raise InputError(f"wants a share below 1, got {value!r}", field=name)
    if delay == 0:
        return _of_shifts(traces, int(max_shift))
    return _of_caps(traces, delay, memory_bound)


def _of_shifts(traces: Floats, most: int) -> float:
    """For every stretch of time the least work that shifts can leave in it, over its length."""
    times = traces.shape[1]
    twice = np.concatenate([np.zeros((len(traces), 1)), traces, traces], axis=1).cumsum(axis=1)
    best = 0.0
    for length in np.unique(np.geomspace(1, times, _STRETCHES).astype(int)):
        work = twice[:, length : length + times] - twice[:, :times]
        least = np.min([np.roll(work, shift, axis=1) for shift in range(most + 1)], axis=0)
        best = max(best, float(least.sum(axis=0).max()) / length)
    return best


def _of_caps(traces: Floats, delay: float, memory: float) -> float:
    """The least mean sum when readings take longer by ``delay`` in all, or some are left undone."""
    times, lost = traces.shape[1], delay * traces.size
    # Between two shares the power is at least the lower one's, the time at least the upper one's.
    longer = 1.0 / speed(_SHARES[1:], 1.0, 0.0, memory)
    rest = traces.min(axis=1)

    def dual(price: float) -> float:
        total = -price * lost
        for low, trace in zip(rest, traces, strict=True):
            above = np.unique(trace - low, return_counts=True)
            cost = longer * (low + price) + np.outer(above[0], longer * _SHARES[:-1]) - price
            total += float((cost.min(axis=1) * above[1]).sum())
        return total

    # Concave in the price: golden section between none and one at which no slowing pays.
    low, high = 0.0, 4.0 * float(traces.max())
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    best = dual(0.0)
    for _ in range(_PRICES):
        first, second = high - golden * (high - low), low + golden * (high - low)
        one, two = dual(first), dual(second)
        best = max(best, one, two)
        low, high = (low, second) if one >= two else (first, high)
    undone = np.sort(traces, axis=None)[::-1][: int(np.ceil(lost))].sum()
    return (best - float(undone)) / float(times)
