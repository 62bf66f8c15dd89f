"""The power limit that saves most energy within a slowdown, from a few measured limits.

Time does not rise as the limit does, and energy falls and then rises as the limit goes down (You et
al. 2023 show both). Each next limit to measure is what the speed model, fitted to the times so
far, would choose; once that is measured, its neighbours. Only a measured limit is ever chosen: no
model can break the slowdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.curves import IDLE_SHARE, speed
from qcluster.record import Record

__all__ = ["LimitChoice", "choose_limit"]

_NOISE = 1.02
# Shares of time that do not follow the clock, the likeliest first: it stands until measured.
_MEMORIES = np.array([0.3, *np.linspace(0.0, 0.95, 20)])


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
    """The limit that the model, fitted to what was seen, would choose; or else a neighbour."""
    watts, top = np.array(limits), len(limits) - 1
    drawn = seen[top][1] / seen[top][0]
    rest = min(IDLE_SHARE * limits[-1], 0.5 * drawn)
    pace = 1.0 / speed(watts, drawn, rest, _MEMORIES[:, None])
    tried = sorted(seen)
    found = np.array([seen[i][0] for i in tried]) / seen[top][0]
    apart = ((np.log(pace[:, tried]) - np.log(found)) ** 2).sum(axis=1)
    likely = pace[int(np.argmin(apart))]
    joules = np.where(likely <= 1.0 + max_slowdown, likely * np.minimum(watts, drawn), np.inf)
    # Where a limit does not bind, the lowest of equals is as good and may turn out better.
    at = int(np.argmin(joules))
    if at not in seen:
        return at
    free = [i for i in range(len(limits)) if i not in seen]
    slowest = seen[top][0] * (1.0 + max_slowdown)
    low = max((i for i in seen if seen[i][0] > slowest), default=-1)
    # Limits that do not bind differ by noise alone: go on from the lowest that is as good.
    good = [i for i in seen if seen[i][0] <= slowest and seen[i][1] <= _NOISE * least]
    return min(free, key=lambda i: (i <= low, abs(i - min(good)), i))


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
    seconds, joules = (float(value) for value in found)
    if not (np.isfinite([seconds, joules]).all() and seconds > 0 and joules > 0):
        raise InputError(
            f"at {limit:g} W gave {seconds:g} s and {joules:g} J; wants both above 0",
            field="measure",
        )
    return seconds, joules
