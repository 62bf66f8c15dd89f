"""Watts kept free for jobs that start before the next plan, and what each cap adds to them.

A GPU whose job ends between two plans gets another one under the old cap, which draws more or less
than was planned. The jobs that run now are a sample of those to come: the change is drawn from
what they would draw there, plus a few that fill their cap whatever it is. The sum over all GPUs is
compound Poisson, its distribution comes by Fourier transform, and the reserve is its quantile. What
a cap adds to the quantile is its influence (Hampel 1974): how much likelier the sum passes it when
the job under that cap is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RISK", "Newcomers", "Reserve"]

Floats = NDArray[np.float64]

RISK = 5e-4
"""Share of windows in which new jobs may add more than the reserve."""

_BINS = 2048
_SAMPLE = 32  # present jobs that stand for those to come
_GREEDY = 3.0  # and as many as these that fill their cap
_DEVIATIONS = 8.0
_TABLE = 24  # draws of the job that ends, at which prices are computed


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

    def prices(self, reserve: Reserve, draw_w: Floats) -> Floats:
        """(n, grid) watts that each cap adds to the reserve; present jobs draw (n, grid) there."""
        table = np.linspace(0.0, float(self.draw_w.max()), _TABLE)
        jumps = self.draw_w[:, :, None] - table
        by_cap = np.einsum("j,jkt->kt", self.weight, reserve.price(jumps))
        place = np.clip(draw_w / table[1], 0.0, _TABLE - 1.000001)
        low, caps = place.astype(int), np.arange(draw_w.shape[1])
        part = place - low
        return np.asarray(by_cap[caps, low] * (1.0 - part) + by_cap[caps, low + 1] * part)


@dataclass(frozen=True)
class Reserve:
    """``watts`` kept free when a ``share`` of GPUs gets a new job in a window.

    A change counts for the part ``lasts`` of the window, then the next plan has seen it.

    ``beyond`` (bins,) is how likely the sum of changes is above each of ``at`` (bins,) watts,
    ``excess`` by how many watts it is above the reserve in the mean when it is.
    """

    watts: float
    share: float
    at: Floats
    beyond: Floats
    excess: float
    lasts: float = 1.0

    @classmethod
    def of(cls, jumps: Floats, weight: Floats, share: float, lasts: float = 1.0) -> Reserve:
        """From changes (n, jobs) in watts that new jobs bring, (n, jobs) how likely each is."""
        jumps = lasts * jumps
        mean, square = (
            share * float((weight * jumps).sum()),
            share * float((weight * jumps**2).sum()),
        )
        half = abs(mean) + _DEVIATIONS * np.sqrt(square) + 4.0 * float(np.abs(jumps).max()) + 1e-6
        width = 2.0 * half / _BINS
        places = np.ceil(jumps / width - 1e-9).astype(int) % _BINS
        one = np.bincount(places.ravel(), weight.ravel(), minlength=_BINS)
        exponent = share * (np.fft.rfft(one) - len(jumps))
        total = np.maximum(np.roll(np.fft.irfft(np.exp(exponent), _BINS), _BINS // 2), 0.0)
        at = (np.arange(_BINS) - _BINS // 2) * width
        beyond = np.maximum(1.0 - np.cumsum(total), 0.0)
        first = int(np.argmax(beyond <= RISK))
        tail = float(beyond[first:].sum()) * width
        excess = min(max(tail / max(float(beyond[first]), 1e-9), width), half)
        return cls(max(float(at[first]), 0.0), share, at, beyond, excess, lasts)

    def price(self, jumps: Floats) -> Floats:
        """Watts, at least 0, that GPUs add to the reserve whose new jobs bring changes in watts."""
        least = max(float(np.interp(self.watts, self.at, self.beyond)), 1e-9)
        # ``at`` is even, so places are computed and not searched for.
        place = (self.watts - self.at[0] - self.lasts * jumps) / (self.at[1] - self.at[0])
        place = np.clip(place, 0.0, len(self.at) - 1.000001)
        low = place.astype(np.int64)
        first = self.beyond[low]
        passed = (first + (place - low) * (self.beyond[low + 1] - first)) / least - 1.0
        return np.asarray(self.share * self.excess * np.maximum(passed, 0.0))
