"""Watts kept free for jobs that start before the next plan, and what each cap adds to them.

A GPU whose job ends between two plans gets another one under the old cap, which draws more or less
than was planned. The jobs that run now are a sample of those to come: the change is drawn from
what they would draw there, plus a few that fill their cap whatever it is. The sum over all GPUs is
compound Poisson, its distribution comes by Fourier transform, and the reserve is its quantile. What
a cap adds to the quantile is its influence (Hampel 1974): how much likelier the sum passes it when
the job under that cap is replaced. A GPU that is not heard may have got its job already, and nobody
notices for as long as it stays silent: it counts for more (``Exposure``). What present jobs draw is
not known exactly either, least under limits where they were not seen: errors of predicted draws are
taken for normal and independent, and add to the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RISK", "Exposure", "Newcomers", "Reserve"]

Floats = NDArray[np.float64]

RISK = 5e-4
"""Share of windows in which new jobs may add more than the reserve."""

_BINS = 2048
_SAMPLE = 32  # present jobs that stand for those to come
_GREEDY = 3.0  # and as many as these that fill their cap
_DEVIATIONS = 8.0
_TABLE = 24  # draws of the job that ends, at which prices are computed
_PARTS = 8  # steps of how long a change lasts: prices are computed once a step


@dataclass(frozen=True)
class Exposure:
    """How likely a GPU has or gets a new job that no plan has seen, and for how long it counts.

    ``share`` (n,) new jobs a GPU in a window; ``lasts`` (n,) part of the window, above 0 and at
    most 1, until a plan has seen one.
    """

    share: Floats
    lasts: Floats

    @classmethod
    def of(
        cls, silence_s: Floats, change_rate: float, *, period_s: float, window_s: float
    ) -> Exposure:
        """Of GPUs last heard ``silence_s`` (n,) seconds ago that get ``change_rate`` jobs a second,
        with plans every ``period_s``.

        A silence is expected to last for as long again as it has lasted.
        """
        share = np.minimum(1.0, change_rate * (window_s + silence_s))
        lasts = np.minimum(1.0, np.maximum(period_s, silence_s) / window_s)
        return cls(share, np.ceil(lasts * _PARTS - 1e-9) / _PARTS)

    def of_units(self, rows: NDArray[np.int64]) -> Exposure:
        """That of ``rows`` alone."""
        return Exposure(self.share[rows], self.lasts[rows])


@dataclass(frozen=True)
class Newcomers:
    """``draw_w`` (jobs, grid) watts that jobs to come may draw under each cap, ``weight`` (jobs,)
    how likely each is; weights sum to 1.
    """

    draw_w: Floats
    weight: Floats

    @classmethod
    def of(cls, draw: Floats, limits: Floats, caps_w: Floats, max_w: float) -> Newcomers:
        """From what present jobs draw under limits, (n, grid) shares of their GPUs' highest; n may
        be 0. ``caps_w`` (grid,) are of the GPUs to come to, whose highest limit is ``max_w``.
        """
        rows = np.argsort(draw[:, -1], kind="stable")
        if len(rows) > _SAMPLE:
            rows = rows[np.linspace(0, len(rows) - 1, _SAMPLE).astype(int)]
        weight = np.append(np.full(len(rows), len(draw) / max(len(rows), 1)), _GREEDY)
        drawn = [np.interp(caps_w / max_w, limits[row], draw[row]) * max_w for row in rows]
        return cls(np.minimum([*drawn, caps_w], caps_w), weight / weight.sum())

    def jumps(self, at: NDArray[np.int64], draw_w: Floats) -> Floats:
        """(n, jobs) change in watts when jobs that draw (n,) under caps at grid places (n,) go."""
        return np.asarray(self.draw_w[:, at].T - draw_w[:, None])

    def prices(self, reserve: Reserve, draw_w: Floats, exposure: Exposure) -> Floats:
        """(n, grid) watts that each cap adds to the reserve; present jobs draw (n, grid) there."""
        from qcluster.q_energy import _sight_kernels

        table = np.linspace(0.0, float(self.draw_w.max()), _TABLE)
        jumps = self.draw_w[:, :, None] - table
        lasts, kind = np.unique(exposure.lasts, return_inverse=True)
        by_cap = [np.einsum("j,jkt->kt", self.weight, reserve.price(k * jumps)) for k in lasts]
        out = np.empty(draw_w.shape)
        _sight_kernels.prices(
            np.array(by_cap), float(table[1]), draw_w, exposure.share, kind.ravel(), out
        )
        return out


@dataclass(frozen=True)
class Reserve:
    """``watts`` kept free for new jobs.

    ``beyond`` (bins,) is how likely the sum of changes is above each of ``at`` (bins,) watts,
    ``excess`` by how many watts it is above the reserve in the mean when it is.
    """

    watts: float
    at: Floats
    beyond: Floats
    excess: float

    @classmethod
    def of(
        cls, jumps: Floats, weight: Floats, exposure: Exposure, variance: float = 0.0
    ) -> Reserve:
        """From changes (n, jobs) in watts that new jobs bring; ``weight`` (jobs,) sums to 1.
        ``variance`` is that of the sum of predicted draws, square watts.
        """
        from qcluster.q_energy import _sight_kernels

        mean, square, most = _sight_kernels.moments(jumps, weight, exposure.share, exposure.lasts)
        half = abs(mean) + _DEVIATIONS * np.sqrt(square + variance) + 4.0 * most + 1e-6
        width = 2.0 * half / _BINS
        one = np.zeros(_BINS)
        _sight_kernels.histogram(jumps, weight, exposure.share, exposure.lasts, width, one)
        wave = 2.0 * np.pi * np.arange(_BINS // 2 + 1) / (_BINS * width)
        exponent = np.fft.rfft(one) - float(one.sum()) - 0.5 * variance * wave**2
        total = np.maximum(np.roll(np.fft.irfft(np.exp(exponent), _BINS), _BINS // 2), 0.0)
        at = (np.arange(_BINS) - _BINS // 2) * width
        beyond = np.maximum(1.0 - np.cumsum(total), 0.0)
        first = int(np.argmax(beyond <= RISK))
        tail = float(beyond[first:].sum()) * width
        excess = min(max(tail / max(float(beyond[first]), 1e-9), width), half)
        return cls(max(float(at[first]), 0.0), at, beyond, excess)

    def price(self, jumps: Floats) -> Floats:
        """Watts, at least 0, that a new job adds to the reserve which brings changes in watts,
        counted for as long as they last.
        """
        least = max(float(np.interp(self.watts, self.at, self.beyond)), 1e-9)
        # ``at`` is even, so places are computed and not searched for.
        place = (self.watts - self.at[0] - jumps) / (self.at[1] - self.at[0])
        place = np.clip(place, 0.0, len(self.at) - 1.000001)
        low = place.astype(np.int64)
        first = self.beyond[low]
        passed = (first + (place - low) * (self.beyond[low + 1] - first)) / least - 1.0
        return np.asarray(self.excess * np.maximum(passed, 0.0))
