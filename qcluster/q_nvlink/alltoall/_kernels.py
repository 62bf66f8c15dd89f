"""Compiled Birkhoff-von Neumann decomposition with bit sets; its twin is in ``reference.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["decompose", "pack"]

_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, dtype=np.int64)
for _i in range(64):
    _PLACE[(0x03F79D71B4CB0A89 << _i & (2**64 - 1)) >> 58] = _i


@njit(cache=True)
def _matching(n: int) -> Any:
    """An empty graph of n rows as bits, no matching of it, and what ``_augment`` works in."""
    words = (n + 63) // 64
    near, seen = np.zeros((n, words), dtype=np.uint64), np.zeros(words, dtype=np.uint64)
    mate, owner = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
    parent, queue = np.empty(n, dtype=np.int64), np.empty(n + 1, dtype=np.int64)
    return near, mate, owner, seen, parent, queue


@njit(cache=True)
def _augment(
    near: NDArray[np.uint64],
    row: int,
    mate: NDArray[np.int64],
    owner: NDArray[np.int64],
    seen: NDArray[np.uint64],
    parent: NDArray[np.int64],
    queue: NDArray[np.int64],
) -> bool:
    """Match a free row by an alternating path found breadth first; whether there is one."""
    words = near.shape[1]
    seen[:] = 0
    queue[0] = row
    head, tail = 0, 1
    while head < tail:
        u = queue[head]
        head += 1
        for w in range(words):
            left = near[u, w] & ~seen[w]
            seen[w] |= left
            while left != 0:
                bit = left & (~left + np.uint64(1))
                left ^= bit
                v = w * 64 + _PLACE[np.int64((bit * _DEBRUIJN) >> np.uint64(58))]
                parent[v] = u
                if owner[v] < 0:
                    while True:
                        u = parent[v]
                        after = mate[u]
                        mate[u] = v
                        owner[v] = u
                        if u == row:
                            return True
                        v = after
                queue[tail] = owner[v]
                tail += 1
    return False


@njit(cache=True)
def _perfect(
    near: NDArray[np.uint64],
    mate: NDArray[np.int64],
    owner: NDArray[np.int64],
    seen: NDArray[np.uint64],
    parent: NDArray[np.int64],
    queue: NDArray[np.int64],
) -> bool:
    """Complete the matching ``mate`` (n,), ``owner`` (n,); whether there is a perfect one."""
    for i in range(len(mate)):
        if mate[i] < 0 and not _augment(near, i, mate, owner, seen, parent, queue):
            return False
    return True


@njit(cache=True)
def _largest_power(limit: int) -> Any:
    """The largest power of two up to ``limit``, at least 1."""
    threshold = np.int64(1)
    while threshold * 2 <= limit:
        threshold *= 2
    return threshold


@njit(cache=True)
def _part(
    near: NDArray[np.uint64], mate: NDArray[np.int64], owner: NDArray[np.int64], i: int, j: int
) -> None:
    """Take a matched edge out of the graph and of the matching."""
    near[i, j // 64] &= ~(np.uint64(1) << np.uint64(j % 64))
    mate[i] = -1
    owner[j] = -1


@njit(cache=True)
def _join_volumes(
    near: NDArray[np.uint64],
    real: NDArray[np.int64],
    idle: NDArray[np.int64],
    held: NDArray[np.int64],
    have: NDArray[np.int64],
    threshold: int,
) -> None:
    """The graph of entries of at least ``threshold``, as bits; see ``decompose``."""
    near[:] = 0
    for i in range(len(real)):
        for j in range(len(real)):
            volume = real[i, j] if real[i, j] > 0 else idle[i, j]
            if held[i] == j:
                volume = have[i]
            if volume >= threshold:
                near[i, j // 64] |= np.uint64(1) << np.uint64(j % 64)


@njit(cache=True)
def _hold(
    real: NDArray[np.int64],
    idle: NDArray[np.int64],
    mate: NDArray[np.int64],
    held: NDArray[np.int64],
    have: NDArray[np.int64],
    shown: NDArray[np.int16],
) -> Any:
    """Take the volumes of newly matched edges in hand; the smallest volume of all edges."""
    shortest = np.int64(np.iinfo(np.int64).max)
    for i in range(len(mate)):
        j = mate[i]
        if held[i] != j:
            _put_back(real, idle, i, held[i], have[i])
            held[i] = j
            have[i] = real[i, j] if real[i, j] > 0 else idle[i, j]
            shown[i] = j if real[i, j] > 0 else -1
        shortest = min(shortest, have[i])
    return shortest


@njit(cache=True)
def decompose(
    real: NDArray[np.int64],
    idle: NDArray[np.int64],
    rounds: NDArray[np.int16],
    durations: NDArray[np.int64],
) -> int:
    """Split ``real + idle``, whose rows and columns all add up alike, into perfect matchings.

    Both matrices (n, n) are used up. rounds (most, n) gets each row's column where the row sends
    real data and -1 where it idles, durations (most,) how long. Returns how many rounds there are,
    or -1 when ``most`` is too few. A position holds either real or idle volume in a round, so what
    the rounds carry is the real matrix exactly.

    Only entries of at least a threshold are matched; it halves when no perfect matching is left
    (capacity scaling; Gabow and Tarjan, 1989). The matching is kept from round to round and only
    its broken edges are repaired; volumes of matched edges stay in ``have`` until they break.
    """
    n = len(real)
    near, mate, owner, seen, parent, queue = _matching(n)
    have = np.zeros(n, dtype=np.int64)
    held = np.full(n, -1, dtype=np.int64)  # the column that ``have`` belongs to
    shown = np.full(n, -1, dtype=np.int16)
    left = real[0].sum() + idle[0].sum()
    threshold = _largest_power(max(real.max(), idle.max()))
    fresh = True
    count = 0
    while left > 0:
        if fresh:
            _join_volumes(near, real, idle, held, have, threshold)
            fresh = False
        if not _perfect(near, mate, owner, seen, parent, queue):
            threshold //= 2
            fresh = True
            continue
        if count == len(durations):
            return -1
        shortest = _hold(real, idle, mate, held, have, shown)
        durations[count] = shortest
        for i in range(n):
            rounds[count, i] = shown[i]
            have[i] -= shortest
            if have[i] < threshold:
                j = mate[i]
                _put_back(real, idle, i, j, have[i])
                held[i] = -1
                volume = real[i, j] if real[i, j] > 0 else idle[i, j]
                if volume < threshold:
                    _part(near, mate, owner, i, j)
        left -= shortest
        count += 1
    return count


@njit(cache=True)
def _put_back(
    real: NDArray[np.int64], idle: NDArray[np.int64], i: int, j: int, volume: int
) -> None:
    """Write what is left of a matched edge back into the matrix it came from."""
    if j < 0:
        return
    if real[i, j] > 0:
        real[i, j] = volume
    else:
        idle[i, j] = volume


@njit(cache=True)
def _join_slack(
    near: NDArray[np.uint64],
    real: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    threshold: int,
    mate: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> None:
    """The graph of pairs that fill ``threshold`` with their slack, and a first matching of it."""
    n = len(real)
    near[:] = 0
    mate[:] = -1
    owner[:] = -1
    for i in range(n):
        for j in range(n):
            if real[i, j] + min(rows[i], columns[j]) >= threshold:
                near[i, j // 64] |= np.uint64(1) << np.uint64(j % 64)
    # Pairs that need no slack first, so that slack is spent where it must be.
    for i in range(n):
        for j in range(n):
            if mate[i] < 0 and owner[j] < 0 and real[i, j] >= threshold:
                mate[i] = j
                owner[j] = i


@njit(cache=True)
def _part_worn(
    near: NDArray[np.uint64],
    real: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    threshold: int,
    mate: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> bool:
    """Part the matched pairs whose slack was spent since they were joined; whether any was."""
    broken = False
    for i in range(len(mate)):
        j = mate[i]
        if real[i, j] + min(rows[i], columns[j]) < threshold:
            _part(near, mate, owner, i, j)
            broken = True
    return broken


@njit(cache=True)
def pack(
    real: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    rounds: NDArray[np.int16],
    durations: NDArray[np.int64],
) -> int:
    """Like ``decompose`` with far fewer rounds: a pair may finish before its round ends.

    rows and columns (n,) are each port's slack: how long it may idle without making the schedule
    longer than its busiest port. A pair fits a round of length d when its volume and the slack of
    both its ports reach d; what it does not fill is taken from both slacks. All four are used up.
    """
    n = len(real)
    near, mate, owner, seen, parent, queue = _matching(n)
    left = rows[0]
    for j in range(n):
        left += real[0, j]
    threshold = _largest_power(left)
    count = 0
    fresh = True
    while left > 0:
        if fresh:
            _join_slack(near, real, rows, columns, threshold, mate, owner)
            fresh = False
        if not _perfect(near, mate, owner, seen, parent, queue):
            threshold //= 2
            fresh = True
            continue
        if _part_worn(near, real, rows, columns, threshold, mate, owner):
            continue
        if count == len(durations):
            return -1
        shortest = left
        for i in range(n):
            j = mate[i]
            shortest = min(shortest, real[i, j] + min(rows[i], columns[j]))
        durations[count] = shortest
        for i in range(n):
            j = mate[i]
            carried = min(shortest, real[i, j])
            rounds[count, i] = j if carried > 0 else -1
            real[i, j] -= carried
            rows[i] -= shortest - carried
            columns[j] -= shortest - carried
            if real[i, j] + min(rows[i], columns[j]) < threshold:
                _part(near, mate, owner, i, j)
            elif real[i, j] == 0:
                mate[i] = -1
                owner[j] = -1
        left -= shortest
        count += 1
    return count
