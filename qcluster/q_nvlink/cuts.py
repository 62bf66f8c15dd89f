"""Sparsest cuts among GPUs: by enumeration for few, by flow for many, exact both ways.

Capacities are integers, MB/s, so that ratios of cuts compare without rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink._kernels import best_cut, max_flow

__all__ = ["ENUMERATED", "UNIT", "integer", "sparsest_cut", "twins"]

ENUMERATED = 12
"""GPUs up to which cuts are enumerated rather than found by flow."""
UNIT = 1000.0
"""Integers are MB/s."""


def integer(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """GB/s as whole MB/s."""
    return np.rint(matrix * UNIT).astype(np.int64)


def twins(cap: NDArray[np.int64], free: list[int], switches: list[int]) -> list[list[int]]:
    """Classes of interchangeable GPUs: swapping two of a class changes nothing."""
    nodes = np.array(free + switches, dtype=np.int64)
    classes: list[list[int]] = []
    for v in free:
        for members in classes:
            u = members[0]
            other = nodes[(nodes != u) & (nodes != v)]
            if (
                cap[u, v] == cap[v, u]
                and (cap[u, other] == cap[v, other]).all()
                and (cap[other, u] == cap[other, v]).all()
                # With a third member the links inside the class must be alike as well.
                and (len(members) < 2 or cap[u, v] == cap[members[0], members[1]])
            ):
                members.append(v)
                break
        else:
            classes.append([v])
    return classes


def sparsest_cut(
    cap: NDArray[np.int64], chosen: Sequence[int], switches: Sequence[int]
) -> tuple[float, float]:
    """(all-gather bandwidth, least cut) among ``chosen`` with the help of ``switches``."""
    k = len(chosen)
    useful = [w for w in switches if cap[w].any()]
    nodes = np.array([*chosen, *useful], dtype=np.int64)
    local = np.ascontiguousarray(cap[np.ix_(nodes, nodes)])
    if k == 1:
        return 0.0, 0.0
    if k <= ENUMERATED and not local[k:, k:].any():
        cut, size, least = best_cut(local, k)
        return k * int(cut) / int(size) / UNIT, int(least) / UNIT
    return _cut_by_flow(local, k)


def _cut_by_flow(local: NDArray[np.int64], k: int) -> tuple[float, float]:
    """The same by max-flow and Newton's method on the ratio (Dinkelbach, 1967), exact.

    A source feeds x into every GPU; x is attainable when each GPU can draw k x. A violated draw
    gives a cut with a smaller ratio, which is the next x. One GPU of each class of twins suffices.
    """
    classes = twins(local, list(range(k)), list(range(k, len(local))))
    targets = [members[0] for members in classes]
    # Any cut separates the first GPU from some other one; twins of that one cut alike.
    ends = targets[1:] + classes[0][1:2]
    least = min(min(int(max_flow(local, 0, v)[0]), int(max_flow(local, v, 0)[0])) for v in ends)
    num, den = int(local[:, targets[0]].sum()), k - 1
    for target in targets:
        while True:
            flow, side = _draw(local, k, target, num, den)
            if flow >= k * num:
                break
            inside = [v for v in range(len(local)) if side[v]]
            outside = [v for v in range(len(local)) if not side[v]]
            num = int(local[np.ix_(inside, outside)].sum())
            den = sum(1 for v in inside if v < k)
            if num == 0:
                return 0.0, 0.0
    return k * num / den / UNIT, least / UNIT


def _draw(
    local: NDArray[np.int64], k: int, target: int, num: int, den: int
) -> tuple[int, NDArray[np.bool_]]:
    """Flow into ``target`` when every GPU is fed num, link capacities times den."""
    m = len(local)
    graph = np.zeros((m + 1, m + 1), dtype=np.int64)
    graph[:m, :m] = local * den
    graph[m, :k] = num
    flow, side = max_flow(graph, m, target)
    return int(flow), side[:m]
