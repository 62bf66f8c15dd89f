"""The encoder's search of trellis-coded quantisation (Marcellin and Fischer, 1990): Viterbi.

Only the encoder runs this. The decoder follows the trellis with integers in ``code_plane``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.jit import inline, njit

__all__ = ["search", "search_eight", "squared_error", "sum_inward"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

LEVELS = 64
FAR = 1e300
# Where the eight states are entered from, and by which integers modulo 4.
_BEFORE = np.array([0, 4, 2, 6, 0, 4, 2, 6, 3, 7, 1, 5, 3, 7, 1, 5])
_COSET = np.array([0, 2, 0, 2, 2, 0, 2, 0, 1, 3, 1, 3, 3, 1, 3, 1])


@inline
def _cheapest(v: float, z: int, rate: F64, scale: int) -> tuple[float, int]:
    """The cost and the integer that is ``z`` modulo 4: the nearest to ``v``, or the next inward."""
    k = z + 4 * int(np.floor((v - z) * 0.25 + 0.5))
    cost = (v - k) * (v - k) + rate[scale, z & 1, min(abs(k) >> 1, LEVELS - 1)]
    if abs(k) > 2:
        other = k - 4 if k > 0 else k + 4
        price = (v - other) * (v - other) + rate[scale, z & 1, min(abs(other) >> 1, LEVELS - 1)]
        if price < cost:
            cost = price
            k = other
    return cost, k


@njit
def search(
    y: F64, scale: NDArray[np.uint8], rate: F64, before: I64, coset: I64, next_state: I64,
    kept: I32, decision: U64, words: I64, path: F64,
) -> float:  # fmt: skip
    """The integers k (n,) of the path with the smallest sum of (y - k)^2 + rate.

    Parameters
    ----------
    y: (n,) values in steps.
    scale: (n,) which row of ``rate`` (64, 2, LEVELS) prices the element's |k| // 2 by parity.
    before, coset: (states, 2) where a state is entered from and by which k modulo 4.
    next_state: (states, 2) where it leads; only its length is used.
    kept (n, 4), decision (n,), path (2, states): room to work in.
    words: (n,) the result.
    Returns the cost.
    """
    states = next_state.shape[0]
    n = y.size
    for s in range(states):
        path[0, s] = 0.0 if s == 0 else FAR
    base = 0.0
    now = 0
    for i in range(n):
        v = y[i]
        sc = scale[i]
        c0, kept[i, 0] = _cheapest(v, 0, rate, sc)
        c1, kept[i, 1] = _cheapest(v, 1, rate, sc)
        c2, kept[i, 2] = _cheapest(v, 2, rate, sc)
        c3, kept[i, 3] = _cheapest(v, 3, rate, sc)
        bits = np.uint64(0)
        least = FAR
        for s in range(states):
            za, zb = coset[s, 0], coset[s, 1]
            ca = (c0 if za == 0 else c2) if za & 1 == 0 else (c1 if za == 1 else c3)
            cb = (c0 if zb == 0 else c2) if zb & 1 == 0 else (c1 if zb == 1 else c3)
            pa = path[now, before[s, 0]] + ca
            pb = path[now, before[s, 1]] + cb
            if pb < pa:
                bits |= np.uint64(1) << np.uint64(s)
                pa = pb
            path[1 - now, s] = pa
            least = min(least, pa)
        decision[i] = bits
        now = 1 - now
        if i & 1023 == 1023:
            base += least
            for s in range(states):
                path[now, s] -= least
    best = 0
    for s in range(states):
        if path[now, s] < path[now, best]:
            best = s
    total = base + path[now, best]
    for i in range(n - 1, -1, -1):
        turn = int((decision[i] >> np.uint64(best)) & np.uint64(1))
        words[i] = kept[i, coset[best, turn]]
        best = before[best, turn]
    return total  # type: ignore[no-any-return]


@inline
def _candidate(v: float, z: int, prices: F32, at: int) -> tuple[float, int]:
    """The cost of the integer nearest to ``v`` that is ``z`` modulo 4, and its place from ``z``."""
    m = int(np.floor((v - z) * 0.25 + 0.5))
    k = z + 4 * m
    d = v - k
    return d * d + prices[at + min(abs(k) >> 1, LEVELS - 1)], m


@njit
def search_eight(
    y: F64, scale: NDArray[np.uint8], prices: F32, decision: NDArray[np.uint8], words: I64
) -> float:
    """``search`` for the eight states, written out: each integer is the nearest of its coset, which
    at more than about two bits an element is the cheapest as well.

    ``prices`` (64 * 2 * LEVELS,) flat; ``decision`` (n,) is room.
    """
    n = y.size
    p0, p1, p2, p3 = 0.0, FAR, FAR, FAR
    p4, p5, p6, p7 = FAR, FAR, FAR, FAR
    base = 0.0
    for i in range(n):
        v = y[i]
        at = int(np.int64(scale[i])) * (2 * LEVELS)
        c0, _ = _candidate(v, 0, prices, at)
        c1, _ = _candidate(v, 1, prices, at + LEVELS)
        c2, _ = _candidate(v, 2, prices, at)
        c3, _ = _candidate(v, 3, prices, at + LEVELS)
        a0, b0, a2, b2 = p0 + c0, p4 + c2, p0 + c2, p4 + c0
        a1, b1, a3, b3 = p2 + c0, p6 + c2, p2 + c2, p6 + c0
        a4, b4, a6, b6 = p3 + c1, p7 + c3, p3 + c3, p7 + c1
        a5, b5, a7, b7 = p1 + c1, p5 + c3, p1 + c3, p5 + c1
        turn = (1 if b0 < a0 else 0) | (2 if b1 < a1 else 0) | (4 if b2 < a2 else 0)
        turn |= (8 if b3 < a3 else 0) | (16 if b4 < a4 else 0) | (32 if b5 < a5 else 0)
        decision[i] = turn | (64 if b6 < a6 else 0) | (128 if b7 < a7 else 0)
        p0, p1 = (min(a0, b0)), (min(a1, b1))
        p2, p3 = (min(a2, b2)), (min(a3, b3))
        p4, p5 = (min(a4, b4)), (min(a5, b5))
        p6, p7 = (min(a6, b6)), (min(a7, b7))
        if i & 1023 == 1023:
            base += p0
            p1, p2, p3, p4 = p1 - p0, p2 - p0, p3 - p0, p4 - p0
            p5, p6, p7, p0 = p5 - p0, p6 - p0, p7 - p0, 0.0
    best, least = 0, p0
    for s in range(1, 8):
        p = p1 if s == 1 else p2 if s == 2 else p3 if s == 3 else p4 if s == 4 else (
            p5 if s == 5 else p6 if s == 6 else p7)  # fmt: skip
        if p < least:
            best, least = s, p
    for i in range(n - 1, -1, -1):
        turn = (int(np.int64(decision[i])) >> best) & 1
        z = int(np.int64(_COSET[2 * best + turn]))
        best = int(np.int64(_BEFORE[2 * best + turn]))
        words[i] = z + 4 * int(np.floor((y[i] - z) * 0.25 + 0.5))
    return base + least


@njit
def sum_inward(k: I64, y: F64, sums: F64, count: F64) -> None:
    """Add how far each value lies inside of its integer to the sum of that integer's size."""
    for i in range(k.size):
        size = abs(k[i])
        if size < sums.size:
            sums[size] += k[i] - y[i] if k[i] > 0 else y[i] - k[i]
            count[size] += 1


@njit
def squared_error(ours: F64, true: F64) -> float:
    """The sum of squared differences, by blocks, so that its rounding stays small."""
    total = 0.0
    for first in range(0, ours.size, 4096):
        part = 0.0
        for i in range(first, min(first + 4096, ours.size)):
            d = ours[i] - true[i]
            part += d * d
        total += part
    return total
