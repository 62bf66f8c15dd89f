"""Which curve each GPU follows, learned while its job runs.

What a GPU shows at a limit is its draw, whether the limit held its clocks down, and how fast its
job works, if that is reported. ``sight`` sums this up by limit and forgets it when a reading does
not fit: then another job runs. ``identify`` weighs the curves of the family (``curve_family``) by
how well they explain what was seen, and corrects their mean by a Gaussian process (Rasmussen and
Williams 2006) for what the family cannot explain. Work rates come in the job's own unit; what they
are at full speed stays unknown, so only their ratios between limits count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.curve_family import GRID, members
from qcluster.q_energy.demand import HELD
from qcluster.record import Record

__all__ = ["LIMITS", "Sight", "Sightings", "doubt", "draw_variance", "identify", "sight"]

Floats = NDArray[np.float64]

LIMITS = 8
"""Limits remembered a GPU."""

_STEP = GRID[1] - GRID[0]
_AT, _DRAW, _COUNT, _RATE, _HELD, _LAST = range(6)
_MOST = 25.0  # readings that count: by then noise is below what the family explains
_DRAW_NOISE, _RATE_NOISE = 0.03, 0.02
# What the family cannot explain: size of log draw and log speed, and how far in limits it reaches.
_DRAW_MISFIT, _RATE_MISFIT, _REACH = 0.03, 0.06, 0.12
# At less of full speed a limit is taken to bind; how much a contrary report speaks against it.
_HELD_SPEED, _HELD_WEIGHT = 0.985, 2.0
# A log reading so far from the expected one is another job's: at a limit seen before, and in
# standard deviations of what is expected at a new one.
_DRAW_APART, _RATE_APART, _APART = 0.13, 0.09, 4.3
# Of the doubt about each job's draw, what all jobs have in common, as a standard deviation; how
# much of an error goes on in the next plan, whose predictions have seen it too.
_COMMON, _GOES_ON, _MOST_BIAS = 0.2, 0.75, 0.05
_PRIOR_CHANGES, _PRIOR_S = 10.0, 2000.0
_LONGEST_S = 600.0  # a longer silence counts as this long
_UNKNOWN = 9.0  # variance of the log of a job's rate at full speed


@dataclass(frozen=True)
class Sight:
    """One reading of every GPU, arrays (n,): watts, NaN where nothing was read; the limit in
    force; ``held`` the share of time that it held clocks down and ``rate`` the job's work a
    second, NaN where not known.
    """

    power_w: Floats
    limit_w: Floats
    held: Floats
    rate: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings(Record):
    """What is remembered of every GPU's present job.

    ``seen`` (n, LIMITS, 6) holds a row a limit: its place on the grid (-1 for none), mean log draw,
    readings, mean log work rate (NaN for none), mean share of readings in which the limit held
    (NaN for none), and when it was last seen. ``changes`` counts new jobs in ``watched_s``
    GPU-seconds. ``bias`` is the natural logarithm of what all GPUs together are expected to draw
    over the sum of predictions.
    """

    seen: NDArray[np.float64]
    ts_s: float
    changes: float = 0.0
    watched_s: float = 0.0
    bias: float = 0.0

    @property
    def change_rate(self) -> float:
        """New jobs a second and GPU; before anything is known one in 200 s."""
        return (self.changes + _PRIOR_CHANGES) / (self.watched_s + _PRIOR_S)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) GPUs of whose present job something was seen."""
        return np.asarray((self.seen[:, :, _AT] >= 0).any(axis=1))

    @property
    def silence_s(self) -> Floats:
        """(n,) seconds since each GPU was last read, at most ``_LONGEST_S``; 0 for those never."""
        last = _last_seen(self.seen).max(axis=1)
        since = np.clip(self.ts_s - last, 0.0, _LONGEST_S)
        return np.where(self.known, since, 0.0)

    @property
    def fresh(self) -> float:
        """Share of GPUs whose present job has shown one reading only."""
        return float(np.mean(self.known & (self.seen[:, :, _COUNT].sum(axis=1) < 2.0)))

    @cached_property
    def curves(self) -> tuple[Floats, Floats, Floats, Floats]:
        """``identify``'s answer and ``doubt``'s, computed once: a plan asks for them often."""
        found = _posterior(self.seen)
        power, speed, power_sd, speed_sd = found
        power[~self.known] = np.log(GRID)
        np.minimum(power, np.log(GRID), out=power)
        power_sd[~self.known] = speed_sd[~self.known] = 0.0
        found.setflags(write=False)
        return power, speed, power_sd, speed_sd

    @cached_property
    def rising(self) -> tuple[Floats, Floats]:
        """``identify``'s answer made monotone in the limit, speeds at most full."""
        power, speed, _, _ = self.curves
        return np.maximum.accumulate(power, axis=1), np.maximum.accumulate(
            np.minimum(speed, 0.0), axis=1
        )


def sight(before: Sightings | None, now: Sight, max_w: Floats, ts_s: float) -> Sightings:
    """What is known after one more reading of every GPU; ``max_w`` (n,) highest limits."""
    n = len(max_w)
    if before is None or len(before.seen) != n:
        seen = np.full((n, LIMITS, 6), np.nan)
        seen[:, :, _AT], seen[:, :, _COUNT], seen[:, :, _LAST] = -1.0, 0.0, -np.inf
        before = Sightings(seen=seen, ts_s=ts_s)
    seen = before.seen.copy()
    limit = np.where(np.isfinite(now.limit_w), np.minimum(now.limit_w, max_w), max_w)
    at = np.clip(np.rint((limit / max_w - GRID[0]) / _STEP), 0, len(GRID) - 1)
    read = np.isfinite(now.power_w) & (now.power_w > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        draw = np.log(now.power_w / max_w)
        rate = np.where(now.rate > 0, np.log(now.rate), np.nan)
    changed = read & _changed(before, at, draw, rate)
    seen[changed, :, _AT], seen[changed, :, _COUNT] = -1.0, 0.0
    seen[changed, :, _LAST] = -np.inf
    held = np.where(np.isfinite(now.held), (now.held > HELD).astype(float), np.nan)
    _add(seen, np.flatnonzero(read), at, draw, rate, held, ts_s)
    passed = min(max(ts_s - before.ts_s, 0.0), _LONGEST_S)
    return Sightings(
        seen=seen,
        ts_s=ts_s,
        changes=before.changes + float(changed.sum()),
        watched_s=before.watched_s + passed * n,
        bias=_bias(before, limit / max_w, now.power_w / max_w, read & ~changed),
    )


def _bias(before: Sightings, share: Floats, power: Floats, counted: NDArray[np.bool_]) -> float:
    """How far the sum of predictions was off, as far as that is no noise and goes on.

    Jobs have the family's errors in common, which no number of GPUs averages out. With many GPUs
    the sum of readings shows them; with few it is noise, and little of it is believed.
    """
    mine = np.flatnonzero(counted & before.known)
    if not len(mine):
        return 0.0
    wanted = picked(before.rising[0][mine], share[mine])
    place = np.rint((share[mine] - GRID[0]) / _STEP).astype(int).clip(0, len(GRID) - 1)
    off = float(np.log(power[mine].sum() / wanted.sum()))
    own = wanted**2 * (draw_variance(before)[mine, place] + _DRAW_NOISE**2)
    common = _COMMON * float((wanted * doubt(before)[0][mine, place]).sum())
    believed = common**2 / max(common**2 + float(own.sum()), 1e-300)
    return float(np.clip(_GOES_ON * believed * off, -_MOST_BIAS, _MOST_BIAS))


def _last_seen(seen: Floats) -> Floats:
    """(n, LIMITS) when each limit was last seen, minus infinity where it was not; JSON, which a
    stored plan went through, has no infinity and gives NaN.
    """
    last = seen[:, :, _LAST]
    return np.asarray(np.where(np.isnan(last), -np.inf, last))


def _add(
    seen: Floats, rows: NDArray[np.int64], at: Floats, draw: Floats, rate: Floats, held: Floats,
    ts_s: float,
) -> None:  # fmt: skip
    """Write readings of ``rows`` into ``seen``: to their limit's row, or in place of the oldest."""
    same = seen[rows, :, _AT] == at[rows, None]
    slot = np.where(same.any(axis=1), same.argmax(axis=1), _last_seen(seen[rows]).argmin(axis=1))
    old = seen[rows, slot]
    fresh = ~same.any(axis=1)
    old[fresh] = np.nan
    count = np.where(fresh, 1.0, np.minimum(old[:, _COUNT] + 1.0, _MOST))
    for column, value in ((_DRAW, draw), (_RATE, rate), (_HELD, held)):
        new = value[rows]
        mean = old[:, column] + (new - old[:, column]) / count
        mean = np.where(np.isnan(old[:, column]), new, mean)
        old[:, column] = np.where(np.isnan(new), old[:, column], mean)
    old[:, _AT], old[:, _COUNT], old[:, _LAST] = at[rows], count, ts_s
    seen[rows, slot] = old


def _changed(before: Sightings, at: Floats, draw: Floats, rate: Floats) -> NDArray[np.bool_]:
    """(n,) GPUs whose reading does not fit the job seen so far."""
    seen, known = before.seen, before.known
    if not known.any():
        return known
    power, speed = identify(before)
    power_sd, speed_sd = doubt(before)
    rows = np.arange(len(seen))
    same = seen[:, :, _AT] == at[:, None]
    again = same.any(axis=1)
    slot = np.where(again, same.argmax(axis=1), _last_seen(seen).argmax(axis=1))
    past = seen[rows, slot]
    here, there = at.astype(int), np.maximum(past[:, _AT], 0).astype(int)
    apart = draw - past[:, _DRAW] - power[rows, here] + power[rows, there]
    off = rate - past[:, _RATE] - speed[rows, here] + speed[rows, there]
    count = np.maximum(past[:, _COUNT], 1.0)
    reach = 2.0 - 2.0 * np.exp(-0.5 * ((GRID[here] - GRID[there]) / _REACH) ** 2)
    draw_sd, rate_sd = (
        np.sqrt(family[rows, here] ** 2 + misfit**2 * reach + noise**2 * (1.0 + 1.0 / count))
        for family, misfit, noise in (
            (power_sd, _DRAW_MISFIT, _DRAW_NOISE), (speed_sd, _RATE_MISFIT, _RATE_NOISE),
        )
    )  # fmt: skip
    few = np.where(again, _DRAW_APART, _APART * draw_sd)
    slack = np.where(again, _RATE_APART, _APART * rate_sd)
    with np.errstate(invalid="ignore"):
        return np.asarray(known & ((np.abs(apart) > few) | (np.abs(off) > slack)))


def cell(share: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The grid point below each limit (n,), a share of the highest, and how far it is to the next
    one, 0 to 1.
    """
    place = (share - GRID[0]) / _STEP
    low = np.clip(place.astype(np.int64), 0, len(GRID) - 2)
    return low, np.clip(place - low, 0.0, 1.0)


def picked(logs: Floats, share: Floats) -> Floats:
    """(n,) what curves with these logarithms (n, grid) are at limits (n,), linear between."""
    rows, (low, part) = np.arange(len(share)), cell(share)
    return np.asarray(np.exp(logs[rows, low]) * (1.0 - part) + np.exp(logs[rows, low + 1]) * part)


def identify(sightings: Sightings) -> tuple[Floats, Floats]:
    """(n, grid) natural logarithms of predicted draw and speed at every limit of the grid.

    Shares of the highest limit and of full speed. A GPU of which nothing is known is taken to draw
    all that it may.
    """
    return sightings.curves[:2]


def doubt(sightings: Sightings) -> tuple[Floats, Floats]:
    """(n, grid) standard deviations of what ``identify`` says, of log draw and log speed at every
    limit of the grid over those at the limit last seen; 0 where nothing is known.
    """
    return sightings.curves[2:]


def draw_variance(sightings: Sightings) -> Floats:
    """(n, grid) variances of the log draw that ``identify`` predicts; 0 where nothing is known."""
    seen = sightings.seen
    rows, slot = np.arange(len(seen)), _last_seen(seen).argmax(axis=1)
    last = GRID[np.maximum(seen[rows, slot, _AT], 0).astype(int)]
    reach = 2.0 - 2.0 * np.exp(-0.5 * ((GRID - last[:, None]) / _REACH) ** 2)
    count = np.maximum(seen[:, :, _COUNT].sum(axis=1), 1.0)
    noise = (_DRAW_NOISE**2 / count)[:, None]
    whole = doubt(sightings)[0] ** 2 + _DRAW_MISFIT**2 * reach + noise
    return np.where(sightings.known[:, None], whole, 0.0)


def _posterior(seen: Floats) -> Floats:
    """(4, n, grid) ``identify``'s and ``doubt``'s answers."""
    from qcluster.q_energy import _sight_kernels

    curves, by_place, binds, near = _tables()
    place = np.where(seen[:, :, _AT] >= 0, seen[:, :, _AT], -1.0).astype(np.int64)
    newest = _last_seen(seen).argmax(axis=1)[:, None]
    last = np.maximum(np.take_along_axis(place, newest, axis=1)[:, 0], 0)
    mean, more, var = np.empty((3, 2, len(seen), len(GRID)))
    _sight_kernels.posterior(
        place, np.maximum(seen[:, :, _COUNT], 1.0),
        *(np.ascontiguousarray(seen[:, :, k]) for k in (_DRAW, _RATE, _HELD)),
        last, curves, by_place, binds, near, np.array([_DRAW_MISFIT, _RATE_MISFIT]),
        np.array([_DRAW_NOISE, _RATE_NOISE]), _UNKNOWN, _HELD_WEIGHT, mean, more, var,
    )  # fmt: skip
    np.log(mean, out=mean)
    mean += more
    return np.concatenate([mean, np.sqrt(var, out=var)])


@lru_cache(maxsize=1)
def _tables() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], Floats]:
    """What ``_sight_kernels.posterior`` reads of the family."""
    logs = np.stack(members())
    by_place = np.ascontiguousarray(np.moveaxis(logs, 1, 2))
    near = np.exp(-0.5 * ((GRID[:, None] - GRID) / _REACH) ** 2)
    curves = np.concatenate([np.exp(logs), logs]).astype(np.float32)
    return curves, by_place.astype(np.float32), by_place[1] < np.log(_HELD_SPEED), near
