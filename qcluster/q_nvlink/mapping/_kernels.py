"""Compiled robust tabu search for quadratic assignment; its twin is in ``reference.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["enumerate_all", "tabu"]


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
    x, y = np.empty(m), np.empty(m)
    u, v = np.empty(m), np.empty(m)
    now, least = 0.0, 0.0
    best[:] = p
    seed = state[0]
    shortest, spread = np.int64(0.9 * m), np.uint64(1 + m // 5)
    patience = np.int64(m) * m * 5
    forced = False
    aspired = False
    for time in range(1, steps + 1):
        r, s, value, forced = -1, -1, np.inf, False
        for i in range(ranks):
            for j in range(i + 1, m):
                change = delta[i, j]
                if change >= value and not forced and until[i, p[j]] >= time - patience:
                    continue
                old = until[i, p[j]] < time - patience and until[j, p[i]] < time - patience
                free = until[i, p[j]] < time or until[j, p[i]] < time
                aspired = bool(now + change < least - 1e-9 or (old and time > patience))
                if not (free or aspired):
                    continue
                if (aspired and not forced) or (aspired == forced and change < value):
                    r, s, value, forced = i, j, change, aspired
        if r < 0:
            continue
        seed ^= seed << np.uint64(13)
        seed ^= seed >> np.uint64(7)
        seed ^= seed << np.uint64(17)
        until[r, p[r]] = time + shortest + np.int64(seed % spread)
        seed ^= seed << np.uint64(13)
        seed ^= seed >> np.uint64(7)
        seed ^= seed << np.uint64(17)
        until[s, p[s]] = time + shortest + np.int64(seed % spread)
        p[r], p[s] = p[s], p[r]
        now += value
        if now < least - 1e-9:
            least = now
            best[:] = p
        # Swapping r and s changes another pair's delta by a product of differences.
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
