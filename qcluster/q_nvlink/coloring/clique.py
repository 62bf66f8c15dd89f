"""Large cliques as lower bounds for colouring: greedy from every vertex, then branch and bound.

Sets of vertices are Python integers used as bit sets. The bound of the search is a greedy
colouring of the candidates (Tomita and Seki, 2003). Whatever is found is a clique, so the bound is
a proof even when time runs out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline

__all__ = ["large_clique"]


def large_clique(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], *, deadline: Deadline
) -> tuple[int, ...]:
    """The largest clique found in time, as sorted vertices; empty only for an empty graph.

    Parameters
    ----------
    indptr, indices: adjacency in CSR form, (n + 1,) and (entries,).
    """
    n = len(indptr) - 1
    near = []
    for v in range(n):
        mask = 0
        for u in indices[indptr[v] : indptr[v + 1]].tolist():
            mask |= 1 << u
        near.append(mask)
    best: list[int] = []
    for v in sorted(range(n), key=lambda v: -(near[v].bit_count())):
        if near[v].bit_count() < len(best):
            break
        grown = _grow(near, v)
        if len(grown) > len(best):
            best = grown
        if deadline.expired:
            return tuple(sorted(best))
    return tuple(sorted(_search(near, best, deadline)))


def _grow(near: list[int], v: int) -> list[int]:
    """A maximal clique with ``v``: the candidate with most candidates beside it comes next."""
    clique, rest = [v], near[v]
    while rest:
        best, most = -1, -1
        left = rest
        while left:
            bit = left & -left
            left ^= bit
            u = bit.bit_length() - 1
            degree = (near[u] & rest).bit_count()
            if degree > most:
                best, most = u, degree
        clique.append(best)
        rest &= near[best]
    return clique


def _search(near: list[int], best: list[int], deadline: Deadline) -> list[int]:
    """Branch and bound with an explicit stack of (clique, candidates in order, their bounds)."""
    everyone = (1 << len(near)) - 1
    stack: list[tuple[list[int], int, list[int], list[int]]] = []
    if near:
        stack.append(([], everyone, *_order(near, everyone)))
    looks = 0
    while stack:
        clique, candidates, order, bounds = stack[-1]
        if not order or len(clique) + bounds[-1] <= len(best):
            stack.pop()
            continue
        looks += 1
        if looks % 64 == 0 and deadline.expired:
            return best
        v = order.pop()
        bounds.pop()
        stack[-1] = (clique, candidates & ~(1 << v), order, bounds)
        grown, rest = [*clique, v], candidates & near[v]
        if rest:
            stack.append((grown, rest, *_order(near, rest)))
        elif len(grown) > len(best):
            best = grown
    return best


def _order(near: list[int], candidates: int) -> tuple[list[int], list[int]]:
    """Candidates by greedy colour classes, and the colours needed up to each."""
    order, bounds, color = [], [], 0
    while candidates:
        color += 1
        free = candidates
        while free:
            bit = free & -free
            v = bit.bit_length() - 1
            candidates ^= bit
            free &= ~(bit | near[v])
            order.append(v)
            bounds.append(color)
    return order, bounds
