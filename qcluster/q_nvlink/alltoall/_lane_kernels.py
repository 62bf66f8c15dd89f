"""Compiled loops that spread bytes between two domains over their NICs and over rounds."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["cut_lanes", "fill_lanes", "spread_block"]


@njit(cache=True)
def _quotas(own: NDArray[np.int64], most: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bytes that each NIC takes, in all those of ``own``: its own GPU's as far as ``most`` (shares
    of all bytes, summing to at least 1) goes, and of the others' what it has room for.
    """
    total = own.sum()
    taken = np.minimum(own / total, most)
    room = most - taken
    rest = 1.0 - taken.sum()
    if rest > 0.0 and room.sum() > 0.0:
        taken += room * (rest / room.sum())
    taken /= taken.sum()
    found = np.empty(len(own), dtype=np.int64)
    done, before = 0.0, np.int64(0)
    for p in range(len(own)):
        done += taken[p]
        edge = total if p == len(own) - 1 else min(total, np.int64(np.rint(done * total)))
        found[p] = edge - before
        before = edge
    return found


@njit(cache=True)
def spread_block(
    block: NDArray[np.int64], left: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Which NICs carry the bytes of a pair of domains, with as few NVLink hand-overs as it goes.

    block (a, b) bytes; left (a,) and right (b,) are the largest shares that the NICs may take. Any
    NIC reaches any other. Every NIC takes its own GPU's bytes first, of all pairs alike. Returns
    rows (out, into, source, target, bytes), by (out, into).
    """
    a, b = block.shape
    own_out, own_in = block.sum(axis=1), block.sum(axis=0)
    spare_out, spare_in = _quotas(own_out, left), _quotas(own_in, right)
    keep_out, keep_in = np.minimum(own_out, spare_out), np.minimum(own_in, spare_in)
    spare_out -= keep_out
    spare_in -= keep_in
    row_seen, row_kept = np.zeros(a, dtype=np.int64), np.zeros(a, dtype=np.int64)
    col_seen, col_kept = np.zeros(b, dtype=np.int64), np.zeros(b, dtype=np.int64)
    rows = np.empty((3 * a * b + 2 * (a + b), 5), dtype=np.int64)
    count, p, q = 0, 0, 0
    for i in range(a):
        for j in range(b):
            volume = block[i, j]
            if volume == 0:
                continue
            row_seen[i] += volume
            col_seen[j] += volume
            mine = _part(row_seen[i], own_out[i], keep_out[i]) - row_kept[i]
            theirs = _part(col_seen[j], own_in[j], keep_in[j]) - col_kept[j]
            mine, theirs = min(mine, volume), min(theirs, volume)
            row_kept[i] += mine
            col_kept[j] += theirs
            while volume > 0:
                part, out, into = volume, i, j
                if mine > 0:
                    part = min(part, mine)
                else:
                    # Rounding may leave some bytes at the end: the last takes them.
                    while p < a - 1 and spare_out[p] <= 0:
                        p += 1
                    part, out = (min(part, spare_out[p]) if p < a - 1 else part), p
                if theirs > 0:
                    part = min(part, theirs)
                else:
                    while q < b - 1 and spare_in[q] <= 0:
                        q += 1
                    part, into = (min(part, spare_in[q]) if q < b - 1 else part), q
                if mine > 0:
                    mine -= part
                else:
                    spare_out[p] -= part
                if theirs > 0:
                    theirs -= part
                else:
                    spare_in[q] -= part
                volume -= part
                rows[count, 0], rows[count, 1] = out, into
                rows[count, 2], rows[count, 3], rows[count, 4] = i, j, part
                count += 1
    return rows[np.argsort(rows[:count, 0] * b + rows[:count, 1])]


@njit(cache=True)
def _part(seen: int, total: int, kept: int) -> int:
    """How much of ``kept`` has come when ``seen`` of ``total`` has; never more than has come."""
    if seen == total:
        return kept
    return min(kept, int(np.floor(float(kept) * (float(seen) / float(total)))))


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
