"""Compiled robust tabu search for quadratic assignment; its twin is in ``reference.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_nvlink._random import xorshift

__all__ = ["enumerate_all", "tabu", "tabu_symmetric"]


@njit(cache=True)
def _delta(
    flow: NDArray[np.float64], dist: NDArray[np.float64], p: NDArray[np.int64], i: int, j: int
) -> Any:
    """Change of the objective when i and j swap locations; any matrices, diagonals included."""
    a, b = p[i], p[j]
    change = (flow[i, i] - flow[j, j]) * (dist[b, b] - dist[a, a])
    change += (flow[i, j] - flow[j, i]) * (dist[b, a] - dist[a, b])
    for k in range(len(p)):
        if k != i and k != j:
            c = p[k]
            change += (flow[k, i] - flow[k, j]) * (dist[c, b] - dist[c, a])
            change += (flow[i, k] - flow[j, k]) * (dist[b, c] - dist[a, c])
    return change


@njit(cache=True)
def _best_swap(
    delta: NDArray[np.float64],
    until: NDArray[np.int64],
    p: NDArray[np.int64],
    ranks: int,
    time: int,
    lead: float,
) -> tuple[int, int]:
    """The best swap that is not tabu, or that beats the best by more than ``lead``, or that has
    not been made for long (Taillard's second aspiration); (-1, -1) when all are tabu.
    """
    m = len(p)
    patience = np.int64(m) * m * 5
    r, s, value, forced = -1, -1, np.inf, False
    for i in range(ranks):
        for j in range(i + 1, m):
            change = delta[i, j]
            if change >= value and time <= patience:
                continue
            here, there = until[i, p[j]], until[j, p[i]]
            old = time > patience and here < time - patience and there < time - patience
            aspired = bool(change < lead or old)
            if not (aspired or here < time or there < time):
                continue
            if (aspired and not forced) or (aspired == forced and change < value):
                r, s, value, forced = i, j, change, aspired
    return r, s


@njit(inline="always")
def _forbid(
    until: NDArray[np.int64], p: NDArray[np.int64], r: int, s: int, time: int, seed: Any
) -> Any:
    """Bar r and s from where they are for a random while; the next random state."""
    m = len(p)
    for e in (r, s):
        seed = xorshift(seed)
        until[e, p[e]] = time + np.int64(0.9 * m) + np.int64(seed % np.uint64(1 + m // 5))
    return seed


@njit(cache=True)
def _follow_swap(
    flow: NDArray[np.float64],
    dist: NDArray[np.float64],
    p: NDArray[np.int64],
    ranks: int,
    r: int,
    s: int,
    delta: NDArray[np.float64],
) -> None:
    """Bring ``delta`` up to date after r and s swapped.

    That changes another pair's delta by a product of differences.
    """
    m = len(p)
    x, y, u, v = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    a, b = p[r], p[s]
    for k in range(m):
        c = p[k]
        x[k] = flow[r, k] - flow[s, k]
        y[k] = dist[b, c] - dist[a, c]
        u[k] = flow[k, r] - flow[k, s]
        v[k] = dist[c, b] - dist[c, a]
    for i in range(ranks):
        if i in (r, s):
            continue
        xi, yi, ui, vi = x[i], y[i], u[i], v[i]
        for j in range(i + 1, m):
            delta[i, j] += (xi - x[j]) * (yi - y[j]) + (ui - u[j]) * (vi - v[j])
    for k in range(m):
        for e in (r, s):
            if k != e:
                i, j = min(k, e), max(k, e)
                if i < ranks:
                    delta[i, j] = _delta(flow, dist, p, i, j)


@njit(cache=True)
def tabu(
    flow: NDArray[np.float64],
    dist: NDArray[np.float64],
    ranks: int,
    p: NDArray[np.int64],
    best: NDArray[np.int64],
    steps: int,
    state: NDArray[np.uint64],
) -> float:
    """Robust tabu search (Taillard, 1991) for ``steps`` swaps from ``p`` (m,).

    flow and dist (m, m) float64; rows of flow from ``ranks`` on are empty, and swaps among them
    are left out. ``p`` ends where the search ends; ``best`` gets the best location seen. state (1,)
    is the random state. Returns the change of the objective from the first ``p`` to ``best``.
    """
    m = len(p)
    delta = np.zeros((m, m))
    for i in range(ranks):
        for j in range(i + 1, m):
            delta[i, j] = _delta(flow, dist, p, i, j)
    until = np.zeros((m, m), dtype=np.int64)
    now, least = 0.0, 0.0
    best[:] = p
    seed = state[0]
    for time in range(1, steps + 1):
        r, s = _best_swap(delta, until, p, ranks, time, least - now - 1e-9)
        if r < 0:
            continue
        now += delta[r, s]
        seed = _forbid(until, p, r, s, time, seed)
        p[r], p[s] = p[s], p[r]
        if now < least - 1e-9:
            least = now
            best[:] = p
        _follow_swap(flow, dist, p, ranks, r, s, delta)
    state[0] = seed
    return least


@njit(cache=True, fastmath={"reassoc", "contract"})
def _delta_symmetric(flow: NDArray[np.float64], near: NDArray[np.float64], i: int, j: int) -> Any:
    """As ``_delta``, for symmetric matrices without diagonal; near[i, k] is dist[p[i], p[k]]."""
    fi, fj, ni, nj = flow[i], flow[j], near[i], near[j]
    change = 0.0
    for k in range(len(fi)):
        change += (fi[k] - fj[k]) * (nj[k] - ni[k])
    # The terms of i and j themselves do not change.
    change -= (fi[i] - fj[i]) * (nj[i] - ni[i]) + (fi[j] - fj[j]) * (nj[j] - ni[j])
    return 2.0 * change


@njit(cache=True)
def tabu_symmetric(
    flow: NDArray[np.float64],
    dist: NDArray[np.float64],
    ranks: int,
    p: NDArray[np.int64],
    best: NDArray[np.int64],
    steps: int,
    state: NDArray[np.uint64],
) -> float:
    """``tabu`` for symmetric matrices with empty diagonals, several times faster."""
    m = len(p)
    near = np.empty((m, m))
    for i in range(m):
        for k in range(m):
            near[i, k] = dist[p[i], p[k]]
    delta = np.zeros((m, m))
    for i in range(ranks):
        for j in range(i + 1, m):
            delta[i, j] = _delta_symmetric(flow, near, i, j)
    until = np.zeros((m, m), dtype=np.int64)
    now, least = 0.0, 0.0
    best[:] = p
    seed = state[0]
    for time in range(1, steps + 1):
        r, s = _best_swap(delta, until, p, ranks, time, least - now - 1e-9)
        if r < 0:
            continue
        now += delta[r, s]
        seed = _forbid(until, p, r, s, time, seed)
        x, y = flow[r] - flow[s], near[r] - near[s]
        p[r], p[s] = p[s], p[r]
        for k in range(m):
            near[r, k], near[s, k] = near[s, k], near[r, k]
        for k in range(m):
            near[k, r], near[k, s] = near[k, s], near[k, r]
        if now < least - 1e-9:
            least = now
            best[:] = p
        # Swapping r and s changes another pair's delta by a product of differences.
        for i in range(ranks):
            if i not in (r, s):
                xi, yi = x[i], y[i]
                for j in range(i + 1, m):
                    delta[i, j] += 2.0 * (xi - x[j]) * (yi - y[j])
        for k in range(m):
            for e in (r, s):
                if k != e and min(k, e) < ranks:
                    delta[min(k, e), max(k, e)] = _delta_symmetric(flow, near, k, e)
    state[0] = seed
    return least


@njit(cache=True)
def enumerate_all(
    flow: NDArray[np.float64], dist: NDArray[np.float64], best: NDArray[np.int64]
) -> float:
    """The optimum by depth-first search over all placements of n ranks on m locations.

    flow (n, n), dist (m, m), both non-negative, so that a partial cost is a bound. ``best`` (n,)
    gets the locations.
    """
    n, m = len(flow), len(dist)
    where = np.full(n, -1, dtype=np.int64)
    taken = np.zeros(m, dtype=np.bool_)
    cost = np.zeros(n + 1)
    least = np.inf
    level = 0
    while level >= 0:
        if level == n:
            if cost[n] < least:
                least = cost[n]
                best[:] = where
            level -= 1
            continue
        here = where[level]
        if here >= 0:
            taken[here] = False
        here += 1
        while here < m and taken[here]:
            here += 1
        if here == m:
            where[level] = -1
            level -= 1
            continue
        where[level] = here
        taken[here] = True
        more = flow[level, level] * dist[here, here]
        for k in range(level):
            more += flow[level, k] * dist[here, where[k]] + flow[k, level] * dist[where[k], here]
        cost[level + 1] = cost[level] + more
        if cost[level + 1] < least:
            level += 1
            if level < n:
                where[level] = -1
    return least
