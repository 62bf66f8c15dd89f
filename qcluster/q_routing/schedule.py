"""In which order a replan's copies travel: rounds in which no GPU sends or receives twice.

A set of transfers is a bipartite multigraph of senders and receivers, and its rounds are an edge
colouring; as many rounds as the busiest GPU has transfers are enough (Koenig 1916), and this finds
that many.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_routing.problem import Placement

__all__ = ["move_rounds"]


def move_rounds(placement: Placement) -> list[list[int]]:
    """Rows of ``placement.moves`` in rounds, as few as possible.

    In a round every GPU sends at most one expert and receives at most one. Moves within a GPU cost
    no transfer and stand in the first round; so do experts that no slot held before, which come
    from elsewhere. All rounds read the weights as they were before the first.
    """
    free, edges = [], []
    for row, (_, slot, _, source) in enumerate(placement.moves.tolist()):
        there = int(placement.gpu_of_slot[slot])
        here = there if source < 0 else int(placement.gpu_of_slot[source])
        if here == there:
            free.append(row)
        else:
            edges.append((row, here, there))
    color = _color([(a, b) for _, a, b in edges], placement.num_gpus)
    rounds: list[list[int]] = [[] for _ in range(max(color, default=-1) + 1)]
    for (row, _, _), c in zip(edges, color, strict=True):
        rounds[c].append(row)
    if free:
        rounds = [free + rounds[0], *rounds[1:]] if rounds else [free]
    return rounds


def _color(edges: list[tuple[int, int]], gpus: int) -> list[int]:
    """A colour for each edge, no two alike at a sender or at a receiver."""
    out = np.bincount([a for a, _ in edges], minlength=gpus)
    into = np.bincount([b for _, b in edges], minlength=gpus)
    degree = int(max(out.max(initial=0), into.max(initial=0)))
    # used[side][vertex][colour]: the edge there, or -1.
    used = np.full((2, gpus, degree), -1, dtype=np.int64)
    color = [-1] * len(edges)
    for index, (a, b) in enumerate(edges):
        first = int(np.flatnonzero(used[0, a] < 0)[0])
        second = int(np.flatnonzero(used[1, b] < 0)[0])
        if first != second:
            # Flip the alternating path from b, so that ``first`` is free at both ends.
            _flip(edges, color, used, b, first, second)
        color[index] = first
        used[0, a, first] = used[1, b, first] = index
    return color


def _flip(
    edges: list[tuple[int, int]],
    color: list[int],
    used: NDArray[np.int64],
    start: int,
    first: int,
    second: int,
) -> None:
    """Exchange two colours along the path that leaves receiver ``start`` by ``first``."""
    path, side, vertex, now = [], 1, start, first
    while (edge := int(used[side, vertex, now])) >= 0:
        path.append(edge)
        side = 1 - side
        vertex = edges[edge][side]
        now = first + second - now
    for edge in path:
        a, b = edges[edge]
        used[0, a, color[edge]] = used[1, b, color[edge]] = -1
    for edge in path:
        a, b = edges[edge]
        color[edge] = first + second - color[edge]
        used[0, a, color[edge]] = used[1, b, color[edge]] = edge
