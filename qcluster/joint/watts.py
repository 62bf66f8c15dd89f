"""Watts where the work is: caps under which the GPU with the most to do is done soonest.

Energy by itself gives watts to whoever turns them into most speed, summed over GPUs. A step of
experts ends with its slowest GPU, so here the largest time is made as small as the same watts
allow: for a given time every GPU needs some speed, that speed a smallest cap, and the least time
whose caps fit is found by bisection. For one load a GPU this is the optimum.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.curves import EXPONENT
from qcluster.q_energy.units import Units

__all__ = ["cap_for_speed", "level_caps", "part_of"]

Floats = NDArray[np.float64]

_STEPS = 50
_LONGEST = 1e6  # times the shortest; by then every cap is at its floor


def cap_for_speed(units: Units, speed: Floats) -> Floats:
    """(n,) lowest caps that give each unit this speed; infinite above 1.

    The inverse of ``qcluster.q_energy.curves.speed``, raised to the units' floors.
    """
    speed = np.asarray(speed, float)
    part = np.clip(speed, 0.0, 1.0)
    clock = part * (1.0 - units.memory) / (1.0 - part * units.memory)
    caps = units.idle_w + np.maximum(units.demand_w - units.idle_w, 0.0) * clock**EXPONENT
    out: Floats = np.where(speed > 1.0 + 1e-12, np.inf, np.maximum(caps, units.min_w))
    return out


def part_of(units: Units, rows: NDArray[np.int64]) -> Units:
    """Some of the units, for figures that are summed over units; nodes stay as they are."""
    names = ("min_w", "max_w", "p50_w", "demand_w", "idle_w", "memory", "node")
    return dataclasses.replace(
        units,
        ids=tuple(units.ids[i] for i in rows),
        nvlink_gb_s=None,
        **{name: getattr(units, name)[rows] for name in names},
    )


def level_caps(
    units: Units,
    load: Floats,
    links: Floats,
    watts: float,
    *,
    communication_share: float,
) -> Floats:
    """Caps (n,) that make the longest of ``load / rate`` as short as ``watts`` allow.

    Parameters
    ----------
    load: (n,) tokens of each unit, any scale.
    links: (n,) share of each unit's links that is up.
    watts: what the caps may sum to; at least the floors' sum.
    """
    full = np.maximum(np.minimum(units.demand_w, units.max_w), units.min_w)
    busy = (load > 0) & (links > 0)
    weight = np.where(busy, load, 0.0)
    over = communication_share / np.where(links > 0, links, 1.0)

    def caps_for(time: float) -> Floats:
        left = time / np.where(busy, weight, 1.0) - over
        need = np.where(left > 0, (1.0 - communication_share) / np.where(left > 0, left, 1.0), 2.0)
        found = cap_for_speed(units, np.where(busy, need, 0.0))
        return np.where(found > full, np.where(need > 1.0 + 1e-9, np.inf, full), found)

    if not busy.any():
        return _spread(units.min_w.copy(), full, watts)
    low = float((weight * (1.0 - communication_share + over))[busy].max())
    if full.sum() <= watts:
        return full
    high = low * 2.0
    while high < _LONGEST * low and not caps_for(high).sum() <= watts:
        high *= 2.0
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        found = caps_for(middle)
        if found.sum() <= watts:
            high = middle
        else:
            low = middle
    found = caps_for(high)
    caps = np.where(np.isfinite(found), found, full)
    return _spread(caps, full, watts)


def _spread(caps: Floats, full: Floats, watts: float) -> Floats:
    """What is left of the watts, to all in proportion to what they could still use."""
    spare = watts - float(caps.sum())
    room = float((full - caps).sum())
    if spare <= 0 or room <= 0:
        return caps
    return caps + min(1.0, spare / room) * (full - caps)
