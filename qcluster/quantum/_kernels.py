"""Compiled loops of the classical solvers and of the state-vector engine.

Each has a plain NumPy twin that the tests hold it against: ``problem.energy`` for the searches
(every energy they report is recomputed), the functions of ``qcluster.quantum.simulator`` for the
engine.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["anneal", "anneal_groups", "descend", "quench", "recombine"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Small = NDArray[np.uint32]
Words = NDArray[np.uint64]

_TO_UNIT = 1.0 / 9007199254740992.0  # 2^-53: the top 53 bits of a word as a number in [0, 1)


@njit(cache=True)
def _flip(i: int, z: Floats, field: Floats, indptr: Ints, indices: Ints, data: Floats) -> None:
    z[i] = -z[i]
    step = 2.0 * z[i]
    for e in range(indptr[i], indptr[i + 1]):
        field[indices[e]] += step * data[e]


@njit(cache=True)
def _coupling(i: int, j: int, indptr: Ints, indices: Ints, data: Floats) -> float:
    low, high = indptr[i], indptr[i + 1]
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < j:
            low = middle + 1
        else:
            high = middle
    if low < indptr[i + 1] and indices[low] == j:
        value: float = data[low]
        return value
    return 0.0


@njit(cache=True)
def _delta(
    i: int, z: Floats, field: Floats, group: Ints, hot: Ints, indptr: Ints, indices: Ints,
    data: Floats,
) -> float:  # fmt: skip
    """Energy change of flipping free spin i, or of making grouped spin i (now -1) the hot one."""
    g = group[i]
    change: float = -2.0 * z[i] * field[i]
    if g >= 0:
        if z[i] > 0:
            return np.inf
        a = hot[g]
        change -= 2.0 * field[a] + 4.0 * _coupling(i, a, indptr, indices, data)
    return change


@njit(cache=True)
def _move(
    i: int, z: Floats, field: Floats, group: Ints, hot: Ints, indptr: Ints, indices: Ints,
    data: Floats,
) -> None:  # fmt: skip
    g = group[i]
    if g >= 0:
        _flip(hot[g], z, field, indptr, indices, data)
        hot[g] = i
    _flip(i, z, field, indptr, indices, data)


@njit(cache=True)
def descend(
    z: Floats, field: Floats, group: Ints, hot: Ints, indptr: Ints, indices: Ints, data: Floats,
    steps: int,
) -> int:  # fmt: skip
    """Steepest descent in place: at most ``steps`` moves. Returns how many were made."""
    n = len(z)
    # Rounding must not let two states that are equal in truth improve on each other for ever.
    least = 0.0
    for i in range(n):
        least = max(least, abs(field[i]))
    least = -1e-12 * max(least, 1e-300)
    for step in range(steps):
        best, chosen = least, -1
        for i in range(n):
            change = -2.0 * z[i] * field[i]
            if group[i] >= 0:
                change = _delta(i, z, field, group, hot, indptr, indices, data)
            if change < best:
                best, chosen = change, i
        if chosen < 0:
            return step
        _move(chosen, z, field, group, hot, indptr, indices, data)
    return steps


@njit(cache=True, fastmath={"contract", "nsz"})
def anneal_groups(
    z: Floats, field: Floats, group: Ints, hot: Ints, indptr: Small, indices: Small, data: Floats,
    betas: Floats, state: Words,
) -> None:  # fmt: skip
    """Metropolis sweeps at the inverse temperatures ``betas``, in place (Kirkpatrick, 1983).

    Free spins are offered a flip in turn, grouped ones to become their group's hot spin. Written
    out in one loop with unsigned 32-bit indices: twelve times as fast as with calls.
    """
    x = state[0]
    one = np.uint32(1)
    for beta in betas:
        limit = 22.0 / beta
        for i in range(np.uint32(len(z))):
            g = group[i]
            change = -2.0 * z[i] * field[i]
            a = np.uint32(i)
            if g >= 0:
                if z[i] > 0.0:
                    continue
                a = np.uint32(hot[g])
                # Where i and a are coupled, turning one changes what turning the other costs.
                low, high = indptr[i], indptr[i + one]
                while high - low > np.uint32(8):
                    middle = (low + high) >> one
                    if indices[middle] <= a:
                        low = middle
                    else:
                        high = middle
                coupling = 0.0
                for e in range(low, high):
                    if indices[e] == a:
                        coupling = data[e]
                change -= 2.0 * field[a] + 4.0 * coupling
            if change >= limit:
                continue
            if change > 0.0:
                x ^= x << np.uint64(13)
                x ^= x >> np.uint64(7)
                x ^= x << np.uint64(17)
                if np.exp(-beta * change) <= (x >> np.uint64(11)) * _TO_UNIT:
                    continue
            if g >= 0:
                z[a] = -1.0
                for e in range(indptr[a], indptr[a + one]):
                    field[indices[e]] -= 2.0 * data[e]
                hot[g] = i
            step = -2.0 * z[i]
            z[i] = -z[i]
            for e in range(indptr[i], indptr[i + one]):
                field[indices[e]] += step * data[e]
    state[0] = x


@njit(cache=True, fastmath={"contract", "nsz"})
def anneal(
    z: Floats, field: Floats, indptr: Small, indices: Small, data: Floats, betas: Floats,
    state: Words,
) -> None:  # fmt: skip
    """``anneal_groups`` without groups, which is most problems: the bare loop, five times as fast.

    Unsigned 32-bit indices spare the compiler Python's rule for negative ones.
    """
    x = state[0]
    one = np.uint32(1)
    for beta in betas:
        limit = 22.0 / beta
        for i in range(np.uint32(len(z))):
            change = -2.0 * z[i] * field[i]
            if change >= limit:
                continue
            if change > 0.0:
                x ^= x << np.uint64(13)
                x ^= x >> np.uint64(7)
                x ^= x << np.uint64(17)
                if np.exp(-beta * change) <= (x >> np.uint64(11)) * _TO_UNIT:
                    continue
            step = -2.0 * z[i]
            z[i] = -z[i]
            for e in range(indptr[i], indptr[i + one]):
                field[indices[e]] += step * data[e]
    state[0] = x


@njit(cache=True)
def quench(
    z: Floats, field: Floats, group: Ints, hot: Ints, indptr: Ints, indices: Ints, data: Floats,
    slack: float,
) -> None:  # fmt: skip
    """Takes every move that lowers the energy by more than ``slack``, sweep by sweep."""
    moved = True
    while moved:
        moved = False
        for i in range(len(z)):
            if _delta(i, z, field, group, hot, indptr, indices, data) < -slack:
                _move(i, z, field, group, hot, indptr, indices, data)
                moved = True


@njit(cache=True)
def recombine(
    best: Floats, other: Floats, field: Floats, group: Ints, hot: Ints, first: Ints, members: Ints,
    indptr: Ints, indices: Ints, data: Floats, slack: float,
) -> int:  # fmt: skip
    """The best of both parents, part by part, into ``best``; how many parts it took from ``other``.

    Spins that differ fall into parts joined by couplings or by a one-hot group (members
    ``members[first[g]:first[g + 1]]``). No two parts touch, so each is flipped if that alone lowers
    the energy (Houdayer, 2001; Whitley et al., 2009). ``field`` = h + J best and ``hot`` follow.
    """
    n = len(best)
    seen = np.zeros(n, dtype=np.bool_)
    queue = np.empty(n, dtype=np.int64)
    taken = 0
    for root in range(n):
        if seen[root] or best[root] == other[root]:
            continue
        seen[root] = True
        queue[0] = root
        length, head, change = 1, 0, 0.0
        while head < length:
            i = queue[head]
            head += 1
            change -= 2.0 * best[i] * field[i]
            for e in range(indptr[i], indptr[i + 1]):
                j = indices[e]
                if best[j] != other[j]:
                    change += 2.0 * data[e] * best[i] * best[j]
                    if not seen[j]:
                        seen[j] = True
                        queue[length] = j
                        length += 1
            g = group[i]
            if g >= 0:
                for k in range(first[g], first[g + 1]):
                    j = members[k]
                    if best[j] != other[j] and not seen[j]:
                        seen[j] = True
                        queue[length] = j
                        length += 1
        if change < -slack:
            taken += 1
            for k in range(length):
                i = queue[k]
                _flip(i, best, field, indptr, indices, data)
                other[i] = best[i]
                if group[i] >= 0 and best[i] > 0:
                    hot[group[i]] = i
    return taken
