"""Does memory grow without end? A trend test that warm-up and collection cycles do not fool.

Memory in use is not noise around a line: it rises while caches fill, saws up and down with the
garbage collector, and each sample resembles the last. So the first third is dropped, the rest is
cut into whole cycles (or equal blocks where there are none), and only each one's minimum, the floor
that memory returns to, is tested: for a rising order of the floors (Mann 1945, exact distribution
for few floors), and for a rise that goes on in the second half. The slope is Theil and Sen's (Sen
1968).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.record import Record

__all__ = ["LeakVerdict", "find_leak", "rising_p_value"]

BLOCKS = 8
FEWEST_FLOORS = 5
MOST_FLOORS = 16
FEWEST_SAMPLES = 120


@dataclass(frozen=True, kw_only=True, eq=False)
class LeakVerdict(Record):
    """What the floors of a series say."""

    verdict: Literal["leak", "no leak seen", "cannot tell"]
    reason: str
    p_value: float | None
    """Chance of floors that rise so clearly where memory does not grow."""
    slope: float | None
    """Growth a sample, in the series' unit."""
    slope_low: float | None
    """Lower end of the slope's 95 % interval."""
    slope_high: float | None
    samples: int
    blocks: int
    block_length: int


def find_leak(
    values: Sequence[float] | NDArray[np.float64],
    *,
    level: float = 0.02,
    smallest_slope: float = 0.0,
) -> LeakVerdict:
    """Test a series of memory in use, one value a step, for growth.

    ``level`` is the chance of a false alarm that is aimed at; ``smallest_slope`` the growth a
    sample that matters. Series of fewer than 120 samples, or of fewer than five cycles, give
    ``cannot tell``.

    Raises InputError for a level outside (0, 1), a negative slope or values that are not finite.
    """
    if not 0 < level < 1:
        raise InputError(f"wanted a chance in (0, 1), came {level}", field="level")
    if not smallest_slope >= 0:
        raise InputError(f"wanted 0 or more, came {smallest_slope}", field="smallest_slope")
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1 or not np.isfinite(series).all():
        raise InputError("wanted a row of finite numbers", field="values")
    settled = series[len(series) // 3 :]
    places, floors = _floors(settled)
    count, length = len(floors), len(settled) // max(1, len(floors))
    if len(series) < FEWEST_SAMPLES or count < FEWEST_FLOORS:
        return _verdict(
            "cannot tell",
            f"{len(series)} samples with {count} cycles or blocks after the warm-up; wanted "
            f"{FEWEST_SAMPLES} and {FEWEST_FLOORS}",
            series, count, length,
        )  # fmt: skip
    p_value = rising_p_value(floors)
    slope, low, high = _theil_sen(places, floors)
    late, _, _ = _theil_sen(places[count // 2 :], floors[count // 2 :])
    found = (p_value, slope, low, high)
    if p_value > level:
        return _verdict("no leak seen", "the floors do not rise", series, count, length, *found)
    if late < 0.25 * slope:
        reason = "the floors rise early and then settle"
        return _verdict("no leak seen", reason, series, count, length, *found)
    if slope < smallest_slope:
        reason = f"the growth is below {smallest_slope:g} a sample"
        return _verdict("no leak seen", reason, series, count, length, *found)
    return _verdict("leak", "the floors rise to the end", series, count, length, *found)


def rising_p_value(floors: Sequence[float] | NDArray[np.float64]) -> float:
    """Chance that a random order has as many rising pairs, less falling ones, as ``floors``.

    Exact without ties (Kendall's statistic); ties count as neither, which errs on the safe side.
    """
    signs = [np.sign(b - a) for a, b in itertools.combinations(floors, 2)]
    score = int(sum(signs))
    n = len(floors)
    pairs = n * (n - 1) // 2
    counts = _inversions(n)
    # score = pairs - 2 * inversions without ties, so score >= s means few enough inversions.
    most = (pairs - score) // 2
    return float(sum(counts[: most + 1]) / math.factorial(n))


@functools.cache
def _inversions(n: int) -> tuple[int, ...]:
    """Permutations of n by their number of inversions."""
    counts = [1]
    for size in range(2, n + 1):
        longer = [0] * (len(counts) + size - 1)
        for shift in range(size):
            for index, count in enumerate(counts):
                longer[index + shift] += count
        counts = longer
    return tuple(counts)


def _floors(series: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and minima of whole cycles, where sharp falls show them, else of equal blocks."""
    falls = _falls(series)
    if len(falls) >= 2:
        # Many short cycles: the floor of several at a time.
        edges = falls[:: math.ceil((len(falls) - 1) / MOST_FLOORS)]
        pieces = list(itertools.pairwise(edges.tolist()))
    else:
        length = max(1, len(series) // BLOCKS)
        start = len(series) - BLOCKS * length
        pieces = [(start + i * length, start + (i + 1) * length) for i in range(BLOCKS)]
        pieces = [(a, b) for a, b in pieces if a >= 0]
    places = np.array([a + series[a:b].argmin() for a, b in pieces], dtype=np.float64)
    return places, np.array([series[a:b].min() for a, b in pieces])


def _falls(series: NDArray[np.float64]) -> NDArray[np.int64]:
    """First samples after sharp falls: far outside the usual change between samples."""
    if len(series) < 3:
        return np.empty(0, dtype=np.int64)
    steps = np.diff(series)
    middle = np.median(steps)
    spread = 1.4826 * float(np.median(np.abs(steps - middle)))
    if spread == 0:
        spread = float(np.abs(steps).mean()) or 1.0
    return np.flatnonzero(steps < middle - 3.5 * spread) + 1


def _theil_sen(
    places: NDArray[np.float64], floors: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Median slope between pairs and the 95 % interval of Sen 1968, a sample."""
    n = len(floors)
    slopes = np.sort(
        [
            (floors[j] - floors[i]) / max(1.0, places[j] - places[i])
            for i, j in itertools.combinations(range(n), 2)
        ]
    )
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = max(0, math.floor((len(slopes) - half) / 2))
    last = min(len(slopes) - 1, math.ceil((len(slopes) + half) / 2))
    return float(np.median(slopes)), float(slopes[first]), float(slopes[last])


def _verdict(
    verdict: Literal["leak", "no leak seen", "cannot tell"],
    reason: str,
    series: NDArray[np.float64],
    blocks: int,
    length: int,
    p_value: float | None = None,
    slope: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> LeakVerdict:
    return LeakVerdict(
        verdict=verdict, reason=reason, p_value=p_value, slope=slope, slope_low=low,
        slope_high=high, samples=len(series), blocks=blocks, block_length=length,
    )  # fmt: skip
