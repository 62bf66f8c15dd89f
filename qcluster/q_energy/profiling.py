"""The power limit that saves most energy within a slowdown, from a few measured limits.

Time does not rise as the limit does, and energy falls and then rises as the limit goes down (You et
al. 2023 show both). What was measured weighs the curves of the family of jobs (``curve_family``);
the next limit to measure is the one that they expect to save most beyond the best so far (expected
improvement; Mockus 1975). Only a measured limit is ever chosen: no model can break the slowdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.curve_family import GRID, members
from qcluster.record import Record

__all__ = ["LimitChoice", "choose_limit"]

Floats = NDArray[np.float64]

_SPREAD = 0.05  # of the log of what a curve of the family says: its misfit and the noise
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class LimitChoice(Record):
    """A power limit in watts and what was measured to choose it.

    ``measured`` (tried, 3) holds watts, seconds and joules of the same work under each tried
    limit, rising; ``slowdown`` and ``saved`` are shares against the highest limit.
    """

    limit_w: float
    slowdown: float
    saved: float
    measured: NDArray[np.float64]


def choose_limit(
    limits_w: Sequence[float],
    measure: Callable[[float], tuple[float, float]],
    *,
    max_slowdown: float = 0.05,
    most: int = 4,
) -> LimitChoice:
    """Measure at most ``most`` limits and take the one of least energy that is fast enough.

    Parameters
    ----------
    limits_w: settable limits, watts above 0, none twice; the highest is the reference.
    measure: limit in watts to (seconds, joules) of a fixed piece of work, both above 0.
    max_slowdown: longest time allowed, as a share over the reference's, at least 0.
    most: limits that may be measured, at least 1.

    Raises InputError for bad values or a measurement that is no pair of numbers above 0.
    """
    limits = _limits(limits_w, max_slowdown, most)
    seen: dict[int, tuple[float, float]] = {}
    best = top = len(limits) - 1
    seen[top] = _checked(measure(limits[top]), limits[top])
    slowest = seen[top][0] * (1.0 + max_slowdown)
    while len(seen) < min(most, len(limits)):
        at = _next(limits, seen, seen[best][1], max_slowdown)
        seen[at] = _checked(measure(limits[at]), limits[at])
        if seen[at][0] <= slowest and seen[at][1] < seen[best][1]:
            best = at
    reference = seen[len(limits) - 1]
    return LimitChoice(
        limit_w=limits[best],
        slowdown=seen[best][0] / reference[0] - 1.0,
        saved=1.0 - seen[best][1] / reference[1],
        measured=np.array([[limits[i], *seen[i]] for i in sorted(seen)]),
    )


def _next(
    limits: list[float], seen: dict[int, tuple[float, float]], least: float, max_slowdown: float
) -> int:
    """The limit that is expected to save most; where none is, the nearest to the best so far."""
    top = len(limits) - 1
    power, pace = _curves(tuple(limits))
    took = pace[:, -1:] / pace
    tried = sorted(seen)
    seconds = np.array([seen[i][0] for i in tried]) / seen[top][0]
    drawn = np.array([seen[i][1] / seen[i][0] for i in tried]) / limits[-1]
    off = np.log(took[:, tried] / seconds) ** 2 + np.log(power[:, tried] / drawn) ** 2
    fits = -0.5 * off.sum(axis=1) / _SPREAD**2
    weight = np.exp(fits - fits.max())
    joules = took * power
    share = np.where(took <= 1.0 + max_slowdown, joules / joules[:, -1:], np.inf)
    best = least / seen[top][1]
    gain = weight @ np.maximum(best - share, 0.0) / weight.sum()
    free = [i for i in range(len(limits)) if i not in seen]
    at = max(free, key=lambda i: (gain[i], -i))
    if gain[at] > _LEAST_GAIN:
        return at
    chosen = min(seen, key=lambda i: (seen[i][1], -i))
    return min(free, key=lambda i: (abs(i - chosen), i))


def _curves(limits: tuple[float, ...]) -> tuple[Floats, Floats]:
    """(curves, limits) draw and speed of the family at the limits."""
    shares = np.array(limits) / limits[-1]
    power, pace = (
        np.stack([np.interp(shares, GRID, np.exp(row)) for row in part]) for part in members()
    )
    return power, pace


def _limits(limits_w: Sequence[float], max_slowdown: float, most: int) -> list[float]:
    limits = sorted(float(value) for value in limits_w)
    if not limits or not np.isfinite(limits).all() or limits[0] <= 0:
        raise InputError(f"wants watts above 0, at least one, got {limits_w}", field="limits_w")
    if len(set(limits)) < len(limits):
        raise InputError("names a limit twice", field="limits_w")
    if isinstance(max_slowdown, bool) or not 0 <= max_slowdown < np.inf:
        raise InputError(f"wants a share of at least 0, got {max_slowdown}", field="max_slowdown")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise InputError(f"wants a whole number of at least 1, got {most!r}", field="most")
    return limits


def _checked(found: tuple[float, float], limit: float) -> tuple[float, float]:
    try:
        seconds, joules = (float(value) for value in found)
    except (TypeError, ValueError):
        message = f"at {limit:g} W gave {found!r:.60}; wants (seconds, joules)"
        raise InputError(message, field="measure") from None
    if not (np.isfinite([seconds, joules]).all() and seconds > 0 and joules > 0):
        raise InputError(
            f"at {limit:g} W gave {seconds:g} s and {joules:g} J; wants both above 0",
            field="measure",
        )
    return seconds, joules
