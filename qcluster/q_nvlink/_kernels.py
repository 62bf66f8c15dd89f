"""Compiled inner loops of GPU choice and routing; each has a NumPy twin in ``reference.py``.

Capacities are integers (MB/s), so cuts and flows are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["best_cut", "hops_to", "max_flow", "neighbours", "rank_sets", "route_loads"]


@njit(cache=True)
def best_cut(cap: NDArray[np.int64], gpus: int) -> tuple[Any, Any, Any]:
    """Sparsest cut over all subsets of the first ``gpus`` nodes, by enumeration.

    cap (m, m) int64; nodes from ``gpus`` on are switches with no links among themselves, so each
    takes its cheaper side alone. Returns (cut, size, smallest cut): the subset S of GPUs with the
    least cut / |S|, as a fraction, and the least cut of any S.
    """
    m = cap.shape[0]
    best_num, best_den, least = np.int64(-1), np.int64(1), np.int64(-1)
    for mask in range(1, (1 << gpus) - 1):
        cut = np.int64(0)
        size = 0
        for u in range(gpus):
            if mask >> u & 1:
                size += 1
                for v in range(gpus):
                    if not mask >> v & 1:
                        cut += cap[u, v]
        for w in range(gpus, m):
            inflow, outflow = np.int64(0), np.int64(0)
            for u in range(gpus):
                if mask >> u & 1:
                    inflow += cap[u, w]
                else:
                    outflow += cap[w, u]
            cut += min(inflow, outflow)
        if least < 0 or cut < least:
            least = cut
        if best_num < 0 or cut * best_den < best_num * size:
            best_num, best_den = cut, np.int64(size)
    return best_num, best_den, least


@njit(cache=True)
def rank_sets(
    fast: NDArray[np.int64],
    cap: NDArray[np.int64],
    switches: NDArray[np.int64],
    sets: NDArray[np.int64],
    order: NDArray[np.int64],
    ceiling: NDArray[np.float64],
    best: float,
) -> NDArray[np.float64]:
    """k times the sparsest cut of each set (sets, k), over fast links if these join it.

    Sets are taken in ``order``, which must descend by ``ceiling`` (sets,), an upper bound in the
    units of ``cap``; once it falls below ``best`` or the best value since, the rest cannot win and
    stays at -1.
    """
    k = sets.shape[1]
    m = k + len(switches)
    nodes = np.empty(m, dtype=np.int64)
    nodes[k:] = switches
    value = np.full(len(sets), -1.0)
    for position in order:
        if ceiling[position] < best * (1.0 - 1e-12):
            break
        nodes[:k] = sets[position]
        local = np.empty((m, m), dtype=np.int64)
        for layer in range(2):
            source = fast if layer == 0 else cap
            for i in range(m):
                for j in range(m):
                    local[i, j] = source[nodes[i], nodes[j]]
            num, den, least = best_cut(local, k)
            value[position] = k * num / den
            if least > 0:
                break
        best = max(best, value[position])
    return value


@njit(cache=True)
def neighbours(joined: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a (n, n) mask as lists: columns of row u are ``near[first[u]:first[u + 1]]``."""
    n = joined.shape[0]
    first = np.zeros(n + 1, dtype=np.int64)
    for u in range(n):
        first[u + 1] = first[u] + joined[u].sum()
    near = np.empty(first[n], dtype=np.int64)
    for u in range(n):
        place = first[u]
        for v in range(n):
            if joined[u, v]:
                near[place] = v
                place += 1
    return first, near


@njit(cache=True)
def hops_to(
    first: NDArray[np.int64], back: NDArray[np.int64], passing: NDArray[np.bool_], target: int
) -> NDArray[np.int64]:
    """(n,) hops from every node to ``target`` over nodes that pass traffic on; -1: none lead.

    first, back: the ``neighbours`` that links come from; passing (n,).
    """
    n = len(passing)
    level = np.full(n, -1, dtype=np.int64)
    queue = np.empty(n, dtype=np.int64)
    level[target], queue[0] = 0, target
    head, tail = 0, 1
    while head < tail:
        here = queue[head]
        head += 1
        if here != target and not passing[here]:
            continue
        for place in range(first[here], first[here + 1]):
            there = back[place]
            if level[there] < 0:
                level[there] = level[here] + 1
                queue[tail] = there
                tail += 1
    return level


@njit(cache=True)
def max_flow(cap: NDArray[np.int64], source: int, sink: int) -> tuple[Any, NDArray[np.bool_]]:
    """Maximum flow by shortest augmenting paths on a dense residual matrix.

    cap (n, n) int64, not changed. Returns (flow, side): side (n,) marks the source's side of a
    minimum cut. Edmonds and Karp, 1972.
    """
    n = cap.shape[0]
    rest = cap.copy()
    first, near = neighbours((cap > 0) | (cap.T > 0))
    parent = np.empty(n, dtype=np.int64)
    queue = np.empty(n, dtype=np.int64)
    total = np.int64(0)
    while True:
        parent[:] = -1
        parent[source] = source
        queue[0] = source
        head, tail = 0, 1
        while head < tail and parent[sink] < 0:
            u = queue[head]
            head += 1
            for place in range(first[u], first[u + 1]):
                v = near[place]
                if parent[v] < 0 and rest[u, v] > 0:
                    parent[v] = u
                    queue[tail] = v
                    tail += 1
        if parent[sink] < 0:
            return total, parent >= 0
        push = np.int64(2**62)
        v = sink
        while v != source:
            push = min(push, rest[parent[v], v])
            v = parent[v]
        v = sink
        while v != source:
            rest[parent[v], v] -= push
            rest[v, parent[v]] += push
            v = parent[v]
        total += push


@njit(cache=True)
def _levels_from(
    source: int,
    cap: NDArray[np.float64],
    first: NDArray[np.int64],
    near: NDArray[np.int64],
    transit: NDArray[np.bool_],
    flow: NDArray[np.float64],
    left: int,
    level: NDArray[np.int64],
    reach: NDArray[np.float64],
    queue: NDArray[np.int64],
) -> tuple[int, int]:
    """Breadth first from ``source`` until the ``left`` nodes with ``flow`` (n,) are found.

    Fills level (n,), hops or -1; reach (n,), what the shortest paths there can carry; and the
    first part of queue (n,), the nodes in order. Returns its length and how many are not found.
    """
    level[:] = -1
    level[source] = 0
    reach[:] = 0.0
    reach[source] = np.inf
    queue[0] = source
    head, tail, deepest = 0, 1, len(level)
    while head < tail:
        u = queue[head]
        head += 1
        if level[u] >= deepest:
            break
        if u != source and not transit[u]:
            continue
        for place in range(first[u], first[u + 1]):
            v = near[place]
            if level[v] < 0:
                level[v] = level[u] + 1
                queue[tail] = v
                tail += 1
                if flow[v] > 0:
                    left -= 1
                    if left == 0:
                        deepest = level[v]  # nobody beyond is asked for
            if level[v] == level[u] + 1:
                reach[v] += min(reach[u], cap[u, v])
    return tail, left


@njit(cache=True)
def route_loads(
    cap: NDArray[np.float64],
    first: NDArray[np.int64],
    near: NDArray[np.int64],
    back_first: NDArray[np.int64],
    back: NDArray[np.int64],
    transit: NDArray[np.bool_],
    ends: NDArray[np.int64],
    demand: NDArray[np.float64],
    loads: NDArray[np.float64],
) -> tuple[int, int]:
    """Send every demand over its shortest paths, split by what each path can carry.

    cap (n, n) float64 with its ``neighbours`` forwards and backwards; transit (n,) bool: nodes that
    pass traffic on; ends (k,) nodes and demand (k, k) float64 between them; loads (n, n) float64 is
    added to. A node's share among its predecessors follows the capacity from the source up to it.
    Returns the first (source, target) that has no path, or (-1, -1).
    """
    n, k = cap.shape[0], len(ends)
    level = np.empty(n, dtype=np.int64)
    queue = np.empty(n, dtype=np.int64)
    reach = np.empty(n, dtype=np.float64)
    flow = np.zeros(n, dtype=np.float64)
    for row in range(k):
        source = ends[row]
        left = 0
        flow[:] = 0.0
        for column in range(k):
            if column != row and demand[row, column] > 0:
                flow[ends[column]] = demand[row, column]
                left += 1
        if left == 0:
            continue
        tail, left = _levels_from(
            source, cap, first, near, transit, flow, left, level, reach, queue
        )
        if left > 0:
            for column in range(k):
                if column != row and demand[row, column] > 0 and level[ends[column]] < 0:
                    return source, ends[column]
        for position in range(tail - 1, 0, -1):
            v = queue[position]
            if flow[v] <= 0:
                continue
            for place in range(back_first[v], back_first[v + 1]):
                u = back[place]
                if level[u] >= 0 and level[u] == level[v] - 1 and (u == source or transit[u]):
                    share = flow[v] * min(reach[u], cap[u, v]) / reach[v]
                    loads[u, v] += share
                    flow[u] += share
    return -1, -1
