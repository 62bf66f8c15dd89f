"""The compiled loop of the cycle bound; ``qcluster.quantum.bounds`` says what it proves."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["pack_cycles"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@njit(cache=True)
def pack_cycles(
    indptr: Ints, indices: Ints, edge: Ints, against: Flags, room: Floats, tiny: float,
    length: int, budget: int,
) -> tuple[float, int]:  # fmt: skip
    """Packs frustrated cycles of at most ``length`` edges into ``room`` (m,), greedily, in place.

    ``edge`` gives each CSR entry's edge, ``against`` whether that edge wants its ends different. A
    breadth-first search over (vertex, parity of such edges) from each vertex back to itself with
    parity 1 finds a shortest frustrated closed walk; walks that use an edge twice are passed over.
    Stops after ``budget`` steps. Returns what was packed and the steps left.
    """
    n = len(indptr) - 1
    depth = np.full(2 * n, -1, dtype=np.int64)
    came = np.empty(2 * n, dtype=np.int64)  # the CSR entry that led here
    before = np.empty(2 * n, dtype=np.int64)
    queue = np.empty(2 * n, dtype=np.int64)
    path = np.empty(length + 1, dtype=np.int64)
    packed = 0.0
    for root in range(n):
        again = True
        while again and budget > 0:
            again = False
            depth[2 * root] = 0
            queue[0] = 2 * root
            head, tail = 0, 1
            goal = 2 * root + 1
            while head < tail and depth[goal] < 0:
                state = queue[head]
                head += 1
                if depth[state] >= length:
                    break
                v, parity = state // 2, state % 2
                for e in range(indptr[v], indptr[v + 1]):
                    budget -= 1
                    if room[edge[e]] <= tiny:
                        continue
                    other = 2 * indices[e] + (parity ^ against[e])
                    if depth[other] < 0:
                        depth[other] = depth[state] + 1
                        came[other], before[other] = e, state
                        queue[tail] = other
                        tail += 1
            if depth[goal] > 0:
                steps, state, least = 0, goal, np.inf
                while state != 2 * root:
                    path[steps] = edge[came[state]]
                    least = min(least, room[path[steps]])
                    steps += 1
                    state = before[state]
                used = np.sort(path[:steps])
                again = True
                for k in range(1, steps):
                    again = again and used[k] != used[k - 1]
                if again:
                    packed += least
                    for k in range(steps):
                        room[path[k]] -= least
            for k in range(tail):
                depth[queue[k]] = -1
    return packed, budget
