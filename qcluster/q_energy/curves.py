"""Predicted speed of a GPU or node over its power cap.

A processor that draws ``demand`` uncapped and ``idle`` at rest runs at a clock that falls with the
power above idle as a power law (dynamic power grows with clock times voltage squared), and only
the compute-bound share of its time follows the clock (roofline; Williams, Waterman and Patterson
2009):

    clock = ((cap - idle) / (demand - idle)) ** (1 / EXPONENT)
    speed = clock / ((1 - memory) + memory * clock),   1 at and above the demand.

Concave in the cap, so the hull of its points is the curve itself. The exponent and the idle share
were fitted to the V100 and A40 power-limit sweeps of the Zeus traces (mean error 0.02 and 0.06 of
full speed). It knows nothing of a workload's phases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXPONENT", "IDLE_SHARE", "clock_share", "speed"]

EXPONENT = 1.5
IDLE_SHARE = 0.25  # of the highest limit, where nothing else is known

Floats = NDArray[np.float64]


def clock_share(cap_w: Any, demand_w: Any, idle_w: Any) -> Floats:
    """Clock under a cap as a share of the uncapped clock, 0 to 1; arrays broadcast."""
    span = np.maximum(np.asarray(demand_w, float) - idle_w, 1e-9)
    share = np.clip((np.asarray(cap_w, float) - idle_w) / span, 0.0, 1.0)
    out: Floats = np.where(np.asarray(cap_w) >= demand_w, 1.0, share ** (1.0 / EXPONENT))
    return out


def speed(cap_w: Any, demand_w: Any, idle_w: Any, memory: Any) -> Floats:
    """Speed under a cap as a share of full speed, 0 to 1.

    ``memory`` is the share of time at full speed that does not follow the clock.
    """
    clock = clock_share(cap_w, demand_w, idle_w)
    out: Floats = clock / ((1.0 - np.asarray(memory)) + np.asarray(memory) * clock)
    return out
