"""What each GPU would draw uncapped, remembered while a cap hides it.

A reading below the cap in force shows the demand; a reading at the cap only shows that the demand
is not lower (it is censored). Between sights the last one counts, and gives way slowly to what is
likely of another job, because jobs come and go. It also counts how often demand jumps up, from
which a plan that budgets predicted draw instead of caps takes its reserve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.record import Record

__all__ = ["AT_LIMIT", "Demand", "follow", "reserve_w"]

Floats = NDArray[np.float64]

# A reading this close to the cap may be held down by it: meters err by a few percent.
AT_LIMIT = 0.7
# Time in which a job that is not seen is replaced by another one, seconds.
_MEMORY_S = 600.0
# A rise above these is another job and not noise.
_RISE, _RISE_W = 1.15, 10.0
# Before anything is known: one rise in as many seconds of one GPU.
_PRIOR_S = 600.0
_LEAST_SHARE, _DOWN = 0.6, 0.15
# Share of periods in which more GPUs may rise than the reserve covers.
_RISK = 2e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Demand(Record):
    """Estimated uncapped draw, watts, (n,), at ``ts_s``; ``age_s`` (n,) since it was last seen.

    ``rises`` counts jumps up in ``watched_s`` GPU-seconds. ``drawn_share`` is the measured sum of
    draws over the predicted one, of late: work does not keep a GPU at its cap all the time.
    """

    uncapped_w: NDArray[np.float64]
    age_s: NDArray[np.float64]
    ts_s: float
    rises: float = 0.0
    watched_s: float = 0.0
    drawn_share: float = 1.0

    @property
    def rise_rate(self) -> float:
        """Jumps up a second and GPU, with a prior of one in ten minutes."""
        return (self.rises + 1.0) / (self.watched_s + _PRIOR_S)


def follow(before: Demand | None, drawn: Floats, cap: Floats, max_w: Floats, ts_s: float) -> Demand:
    """The estimate after one more set of readings.

    Parameters
    ----------
    drawn: (n,) watts now, NaN where nothing was read.
    cap: (n,) limit in force, watts, NaN where unknown (then nothing is hidden).
    max_w: (n,) highest limit.
    """
    n = len(drawn)
    known = np.isfinite(drawn)
    held = known & np.isfinite(cap) & (drawn >= AT_LIMIT * cap) & (cap < 0.999 * max_w)
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
        rises=before.rises + float((risen | (jumped & ~first)).sum()),
        watched_s=before.watched_s + passed * n,
        drawn_share=_drawn_share(before, drawn, cap),
    )


def _drawn_share(before: Demand, drawn: Floats, cap: Floats) -> float:
    known = np.isfinite(drawn) & np.isfinite(cap)
    predicted = float(np.minimum(cap, before.uncapped_w)[known].sum())
    if predicted <= 0:
        return before.drawn_share
    now = min(max(float(drawn[known].sum()) / predicted, _LEAST_SHARE), 1.0)
    # Up at once and down slowly: too high a share only wastes watts.
    weight = 1.0 if now > before.drawn_share else _DOWN
    return before.drawn_share + weight * (now - before.drawn_share)


def reserve_w(demand: Demand, room_w: Floats, period_s: float) -> float:
    """Watts to keep back so that GPUs which jump up within a period find room.

    As many of the largest ``room_w`` (n,), what each could draw beyond its prediction before its
    cap stops it, as rise at once with more than negligible probability (Poisson).
    """
    mean = demand.rise_rate * len(room_w) * period_s
    covered, probability, total = 0, math.exp(-mean), math.exp(-mean)
    while 1.0 - total > _RISK and covered < len(room_w):
        covered += 1
        probability *= mean / covered
        total += probability
    return float(np.sort(room_w)[::-1][:covered].sum())
