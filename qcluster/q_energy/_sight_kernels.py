"""Compiled inner loops of ``identify`` and ``reserve``: which curves of a family explain what was
seen of a GPU, and what its caps add to the reserve.

Each has a plain twin in the tests that it is held against. Arrays are C-contiguous. Curves are
float32: twice as fast, and far finer than what a reading can tell apart.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = NDArray[np.float64]
S = NDArray[np.float32]
I = NDArray[np.int64]  # noqa: E741 - short names keep the signatures readable
B = NDArray[np.bool_]

_LEAST = np.float32(-12.0)  # log weight, against the best curve's, below which a curve is left out


@njit(cache=True)
def _factor(covariance: F, size: int) -> None:
    """The lower Cholesky factor of the first ``size`` rows, in place."""
    for i in range(size):
        for j in range(i + 1):
            rest = covariance[i, j]
            for k in range(j):
                rest -= covariance[i, k] * covariance[j, k]
            covariance[i, j] = np.sqrt(rest) if i == j else rest / covariance[j, j]


@njit(cache=True)
def _solve(factor: F, size: int, x: F) -> None:
    """``x`` solved for the matrix of that factor, in place."""
    for i in range(size):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            x[i] -= factor[k, i] * x[k]
        x[i] /= factor[i, i]


@njit(cache=True)
def _covariance(
    near: F, at: I, size: int, misfit: float, level: float, noise: float, count: F, out: F
) -> None:
    """Of readings at grid places ``at``, written to ``out``: misfit that reaches to limits nearby,
    an unknown level, noise of a mean of ``count``.
    """
    for i in range(size):
        for j in range(size):
            out[i, j] = misfit * misfit * near[at[i], at[j]] + level
        out[i, i] += noise * noise / count[i]


@njit(cache=True)
def _explain(by_place: S, at: I, value: F, factor: F, size: int, work: S, fit: S) -> None:
    """Subtract from ``fit`` (curves,) half the squared distance of every curve from the values."""
    for i in range(size):
        here, one = np.float32(value[i]), np.float32(1.0 / factor[i, i])
        for c in range(len(fit)):
            work[i, c] = here - by_place[at[i], c]
        for k in range(i):
            part = np.float32(factor[i, k])
            for c in range(len(fit)):
                work[i, c] -= part * work[k, c]
        for c in range(len(fit)):
            off = work[i, c] * one
            work[i, c] = off
            fit[c] -= np.float32(0.5) * off * off


@njit(cache=True)
def _mix(curves: S, logs: S, rows: I, weight: S, best: int, last: int, sums: S) -> None:
    """Fill ``sums`` (3, grid): weighted mean of curves, and mean and variance of their logs over
    those at place ``last``, counted from the ``best`` curve's.
    """
    sums[:] = np.float32(0.0)
    size, end = sums.shape[1], len(rows) - 1
    there = logs[best, last]
    for r in range(0, end + 1, 4):  # four at a time: sums are read and written less often
        a, b, c, d = rows[r], rows[min(r + 1, end)], rows[min(r + 2, end)], rows[min(r + 3, end)]
        wa, wb, wc, wd = weight[r], np.float32(0), np.float32(0), np.float32(0)
        if r + 3 <= end:
            wb, wc, wd = weight[r + 1], weight[r + 2], weight[r + 3]
        elif r + 2 <= end:
            wb, wc = weight[r + 1], weight[r + 2]
        elif r + 1 <= end:
            wb = weight[r + 1]
        above_a, above_b = logs[a, last] - there, logs[b, last] - there
        above_c, above_d = logs[c, last] - there, logs[d, last] - there
        for g in range(size):
            base = logs[best, g]
            off_a, off_b = logs[a, g] - base - above_a, logs[b, g] - base - above_b
            off_c, off_d = logs[c, g] - base - above_c, logs[d, g] - base - above_d
            pa, pb, pc, pd = wa * off_a, wb * off_b, wc * off_c, wd * off_d
            sums[0, g] += (wa * curves[a, g] + wb * curves[b, g]) + (
                wc * curves[c, g] + wd * curves[d, g]
            )
            sums[1, g] += (pa + pb) + (pc + pd)
            sums[2, g] += (pa * off_a + pb * off_b) + (pc * off_c + pd * off_d)
    for g in range(size):
        sums[2, g] = max(sums[2, g] - sums[1, g] * sums[1, g], np.float32(0.0))


@njit(cache=True)
def _correct(
    near: F, at: I, value: F, factor: F, size: int, misfit: float, mean: S, rest: F, out: F
) -> None:
    """What a Gaussian process adds to the log of ``mean`` for what the curves leave unexplained."""
    out[:] = 0.0
    for i in range(size):
        rest[i] = value[i] - np.log(mean[at[i]])
    _solve(factor, size, rest)
    for i in range(size):
        for g in range(len(out)):
            out[g] += misfit * misfit * rest[i] * near[at[i], g]


@njit(cache=True)
def posterior(
    place: I, count: F, draw: F, rate: F, held: F, last: I, curves: S, by_place: S, binds: B,
    near: F, misfit: F, noise: F, unknown: float, held_weight: float, mean: F, more: F, var: F,
) -> None:  # fmt: skip
    """Fill ``mean``, ``more`` and ``var`` (2, n, grid): of draw and of speed, every GPU's mean
    curve, what is added to its log, and variance of the log over that at grid place ``last`` (n,).

    ``place`` (n, limits) on the grid, -1 for none, of readings: ``count`` of them, mean log
    ``draw``, mean log ``rate`` (NaN for none), ``held`` share (NaN for none). ``curves`` (4,
    curves, grid) draw, speed and their logs, ``by_place`` (2, grid, curves) the logs again,
    ``binds`` (grid, curves) whether a limit there slows the curve; ``near`` (grid, grid) reach of
    the misfit; ``misfit`` and ``noise`` (2,).
    """
    limits, many = place.shape[1], curves.shape[1]
    at = np.empty((2, limits), np.int64)
    value, times = np.empty((2, limits)), np.empty((2, limits))
    factor, size = np.empty((2, limits, limits)), np.zeros(2, np.int64)
    level = np.array([0.0, unknown])
    rest, fit = np.empty(limits), np.empty(many, np.float32)
    work, sums = np.empty((limits, many), np.float32), np.empty((3, near.shape[0]), np.float32)
    for n in range(len(place)):
        size[:] = 0
        fit[:] = np.float32(0.0)
        for s in range(limits):
            if place[n, s] < 0:
                continue
            for kind in range(2):
                told = draw[n, s] if kind == 0 else rate[n, s]
                if not np.isnan(told):
                    k = size[kind]
                    at[kind, k], times[kind, k], value[kind, k] = place[n, s], count[n, s], told
                    size[kind] += 1
            if not np.isnan(held[n, s]):
                for c in range(many):
                    if binds[place[n, s], c] != (held[n, s] > 0.5):
                        fit[c] -= np.float32(held_weight)
        # A rate's unit is the job's own: only ratios count.
        value[1, : size[1]] -= value[1, : size[1]].mean() if size[1] else 0.0
        for kind in range(2):
            _covariance(
                near, at[kind], size[kind], misfit[kind], level[kind], noise[kind], times[kind],
                factor[kind],
            )  # fmt: skip
            _factor(factor[kind], size[kind])
            _explain(by_place[kind], at[kind], value[kind], factor[kind], size[kind], work, fit)
        best = fit.argmax()
        rows = np.flatnonzero(fit > fit[best] + _LEAST)
        weight = np.exp(fit[rows] - fit[best])
        weight /= weight.sum()
        for kind in range(2):
            _mix(curves[kind], curves[2 + kind], rows, weight, best, last[n], sums)
            mean[kind, n] = sums[0]
            var[kind, n] = sums[2]
            _correct(
                near, at[kind], value[kind], factor[kind], size[kind], misfit[kind], sums[0], rest,
                more[kind, n],
            )  # fmt: skip


@njit(cache=True)
def prices(by_cap: F, step: float, draw: F, share: F, kind: I, out: F) -> None:
    """Fill ``out`` (n, grid): ``share`` (n,) of what ``by_cap`` (kinds, grid, table) says at each
    cap for the watts ``draw`` (n, grid), linear between the table's points ``step`` apart.
    """
    top = by_cap.shape[2] - 2
    for n in range(len(draw)):
        for g in range(draw.shape[1]):
            place = max(draw[n, g] / step, 0.0)
            low = min(int(place), top)
            part = min(place - low, 1.0)
            first = by_cap[kind[n], g, low]
            out[n, g] = share[n] * (first + part * (by_cap[kind[n], g, low + 1] - first))


@njit(cache=True)
def moments(jumps: F, weight: F, share: F, lasts: F) -> tuple[float, float, float]:
    """Sum, sum of squares and largest size of changes (n, jobs) in watts that last for ``lasts``
    (n,) of a window, each as often as ``share`` (n,) times ``weight`` (jobs,) says.
    """
    mean = square = most = 0.0
    for n in range(len(jumps)):
        for j in range(len(weight)):
            jump, often = lasts[n] * jumps[n, j], share[n] * weight[j]
            mean += often * jump
            square += often * jump * jump
            most = max(most, abs(jump))
    return mean, square, most


@njit(cache=True)
def histogram(jumps: F, weight: F, share: F, lasts: F, width: float, out: F) -> None:
    """Add how often each change comes (``moments``) to the bins of ``out``, ``width`` watts each,
    those below 0 counted from its end; changes count for the bin's upper edge.
    """
    bins = len(out)
    for n in range(len(jumps)):
        for j in range(len(weight)):
            place = int(np.ceil(lasts[n] * jumps[n, j] / width - 1e-9))
            out[place % bins] += share[n] * weight[j]
