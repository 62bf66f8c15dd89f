"""Compiled loops of partitioning under hard capacities; ``reference.py`` has the plain twins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_nvlink._random import xorshift

__all__ = ["cluster", "contract", "refine"]

_SCANNED = 96  # nodes up to which every pair is looked at in every step
_AGAIN = 12  # steps after which everything is listed anew
_KEPT = 3  # candidates that are kept for each pair of domains beyond


@njit(cache=True)
def cluster(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    same: NDArray[np.int64],
    order: NDArray[np.int64],
    most: int,
) -> tuple[NDArray[np.int64], int]:
    """Match each node with the neighbour it talks to most for both sizes; (n,) labels, how many.

    weight (n, n) symmetric, size (n,). Only nodes of one label in ``same`` (n,) are matched, and
    to at most ``most`` together; ``order`` (n,) says who chooses first.
    """
    n = len(size)
    label = np.full(n, -1, dtype=np.int64)
    count = 0
    for i in order:
        if label[i] >= 0:
            continue
        best, rating = -1, 0.0
        for j in range(n):
            if j != i and label[j] < 0 and same[j] == same[i] and size[i] + size[j] <= most:
                value = weight[i, j] / (size[i] * size[j])
                if value > rating:
                    best, rating = j, value
        label[i] = count
        if best >= 0:
            label[best] = count
        count += 1
    return label, count


@njit(cache=True)
def contract(
    weight: NDArray[np.float64], label: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """The weights between clusters (count, count); what stays inside one is left out."""
    n = len(label)
    rows = np.zeros((count, n))
    for i in range(n):
        a = label[i]
        for j in range(n):
            rows[a, j] += weight[i, j]
    found = np.zeros((count, count))
    for a in range(count):
        for j in range(n):
            found[a, label[j]] += rows[a, j]
        found[a, a] = 0.0
    return found


@njit(cache=True)
def _ties(weight: NDArray[np.float64], part: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """(n, k) what each node exchanges with each domain."""
    n = len(part)
    ties = np.zeros((n, k))
    for i in range(n):
        for j in range(n):
            ties[i, part[j]] += weight[i, j]
    return ties


@njit(cache=True)
def _scan(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    part: NDArray[np.int64],
    ties: NDArray[np.float64],
    room: NDArray[np.int64],
    until: NDArray[np.int64],
    time: int,
    lead: float,
) -> tuple[int, int, int, float]:
    """The best swap (i, j, -1) or move (i, -1, domain) of all, and what it gains.

    Tabu ones only where they beat the best by more than ``lead``.
    """
    n, k = ties.shape
    bi, bj, bd, best = -1, -1, -1, -np.inf
    for i in range(n):
        a = part[i]
        own = ties[i, a]
        for d in range(k):
            if d != a and size[i] <= room[d]:
                gain = ties[i, d] - own
                if gain > best and (gain > lead or until[i, d] < time):
                    bi, bj, bd, best = i, -1, d, gain
        for j in range(i + 1, n):
            b = part[j]
            if a == b or size[j] - size[i] > room[a] or size[i] - size[j] > room[b]:
                continue
            gain = ties[i, b] - own + ties[j, a] - ties[j, b] - 2.0 * weight[i, j]
            if gain > best and (gain > lead or (until[i, b] < time and until[j, a] < time)):
                bi, bj, bd, best = i, j, -1, gain
    return bi, bj, bd, best


@njit(cache=True)
def _list(
    part: NDArray[np.int64],
    ties: NDArray[np.float64],
    until: NDArray[np.int64],
    time: int,
    lead: float,
    a: int,
    b: int,
    top: NDArray[np.int64],
    value: NDArray[np.float64],
) -> None:
    """Who most wants to leave and where: rows and columns a and b of ``top`` and ``value``.

    top and value (k, k, _KEPT): nodes of one domain that gain most in another, and how much. All
    rows where ``a`` is negative. Tabu nodes only where they beat the best by more than ``lead``.
    """
    n, k = ties.shape
    if a < 0:
        value[:] = -np.inf
    else:
        value[a], value[b] = -np.inf, -np.inf
        value[:, a], value[:, b] = -np.inf, -np.inf
    for i in range(n):
        here = part[i]
        own = ties[i, here]
        whole = a < 0 or here in (a, b)
        for step in range(k if whole else 2):
            d = step
            if not whole:
                d = a if step == 0 else b
            if d == here:
                continue
            gain = ties[i, d] - own
            if gain <= value[here, d, _KEPT - 1] or (until[i, d] >= time and gain <= lead):
                continue
            place = _KEPT - 1
            while place > 0 and gain > value[here, d, place - 1]:
                value[here, d, place] = value[here, d, place - 1]
                top[here, d, place] = top[here, d, place - 1]
                place -= 1
            value[here, d, place] = gain
            top[here, d, place] = i


@njit(cache=True)
def _pair(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    room: NDArray[np.int64],
    a: int,
    b: int,
    top: NDArray[np.int64],
    value: NDArray[np.float64],
) -> tuple[int, int, int, float]:
    """The best swap (i, j, -1) or move (i, -1, domain) between two domains, of those listed."""
    bi, bj, bd, best = -1, -1, -1, -np.inf
    for c, d in ((a, b), (b, a)):
        for x in range(_KEPT):
            if value[c, d, x] <= best:
                break
            if size[top[c, d, x]] <= room[d]:
                bi, bj, bd, best = top[c, d, x], -1, d, value[c, d, x]
    for x in range(_KEPT):
        if value[a, b, x] + value[b, a, 0] <= best:
            break
        i = top[a, b, x]
        for y in range(_KEPT):
            gain = value[a, b, x] + value[b, a, y]
            if gain <= best:
                break
            j = top[b, a, y]
            if size[j] - size[i] > room[a] or size[i] - size[j] > room[b]:
                continue
            gain -= 2.0 * weight[i, j]
            if gain > best:
                bi, bj, bd, best = i, j, -1, gain
    return bi, bj, bd, best


@njit(cache=True)
def _listed(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    room: NDArray[np.int64],
    a: int,
    b: int,
    top: NDArray[np.int64],
    value: NDArray[np.float64],
    chosen: NDArray[np.int64],
    gains: NDArray[np.float64],
) -> tuple[int, int, int, float]:
    """As ``_scan``, for many nodes: only those listed are paired.

    chosen (k, k, 3) and gains (k, k) keep every pair of domains' best step; those of a and b are
    made anew, or all where ``a`` is negative.
    """
    k = len(room)
    bc, bd, best = -1, -1, -np.inf
    for c in range(k):
        for d in range(c + 1, k):
            if a < 0 or c in (a, b) or d in (a, b):
                i, j, e, gain = _pair(weight, size, room, c, d, top, value)
                chosen[c, d, 0], chosen[c, d, 1], chosen[c, d, 2] = i, j, e
                gains[c, d] = gain
            if gains[c, d] > best:
                bc, bd, best = c, d, gains[c, d]
    if bc < 0:
        return -1, -1, -1, best
    return chosen[bc, bd, 0], chosen[bc, bd, 1], chosen[bc, bd, 2], best


@njit(cache=True)
def _shift(
    weight: NDArray[np.float64],
    part: NDArray[np.int64],
    ties: NDArray[np.float64],
    i: int,
    d: int,
) -> None:
    """Put node i in domain d."""
    a = part[i]
    part[i] = d
    for j in range(len(part)):
        w = weight[i, j]
        if w != 0.0:
            ties[j, a] -= w
            ties[j, d] += w


@njit(cache=True)
def _take(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    part: NDArray[np.int64],
    ties: NDArray[np.float64],
    room: NDArray[np.int64],
    until: NDArray[np.int64],
    tenure: int,
    i: int,
    j: int,
    d: int,
) -> tuple[int, int]:
    """Swap nodes i and j, or move i to domain d where j is negative; the two domains."""
    a = part[i]
    until[i, a] = tenure
    if j < 0:
        room[a] += size[i]
        room[d] -= size[i]
        _shift(weight, part, ties, i, d)
        return a, d
    b = part[j]
    until[j, b] = tenure
    room[a] += size[i] - size[j]
    room[b] += size[j] - size[i]
    _shift(weight, part, ties, i, b)
    _shift(weight, part, ties, j, a)
    return a, b


@njit(cache=True)
def refine(
    weight: NDArray[np.float64],
    size: NDArray[np.int64],
    part: NDArray[np.int64],
    capacity: NDArray[np.int64],
    patience: int,
    state: NDArray[np.uint64],
) -> Any:
    """Tabu search over swaps and moves that keep every domain within its capacity.

    weight (n, n) symmetric without diagonal, size (n,), part (n,) feasible, capacity (k,). Ends
    ``patience`` steps after the last better best; ``part`` becomes the best seen. Returns how much
    less crosses. The tenure is random (Taillard, 1991).
    """
    n, k = len(part), len(capacity)
    ties = _ties(weight, part, k)
    room = capacity.copy()
    for i in range(n):
        room[part[i]] -= size[i]
    until = np.full((n, k), -1, dtype=np.int64)
    top = np.empty((k, k, _KEPT), dtype=np.int64)
    value = np.empty((k, k, _KEPT))
    chosen = np.empty((k, k, 3), dtype=np.int64)
    gains = np.empty((k, k))
    c, d = -1, -1  # the domains of the last step
    best = part.copy()
    now, least = 0.0, 0.0
    seed, last, time = state[0], 0, 0
    tiny = 1e-12 * max(1.0, weight.sum())
    spread = np.uint64(3 + min(20, n // 8))
    while time - last < patience:
        time += 1
        lead = least - now + tiny
        if n <= _SCANNED:
            i, j, d, gain = _scan(weight, size, part, ties, room, until, time, lead)
        else:
            if time % _AGAIN == 0:
                c = -1  # some are not tabu any more
            _list(part, ties, until, time, lead, c, d, top, value)
            i, j, e, gain = _listed(weight, size, room, c, d, top, value, chosen, gains)
            d = e
        if i < 0:
            c = -1
            if time - last > n:
                break
            continue
        seed = xorshift(seed)
        tenure = time + 2 + np.int64(seed % spread)
        c, d = _take(weight, size, part, ties, room, until, tenure, i, j, d)
        now += gain
        if now > least + tiny:
            least = now
            best[:] = part
            last = time
    part[:] = best
    state[0] = seed
    return least
