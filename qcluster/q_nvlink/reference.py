"""Plain NumPy twins of the compiled kernels: slow, short, and what the tests compare against."""

from __future__ import annotations

from collections import deque
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_cut", "hops_to", "max_flow", "route_loads"]


def best_cut(cap: NDArray[np.int64], gpus: int) -> tuple[int, int, int]:
    """See ``_kernels.best_cut``."""
    found: tuple[float, int, int] | None = None
    least = None
    for size in range(1, gpus):
        for chosen in combinations(range(gpus), size):
            rest = [u for u in range(gpus) if u not in chosen]
            inside = list(chosen)
            cut = int(cap[np.ix_(inside, rest)].sum())
            for w in range(gpus, len(cap)):
                cut += int(min(cap[inside, w].sum(), cap[w, rest].sum()))
            least = cut if least is None else min(least, cut)
            if found is None or cut / size < found[0]:
                found = (cut / size, cut, size)
    if found is None or least is None:
        return -1, 1, -1
    return found[1], found[2], least


def max_flow(cap: NDArray[np.int64], source: int, sink: int) -> int:
    """The value of a maximum flow; see ``_kernels.max_flow``."""
    rest, total = np.array(cap, dtype=np.int64), 0
    while True:
        parent = {source: source}
        queue = deque([source])
        while queue and sink not in parent:
            here = queue.popleft()
            for there in np.flatnonzero(rest[here] > 0).tolist():
                if there not in parent:
                    parent[there] = here
                    queue.append(there)
        if sink not in parent:
            return total
        path = [sink]
        while path[-1] != source:
            path.append(parent[path[-1]])
        hops = [(b, a) for a, b in pairwise(path)]
        push = min(int(rest[hop]) for hop in hops)
        for a, b in hops:
            rest[a, b] -= push
            rest[b, a] += push
        total += push


def route_loads(
    cap: NDArray[np.float64], transit: NDArray[np.bool_], demand: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Loads (n, n) of every link; see ``_kernels.route_loads``. Every demand must have a path."""
    n = len(cap)
    loads = np.zeros((n, n))
    for source in range(n):
        level = np.full(n, -1)
        level[source] = 0
        reach = np.zeros(n)
        reach[source] = np.inf
        here = [source]
        while here:
            passing = [u for u in here if u == source or transit[u]]
            there = [v for v in range(n) if level[v] < 0 and (cap[passing, v] > 0).any()]
            for v in there:
                reach[v] = sum(min(reach[u], cap[u, v]) for u in passing if cap[u, v] > 0)
            level[there] = level[here[0]] + 1
            here = there
        flow = np.where(np.arange(n) == source, 0.0, demand[source])
        for v in np.argsort(-level, kind="stable"):
            if flow[v] <= 0 or v == source:
                continue
            for u in np.flatnonzero((level == level[v] - 1) & (cap[:, v] > 0)):
                if u == source or transit[u]:
                    share = flow[v] * min(reach[u], cap[u, v]) / reach[v]
                    loads[u, v] += share
                    flow[u] += share
    return loads


def hops_to(cap: NDArray[np.float64], passing: NDArray[np.bool_], target: int) -> list[int]:
    """Hops from every node to ``target``, -1 where none lead; see ``_kernels.hops_to``."""
    level = [-1] * len(cap)
    level[target], here = 0, [target]
    while here:
        ends = [v for v in here if v == target or passing[v]]
        here = [u for u in range(len(cap)) if level[u] < 0 and (cap[u, ends] > 0).any()]
        for u in here:
            level[u] = level[ends[0]] + 1
    return level
