"""What each GPU would draw uncapped, remembered while a cap hides it.

A reading below the cap in force shows the demand; a reading at the cap only shows that the demand
is not lower (it is censored). Between sights the last one counts, and gives way slowly to what is
likely of another job, because jobs come and go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.record import Record

__all__ = ["AT_LIMIT", "HELD", "Demand", "follow"]

Floats = NDArray[np.float64]

# A reading this close to the cap may be held down by it: meters err by a few percent.
AT_LIMIT = 0.7
# A limit that holds clocks down for less of the time does not bind.
HELD = 5e-4
# Time in which a job that is not seen is replaced by another one, seconds.
_MEMORY_S = 600.0
# A rise above these is another job and not noise.
_RISE, _RISE_W = 1.15, 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Demand(Record):
    """Estimated uncapped draw, watts, (n,), at ``ts_s``; ``age_s`` (n,) since it was last seen."""

    uncapped_w: NDArray[np.float64]
    age_s: NDArray[np.float64]
    ts_s: float


def follow(
    before: Demand | None, drawn: Floats, cap: Floats, max_w: Floats, ts_s: float,
    told: Floats | None = None,
) -> Demand:  # fmt: skip
    """The estimate after one more set of readings.

    Parameters
    ----------
    drawn: (n,) watts now, NaN where nothing was read.
    cap: (n,) limit in force, watts, NaN where unknown (then nothing is hidden).
    max_w: (n,) highest limit.
    told: (n,) share of time that the limit held clocks down, NaN where not known; None where
        nothing tells. Without it a draw near the limit counts as held.
    """
    n = len(drawn)
    known = np.isfinite(drawn)
    near = drawn >= AT_LIMIT * cap
    if told is not None:
        near = np.where(np.isfinite(told), told > HELD, near)
    held = known & np.isfinite(cap) & near & (cap < 0.999 * max_w)
    seen = known & ~held
    if before is None or len(before.uncapped_w) != n:
        value = np.where(seen, drawn, max_w)
        return Demand(uncapped_w=value, age_s=np.where(seen, 0.0, np.inf), ts_s=ts_s)
    passed = min(max(ts_s - before.ts_s, 0.0), _MEMORY_S)
    value = before.uncapped_w.copy()
    likely = (np.nan_to_num(cap, nan=0.0) + max_w) / 2.0
    # Held below what was last seen: it may still be that job, or by now another one.
    fading = held & (value < likely)
    value = np.where(fading, likely + (value - likely) * math.exp(-passed / _MEMORY_S), value)
    # Held above what was last seen: it is another job.
    risen = held & (before.uncapped_w < AT_LIMIT * cap)
    value = np.where(risen, likely, value)
    jumped = seen & (drawn > _RISE * before.uncapped_w + _RISE_W)
    first = np.isinf(before.age_s)
    value = np.where(seen, np.where(first | jumped, drawn, 0.5 * drawn + 0.5 * value), value)
    fell = seen & (drawn < before.uncapped_w / _RISE - _RISE_W)
    value = np.where(fell, drawn, value)
    return Demand(
        uncapped_w=np.clip(value, 0.0, max_w),
        age_s=np.where(seen, 0.0, before.age_s + passed),
        ts_s=ts_s,
    )
