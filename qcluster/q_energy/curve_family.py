"""Draw and speed of a GPU over its power limit: the shapes that are physically possible.

A job is busy for a share ``duty`` of its time at full speed and waits for the rest (input,
communication) at a lower draw. Busy, it would draw ``busy`` uncapped; power above idle is part
linear in the clock and part steep (voltage rises only near the top):

    power(clock) = idle + (busy - idle) * (linear * clock + (1 - linear) * clock ** steep)

and only the share of busy time that is not memory-bound follows the clock. A limit binds while the
job is busy, so the mean draw of a job that is held lies below its limit by what it waits. All
watts are shares of the highest limit.

``members`` spreads curves evenly over what the family can do: of many random ones each next is the
one farthest from all taken (Gonzalez 1985), so few stand for all.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID", "family", "members"]

Floats = NDArray[np.float64]

GRID = np.linspace(0.25, 1.0, 73)
"""Limits as shares of the highest at which all curves of the room's live planner stand."""

_CLOCKS = np.linspace(0.02, 1.0, 200)
_DRAWN, _TAKEN = 6, 600  # random curves a curve taken; curves taken
_SEED = 0
_STRIDE = 4  # grid points between those compared


def family(
    busy: Floats, duty: Floats, wait: Floats, memory: Floats, linear: Floats, steep: Floats,
    idle: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """(curves, grid) mean draw and speed, shares of the highest limit and of full speed.

    ``wait`` is the draw while waiting, ``memory`` the share of busy time that does not follow the
    clock; all arguments (curves,), see the module.
    """
    power, speed = np.empty((len(busy), len(GRID))), np.empty((len(busy), len(GRID)))
    for k in range(len(busy)):
        drawn = linear[k] * _CLOCKS + (1 - linear[k]) * _CLOCKS ** steep[k]
        clock = np.interp(GRID, idle[k] + (busy[k] - idle[k]) * drawn, _CLOCKS)
        active = duty[k] * (memory[k] + (1 - memory[k]) / clock)
        waiting = 1.0 - duty[k]
        watts = active * np.minimum(GRID, busy[k]) + waiting * np.minimum(GRID, wait[k])
        power[k], speed[k] = watts / (active + waiting), 1.0 / (active + waiting)
    return power, speed


@lru_cache(maxsize=1)
def members() -> tuple[Floats, Floats]:
    """(curves, grid) natural logarithms of draw and speed of curves that cover the family."""
    rng = np.random.default_rng(_SEED)
    count = _DRAWN * _TAKEN
    light = rng.random(count) < 0.2  # jobs that no limit ever reaches
    busy = np.where(light, rng.uniform(0.1, 0.35, count), rng.uniform(0.2, 1.1, count))
    curves = family(
        busy,
        rng.uniform(0.4, 1.0, count) ** 0.7,
        np.minimum(rng.uniform(0.12, 0.35, count), busy),
        rng.uniform(0.0, 0.7, count),
        rng.uniform(0.0, 1.0, count),
        rng.uniform(1.5, 8.0, count),
        np.minimum(rng.uniform(0.1, 0.3, count), 0.8 * busy),
    )
    power, speed = np.log(curves[0]), np.log(curves[1])
    shape = np.hstack([power[:, ::_STRIDE], speed[:, ::_STRIDE]])
    apart, at = np.full(count, np.inf), 0
    taken = []
    for _ in range(_TAKEN):
        taken.append(at)
        apart = np.minimum(apart, ((shape - shape[at]) ** 2).mean(axis=1))
        at = int(np.argmax(apart))
    power, speed = power[taken], speed[taken]
    power.setflags(write=False)
    speed.setflags(write=False)
    return power, speed
