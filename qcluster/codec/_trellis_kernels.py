"""The encoder's search of trellis-coded quantisation (Marcellin and Fischer, 1990): Viterbi.

Only the encoder runs this. The decoder follows the trellis with integers in ``code_plane``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.jit import njit

__all__ = ["search"]

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

LEVELS = 64
FAR = 1e300


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
    c0, c1, c2, c3 = 0.0, 0.0, 0.0, 0.0
    base = 0.0
    now = 0
    for i in range(n):
        v = y[i]
        sc = scale[i]
        for z in range(4):
            k = z + 4 * int(np.floor((v - z) * 0.25 + 0.5))
            a = abs(k) >> 1
            cost = (v - k) * (v - k) + rate[sc, z & 1, min(a, LEVELS - 1)]
            if abs(k) > 2:
                other = k - 4 if k > 0 else k + 4
                b = abs(other) >> 1
                price = (v - other) * (v - other) + rate[sc, z & 1, min(b, LEVELS - 1)]
                if price < cost:
                    cost = price
                    k = other
            kept[i, z] = k
            if z == 0:
                c0 = cost
            elif z == 1:
                c1 = cost
            elif z == 2:
                c2 = cost
            else:
                c3 = cost
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
