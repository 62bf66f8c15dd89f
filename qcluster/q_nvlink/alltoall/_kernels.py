"""Compiled Birkhoff-von Neumann decomposition with bit sets; its twin is in ``reference.py``."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["cut_lanes", "decompose", "fill_lanes", "pack"]

_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, dtype=np.int64)
for _i in range(64):
    _PLACE[(0x03F79D71B4CB0A89 << _i & (2**64 - 1)) >> 58] = _i


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
    words = (n + 63) // 64
    near = np.zeros((n, words), dtype=np.uint64)
    mate = np.full(n, -1, dtype=np.int64)
    owner = np.full(n, -1, dtype=np.int64)
    seen = np.zeros(words, dtype=np.uint64)
    parent = np.empty(n, dtype=np.int64)
    queue = np.empty(n + 1, dtype=np.int64)
    have = np.zeros(n, dtype=np.int64)
    held = np.full(n, -1, dtype=np.int64)  # the column that ``have`` belongs to
    shown = np.full(n, -1, dtype=np.int16)
    left, most = np.int64(0), np.int64(0)
    for j in range(n):
        left += real[0, j] + idle[0, j]
    for i in range(n):
        for j in range(n):
            most = max(most, real[i, j], idle[i, j])
    threshold = np.int64(1)
    while threshold * 2 <= most:
        threshold *= 2
    fresh = True
    count = 0
    while left > 0:
        if fresh:
            for i in range(n):
                for w in range(words):
                    near[i, w] = 0
                for j in range(n):
                    volume = real[i, j] if real[i, j] > 0 else idle[i, j]
                    if held[i] == j:
                        volume = have[i]
                    if volume >= threshold:
                        near[i, j // 64] |= np.uint64(1) << np.uint64(j % 64)
            fresh = False
        perfect = True
        for i in range(n):
            if mate[i] < 0 and not _augment(near, i, mate, owner, seen, parent, queue):
                perfect = False
                break
        if not perfect:
            threshold //= 2
            fresh = True
            continue
        if count == len(durations):
            return -1
        shortest = left
        for i in range(n):
            j = mate[i]
            if held[i] != j:
                _put_back(real, idle, i, held[i], have[i])
                held[i] = j
                have[i] = real[i, j] if real[i, j] > 0 else idle[i, j]
                shown[i] = j if real[i, j] > 0 else -1
            shortest = min(shortest, have[i])
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
                    near[i, j // 64] &= ~(np.uint64(1) << np.uint64(j % 64))
                    mate[i] = -1
                    owner[j] = -1
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
    words = (n + 63) // 64
    near = np.zeros((n, words), dtype=np.uint64)
    mate = np.full(n, -1, dtype=np.int64)
    owner = np.full(n, -1, dtype=np.int64)
    seen = np.zeros(words, dtype=np.uint64)
    parent = np.empty(n, dtype=np.int64)
    queue = np.empty(n + 1, dtype=np.int64)
    left = rows[0]
    for j in range(n):
        left += real[0, j]
    threshold = np.int64(1)
    while threshold * 2 <= left:
        threshold *= 2
    count = 0
    fresh = True
    while left > 0:
        if fresh:
            for i in range(n):
                for w in range(words):
                    near[i, w] = 0
                for j in range(n):
                    if real[i, j] + min(rows[i], columns[j]) >= threshold:
                        near[i, j // 64] |= np.uint64(1) << np.uint64(j % 64)
                mate[i] = -1
                owner[i] = -1
            fresh = False
            # Pairs that need no slack first, so that slack is spent where it must be.
            for i in range(n):
                for j in range(n):
                    if mate[i] < 0 and owner[j] < 0 and real[i, j] >= threshold:
                        mate[i] = j
                        owner[j] = i
        perfect = True
        for i in range(n):
            if mate[i] < 0 and not _augment(near, i, mate, owner, seen, parent, queue):
                perfect = False
                break
        if not perfect:
            threshold //= 2
            fresh = True
            continue
        broken = False
        for i in range(n):
            j = mate[i]
            if real[i, j] + min(rows[i], columns[j]) < threshold:
                # Slack spent since the bit was set: the edge is gone.
                near[i, j // 64] &= ~(np.uint64(1) << np.uint64(j % 64))
                mate[i] = -1
                owner[j] = -1
                broken = True
        if broken:
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
            if real[i, j] + min(rows[i], columns[j]) < threshold or real[i, j] == 0:
                mate[i] = -1
                owner[j] = -1
                if real[i, j] + min(rows[i], columns[j]) < threshold:
                    near[i, j // 64] &= ~(np.uint64(1) << np.uint64(j % 64))
        left -= shortest
        count += 1
    return count


@njit(cache=True)
def pair_lanes(
    block: NDArray[np.int64], left: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Which NICs of two domains talk, so that most bytes leave and arrive at their own GPUs.

    block (a, b) bytes; left (a,) and right (b,) are the largest shares of all bytes that the NICs
    may take, each summing to at least 1. Returns shares (a, b): as much as fits where the bytes
    are, rows and columns scaled down to what their NICs take, then what is still open in order.
    """
    a, b = block.shape
    total = 0.0
    own_left, own_right = np.zeros(a), np.zeros(b)
    for i in range(a):
        for j in range(b):
            total += block[i, j]
            own_left[i] += block[i, j]
            own_right[j] += block[i, j]
    left, right = _takes(own_left / total, left), _takes(own_right / total, right)
    lane = np.zeros((a, b))
    rows, columns = left.copy(), right.copy()
    for i in range(a):
        have = 0.0
        for j in range(b):
            have += block[i, j] / total
        for j in range(b):
            if have > 0:
                lane[i, j] = block[i, j] / total * min(1.0, left[i] / have)
    for j in range(b):
        have = 0.0
        for i in range(a):
            have += lane[i, j]
        for i in range(a):
            if have > right[j]:
                lane[i, j] *= right[j] / have
            if lane[i, j] < 0.01 * min(left[i], right[j]):
                lane[i, j] = 0.0  # a sliver is not worth a lane
            rows[i] -= lane[i, j]
            columns[j] -= lane[i, j]
    for stage in range(2):
        for i in range(a):
            for j in range(b):
                part = min(rows[i], columns[j])
                if stage == 0:
                    part = min(part, block[i, j] / total - lane[i, j])
                if part > 1e-12:
                    lane[i, j] += part
                    rows[i] -= part
                    columns[j] -= part
    return lane


@njit(cache=True)
def _takes(own: NDArray[np.float64], most: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each NIC takes, summing to 1: its own GPU's share, and of others' what it has room for."""
    taken = np.minimum(own, most)
    room = most - taken
    rest = 1.0 - taken.sum()
    if rest > 0.0 and room.sum() > 0.0:
        taken += room * (rest / room.sum())
    return np.asarray(taken / taken.sum())


@njit(cache=True)
def fill_lanes(
    block: NDArray[np.int64],
    out: NDArray[np.int64],
    into: NDArray[np.int64],
    share: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Put the bytes of a pair of domains into lanes with as few NVLink hand-overs as it goes.

    block (a, b) bytes, used up; lane l runs from local GPU out[l] to into[l] and takes share[l] of
    all. Returns rows (lane, source, target, bytes). First what needs no hand-over, then one, then
    both.
    """
    a, b = block.shape
    lanes = len(out)
    total = np.int64(0)
    for i in range(a):
        for j in range(b):
            total += block[i, j]
    room = np.empty(lanes, dtype=np.int64)
    done, before = 0.0, np.int64(0)
    for lane in range(lanes):
        done += share[lane]
        edge = total if lane == lanes - 1 else min(total, np.int64(np.rint(done * total)))
        room[lane] = edge - before
        before = edge
    rows = np.empty((a * b + (a + b) * lanes + lanes, 4), dtype=np.int64)
    count = 0
    for stage in range(4):
        for lane in range(lanes):
            for i in range(a):
                if stage < 2 and i != out[lane]:
                    continue
                for j in range(b):
                    if room[lane] == 0:
                        break
                    if stage in (0, 2) and j != into[lane]:
                        continue
                    part = min(room[lane], block[i, j])
                    if part > 0:
                        block[i, j] -= part
                        room[lane] -= part
                        rows[count, 0] = lane
                        rows[count, 1] = i
                        rows[count, 2] = j
                        rows[count, 3] = part
                        count += 1
    return rows[:count].copy()


@njit(cache=True)
def cut_lanes(
    rows: NDArray[np.int64],
    share: NDArray[np.float64],
    steps: NDArray[np.int64],
    size: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    out: NDArray[np.int64],
    into: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Cut lanes at the rounds that carry them.

    rows as from ``fill_lanes``; rounds ``steps`` carry ``size`` bytes of all lanes together, in
    proportion, and what is left at the end goes with the last. Returns rows (source, target, out,
    into, bytes, step) with global GPUs.
    """
    lanes = len(share)
    found = np.empty((len(rows) + lanes * (len(steps) + 1), 6), dtype=np.int64)
    count = 0
    whole = np.int64(0)
    for r in range(len(rows)):
        whole += rows[r, 3]
    capacity = np.int64(0)
    for k in range(len(steps)):
        capacity += size[k]
    for lane in range(lanes):
        mine = np.int64(0)
        for r in range(len(rows)):
            if rows[r, 0] == lane:
                mine += rows[r, 3]
        step, passed, gone = 0, np.int64(0), np.int64(0)
        edge = _edge(mine, size[0], capacity, len(steps) == 1)
        passed = size[0]
        for r in range(len(rows)):
            if rows[r, 0] != lane:
                continue
            rest = rows[r, 3]
            while rest > 0:
                while gone >= edge and step < len(steps) - 1:
                    step += 1
                    passed += size[step]
                    edge = _edge(mine, passed, capacity, step == len(steps) - 1)
                part = min(rest, edge - gone)
                found[count, 0] = left[rows[r, 1]]
                found[count, 1] = right[rows[r, 2]]
                found[count, 2] = left[out[lane]]
                found[count, 3] = right[into[lane]]
                found[count, 4] = part
                found[count, 5] = steps[step]
                count += 1
                rest -= part
                gone += part
    return found[:count].copy()


@njit(cache=True)
def _edge(mine: int, passed: int, capacity: int, last: bool) -> int:
    """How much of a lane's bytes has gone when ``passed`` of the rounds' bytes have."""
    if last:
        return mine
    return int(np.floor(float(mine) * (float(passed) / float(capacity))))
