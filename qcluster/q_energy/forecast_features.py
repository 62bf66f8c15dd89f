"""What a power forecast looks at: recent power, the cluster's mean, the past that resembles now.

A run is a matrix (times, nodes) of watts on an even grid. All features of time t use readings up
to t only. The strongest is the analogue: what the cluster's mean did next wherever, in earlier
runs of the same kind, its last readings looked like the present ones at about the same time since
start, or earlier in the run itself (Lorenz 1969). Runs of a job repeat each other and themselves,
so this sees stops and phases that lags cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.trace import PowerTrace

__all__ = ["LAGS", "PHASES", "features", "grid", "spells"]

Floats = NDArray[np.float64]

LAGS = 8
_MEANS = (15, 30, 60)
_STOP, _DIP, _RECENT = 0.7, 0.97, 60  # shares of the highest and of the recent median; steps
PHASES = 2 * LAGS + 2 + len(_MEANS) + 8
_OWN_MATCHES, _OWN_NEIGHBOURS = (12, 40), 8
_MATCHES = (8, 30)  # steps compared when looking for analogues
_NEIGHBOURS = 5
# An analogue a minute away in time since start counts as if it were 2 % off in power.
_TIME_WEIGHT, _TIME_STEPS = 0.02, 30.0
_GAP_PERIODS = 60


def grid(trace: PowerTrace, period_s: float) -> tuple[Floats, Floats]:
    """(times, (times, nodes) watts) of a trace on an even grid, linear between readings.

    Starts where the newest gap longer than 60 periods ends, so that one run is one grid.
    """
    times = np.unique(trace.ts_s)
    breaks = np.flatnonzero(np.diff(times) > _GAP_PERIODS * period_s)
    first = times[breaks[-1] + 1] if len(breaks) else times[0]
    steps = round((times[-1] - first) / period_s) + 1
    at = times[-1] - period_s * np.arange(steps)[::-1]
    columns = []
    for index in range(len(trace.ids)):
        ts, watts = trace.series(index)
        columns.append(np.interp(at, ts, watts))
    return at, np.stack(columns, axis=1)


def features(run: Floats, horizon: int, library: Sequence[Floats], *, rich: bool) -> Floats:
    """(times, nodes, features) of a run for a horizon in steps.

    ``library`` holds the cluster means (times,) of earlier runs. Without ``rich`` only lags of the
    node and of the cluster mean, ``2 * LAGS`` columns. With it also phases (``PHASES`` columns in
    all) and then analogues; -1 where nothing is known. Without a library the time since start is
    not told, as one run does not show whether it means anything.
    """
    times, nodes = run.shape
    mean = run.mean(axis=1)
    back = np.maximum(np.arange(times)[:, None] - np.arange(LAGS), 0)
    own = np.moveaxis(run[back], 1, 2)
    all_of = np.broadcast_to(mean[back][:, None, :], (times, nodes, LAGS))
    parts = [own, all_of]
    if rich:
        levels = _levels(run)
        if not library:
            levels[0] = np.full((times, 1), -1.0)
        columns = [*levels, *spells(mean), *_analogues(run, mean, horizon, library)]
        for width in _OWN_MATCHES:
            columns += [c[:, None] for c in _own_past(mean, horizon, width)]
        more = np.stack([np.broadcast_to(c, (times, nodes)) for c in columns], axis=-1)
        parts.append(np.nan_to_num(more, nan=-1.0))
    return np.concatenate(parts, axis=-1)


def spells(mean: Floats) -> list[Floats]:
    """How long power has been high or low and how long the two spells before lasted, (times, 1).

    Low is below 0.7 of the highest so far (a stop, an evaluation), and below 0.97 of the last
    minutes' median (a short dip).
    """
    steps = np.arange(len(mean))
    recent = np.array([np.median(mean[max(0, t + 1 - _RECENT) : t + 1]) for t in steps])
    out = []
    for low in (mean < _STOP * np.maximum.accumulate(mean), mean < _DIP * recent):
        begun = np.concatenate([[0], np.flatnonzero(np.diff(low.astype(int))) + 1])
        which = np.searchsorted(begun, steps, side="right") - 1
        lasted = np.concatenate([[np.nan, np.nan], np.diff(begun).astype(float)])
        out += [steps - begun[which] + 1.0, lasted[which + 1], lasted[which], low.astype(float)]
    return [column[:, None] for column in out]


def _levels(run: Floats) -> list[Floats]:
    """Time since start, running means and the highest so far."""
    steps = np.arange(len(run))
    total = np.vstack([np.zeros((1, run.shape[1])), np.cumsum(run, axis=0)])
    out = [steps[:, None].astype(float), np.maximum.accumulate(run, axis=0)]
    for width in _MEANS:
        low = np.maximum(steps + 1 - width, 0)
        out.append((total[steps + 1] - total[low]) / (steps + 1 - low)[:, None])
    return out


def _analogues(run: Floats, mean: Floats, horizon: int, library: Sequence[Floats]) -> list[Floats]:
    """The analogue's later mean, the same scaled to the node, its distance; and the profile."""
    long_enough = [past for past in library if len(past) > horizon]
    steps = np.arange(len(mean))
    if not long_enough:
        blank = np.full((len(mean), 1), np.nan)
        return [blank] * (3 * len(_MATCHES) + 1)
    out: list[Floats] = []
    share = run / np.maximum(mean, 1.0)[:, None]
    for width in _MATCHES:
        later, distance = nearest(mean, horizon, long_enough, width)
        out += [later[:, None], later[:, None] * share, distance[:, None]]
    profile = np.mean([past[np.minimum(steps + horizon, len(past) - 1)] for past in long_enough],
                      axis=0)  # fmt: skip
    return [*out, profile[:, None]]


def nearest(
    mean: Floats, horizon: int, library: Sequence[Floats], width: int
) -> tuple[Floats, Floats]:
    """(median of what followed the nearest past windows, their distance), both (times,)."""
    past = np.concatenate([_windows(p, width)[: len(p) - horizon] for p in library])
    after = np.concatenate([p[horizon:] for p in library])
    age = np.concatenate([np.arange(len(p) - horizon) for p in library])
    norm = (past**2).mean(axis=1)
    now = _windows(mean, width)
    count = min(_NEIGHBOURS, len(past))
    later, distance = np.empty(len(mean)), np.empty(len(mean))
    scale = _TIME_WEIGHT * float(np.mean([p.mean() for p in library]))
    for low in range(0, len(mean), 256):
        rows = now[low : low + 256]
        apart = (rows**2).mean(axis=1)[:, None] + norm - 2.0 * rows @ past.T / width
        away = np.abs(age - np.arange(low, low + len(rows))[:, None]) / _TIME_STEPS
        apart = np.maximum(apart, 0.0) + (scale * np.minimum(away, 1.0)) ** 2
        best = np.argpartition(apart, count - 1, axis=1)[:, :count]
        later[low : low + 256] = np.median(after[best], axis=1)
        distance[low : low + 256] = np.sqrt(np.take_along_axis(apart, best, axis=1).mean(axis=1))
    return later, distance


def _own_past(mean: Floats, horizon: int, width: int) -> tuple[Floats, Floats]:
    """``nearest`` in the run's own past, NaN until there is some."""
    windows, times = _windows(mean, width), len(mean)
    later, distance = np.full(times, np.nan), np.full(times, np.nan)
    norm = (windows**2).mean(axis=1)
    for t in range(width + horizon, times):
        apart = (
            norm[t]
            + norm[: t - horizon + 1]
            - 2.0 * windows[: t - horizon + 1] @ windows[t] / (width)
        )
        count = min(_OWN_NEIGHBOURS, len(apart))
        best = np.argpartition(apart, count - 1)[:count]
        later[t] = np.median(mean[best + horizon])
        distance[t] = np.sqrt(max(float(apart[best].mean()), 0.0))
    return later, distance


def _windows(values: Floats, width: int) -> Floats:
    padded = np.concatenate([np.full(width - 1, values[0]), values])
    return np.lib.stride_tricks.sliding_window_view(padded, width)
