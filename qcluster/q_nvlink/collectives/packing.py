"""Packing spanning trees: every GPU's broadcast, all at once, within the links' capacities.

Edmonds (1973): trees rooted at every GPU can be packed whenever no cut is short. They are grown
edge by edge, each with as much of the remaining volume as leaves no cut short (Bérczi and Frank,
2010; as used by ForestColl, 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import SolverFailed
from qcluster.q_nvlink._kernels import max_flow

__all__ = ["Batch", "pack_trees"]

Ints = NDArray[np.int64]


@dataclass
class Batch:
    """``count`` equal trees of one root: their edges in the order they grew, parent first."""

    root: int
    count: int
    edges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def reached(self) -> list[int]:
        """The nodes of the trees."""
        return [self.root, *(v for _, v in self.edges)]


def pack_trees(cap: Ints, share: int) -> list[Batch]:
    """``share`` spanning trees from every node within ``cap`` (n, n), as batches of equal trees.

    Raises SolverFailed when there is no such packing.
    """
    n, left = len(cap), cap.copy()
    if (left + share * np.eye(n, dtype=np.int64) >= share).all():
        # Everyone reaches everyone directly: stars.
        return [Batch(r, share, [(r, v) for v in range(n) if v != r]) for r in range(n)]
    open_batches = [Batch(r, share) for r in range(n)]
    done: list[Batch] = []
    while open_batches:
        batch = open_batches[0]
        if len(batch.edges) == n - 1:
            done.append(open_batches.pop(0))
            continue
        x, y, amount = _edge(left, open_batches, batch)
        left[x, y] -= amount
        if amount < batch.count:
            open_batches.append(Batch(batch.root, batch.count - amount, batch.edges.copy()))
        batch.count = amount
        batch.edges.append((x, y))
    return done


def _edge(left: Ints, batches: list[Batch], batch: Batch) -> tuple[int, int, int]:
    """An edge that extends the batch, and for how many of its trees; the widest that there is."""
    reached = batch.reached
    depth = {batch.root: 0}
    for a, b in batch.edges:
        depth[b] = depth[a] + 1
    rows = [(x, y) for x in reached for y in range(len(left)) if y not in depth and left[x, y]]
    rows.sort(key=lambda e: (depth[e[0]], -min(int(left[e]), batch.count)))
    best = (-1, -1, 0)
    for x, y in rows:
        most = min(int(left[x, y]), batch.count)
        if most <= best[2]:
            continue
        amount = min(most, _slack(left, batches, batch, x, y, most))
        if amount > best[2]:
            best = (x, y, amount)
        if amount == batch.count:
            break
    if best[2] == 0:
        raise SolverFailed("no edge extends a tree: the cuts are short")
    return best


def _slack(left: Ints, batches: list[Batch], batch: Batch, x: int, y: int, most: int) -> int:
    """How much of edge x -> y no cut needs for other trees, at most ``most``.

    Only sets X that hold y and another node of the batch, but not x, lose by it: what enters X
    must cover every tree that has not reached X yet.
    """
    others = [v for v in batch.reached if v != x]
    if not others:
        return most
    n, total = len(left), sum(b.count for b in batches)
    far = int(left.sum()) + total + 1
    source, first = n, n + 1
    graph = np.zeros((n + 1 + len(batches), n + 1 + len(batches)), dtype=np.int64)
    graph[:n, :n] = left
    graph[source, x] = far
    for i, b in enumerate(batches):
        graph[source, first + i] = b.count
        graph[first + i, b.reached] = far
    least = most
    for v in others:
        graph[v, y] += far
        flow = int(max_flow(graph, source, y)[0])
        graph[v, y] -= far
        least = min(least, flow - total)
        if least <= 0:
            return 0
    return least
