"""Less peak and less ramp from jobs that run side by side, for a little delay.

Two means, cheapest first. Starts move by a few seconds so that the jobs' steps and pauses do not
coincide. Then power caps hold the sum under a ceiling and its slope under a limit: the sum allowed
now is the highest that can still go down to every expected sum ahead, and up from the last one,
at that slope. What a cap takes from a job costs it speed, spread over the jobs in equal parts of
their power above rest, as speed is concave in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.curves import speed
from qcluster.record import Record

__all__ = ["ShapedPower", "shape_power"]

Floats = NDArray[np.float64]

_PASSES = 4
# Least share of the power above rest that a cap leaves, so that every job moves on.
_LEAST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapedPower(Record):
    """Jobs' power under start shifts and caps. Watts, seconds.

    ``shift_s`` (jobs,) later starts; ``power_w`` (jobs, times); ``delay`` (jobs,) is the time lost
    to caps as a share of the whole. ``peak_w`` and ``ramp_w`` (largest change of the sum between
    two readings, up or down) are of ``power_w``; ``before`` holds both, without any shaping.
    """

    shift_s: Floats
    power_w: Floats
    delay: Floats
    peak_w: float
    ramp_w: float
    before: dict[str, float]


def shape_power(
    traces_w: Floats,
    *,
    period_s: float,
    peak_w: float = np.inf,
    ramp_w: float = np.inf,
    max_shift_s: float = 0.0,
    ahead_s: float = 0.0,
    memory_bound: float = 0.3,
) -> ShapedPower:
    """Shift and cap jobs that repeat their traces, replayed for one trace's length.

    Parameters
    ----------
    traces_w: (jobs, times) power of each job uncapped, above 0, one reading every ``period_s``
        seconds; a job that reaches the end begins anew.
    peak_w, ramp_w: most the sum may be, and may change by in one period, as far as caps can.
    max_shift_s: how much later a job may start.
    ahead_s: how far the jobs' power is known ahead; 0 knows only the present, and then falls of
        the sum are not slowed.
    memory_bound: share of the jobs' time that does not follow the clock.

    Raises InputError for bad values.
    """
    traces = np.asarray(traces_w, dtype=np.float64)
    _check(traces, period_s, peak_w, ramp_w, max_shift_s, ahead_s, memory_bound)
    shifts = _stagger(traces, int(max_shift_s / period_s + 1e-9))
    moved = np.stack([np.roll(t, s) for t, s in zip(traces, shifts, strict=True)])
    steps = int(ahead_s / period_s + 1e-9)
    power, delay = _capped(moved, peak_w, ramp_w, steps, memory_bound)
    before, after = traces.sum(axis=0), power.sum(axis=0)
    return ShapedPower(
        shift_s=shifts.astype(np.float64) * period_s,
        power_w=power,
        delay=delay,
        peak_w=float(after.max()),
        ramp_w=_ramp(after),
        before={"peak_w": float(before.max()), "ramp_w": _ramp(before)},
    )


def _stagger(traces: Floats, most: int) -> NDArray[np.int64]:
    """Shifts 0..most, one job after another to the best, until none helps."""
    shifts = np.zeros(len(traces), np.int64)
    total = traces.sum(axis=0)
    scale = np.array([max(total.max(), 1e-9), max(_ramp(total), 1e-9)])
    for _ in range(_PASSES if most else 0):
        changed = False
        for job, trace in enumerate(traces):
            rest = total - np.roll(trace, shifts[job])
            sums = [rest + np.roll(trace, s) for s in range(most + 1)]
            cost = [float((np.array([s.max(), _ramp(s)]) / scale).sum()) for s in sums]
            best = int(np.argmin(cost))
            if cost[best] < cost[shifts[job]] - 1e-12:
                shifts[job], total, changed = best, sums[best], True
        if not changed:
            break
    return shifts


def _capped(
    traces: Floats, peak: float, ramp: float, ahead: int, memory: float
) -> tuple[Floats, Floats]:
    """(power (jobs, times), delay (jobs,)) under ceiling and slope, one step after the other."""
    jobs, times = traces.shape
    rest = traces.min(axis=1)
    at = np.zeros(jobs)  # readings done so far; a capped job does less than one a step
    rows, slope = np.arange(jobs)[:, None], np.arange(ahead + 1)
    power = np.empty_like(traces)
    last = np.inf
    for t in range(times):
        # Expected at full speed from here on; it is looked at anew every step.
        coming = traces[rows, (at[:, None] + slope).astype(np.int64) % times]
        wanted = coming[:, 0]
        allowed = min(peak, last + ramp)
        if np.isfinite(ramp):
            allowed = min(allowed, float((coming.sum(axis=0) + ramp * slope).min()))
        above = wanted - rest
        room = (allowed - float(rest.sum())) / max(float(above.sum()), 1e-9)
        cap = rest + float(np.clip(room, _LEAST_SHARE, 1.0)) * above
        power[:, t] = cap
        # No cap slows a job that is at rest.
        rate = np.where(above > 0, speed(cap, wanted, rest, memory), 1.0)
        at += np.clip(rate, 0.0, 1.0)
        last = float(cap.sum())
    return power, 1.0 - at / times


def _ramp(total: Floats) -> float:
    return float(np.abs(np.diff(total)).max()) if len(total) > 1 else 0.0


def _check(
    traces: Floats,
    period_s: float,
    peak_w: float,
    ramp_w: float,
    max_shift_s: float,
    ahead_s: float,
    memory_bound: float,
) -> None:
    if traces.ndim != 2 or not traces.size:
        raise InputError(f"wants jobs x times, got shape {traces.shape}", field="traces_w")
    if not np.isfinite(traces).all() or (traces <= 0).any():
        raise InputError("wants finite watts above 0", field="traces_w")
    for name, value, least in (
        ("period_s", period_s, np.finfo(float).tiny),
        ("peak_w", peak_w, np.finfo(float).tiny),
        ("ramp_w", ramp_w, np.finfo(float).tiny),
        ("max_shift_s", max_shift_s, 0.0),
        ("ahead_s", ahead_s, 0.0),
        ("memory_bound", memory_bound, 0.0),
    ):
        if isinstance(value, bool) or not value >= least:
            raise InputError(f"wants a number of at least {least:g}, got {value!r}", field=name)
    for name, value in (("period_s", period_s), ("max_shift_s", max_shift_s), ("ahead_s", ahead_s)):
        if not np.isfinite(value):
            raise InputError(f"wants a finite number, got {value!r}", field=name)
    if memory_bound >= 1:
        raise InputError(f"wants a share below 1, got {memory_bound!r}", field="memory_bound")
