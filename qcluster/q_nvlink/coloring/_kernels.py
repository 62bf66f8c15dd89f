"""Compiled inner loops of graph colouring, on adjacency in CSR form (indptr, indices)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_nvlink._random import xorshift

__all__ = ["conflicts", "dsatur", "tabu_step"]


@njit(cache=True)
def dsatur(indptr: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Colours (n,) by DSATUR (Brélaz, 1979): most saturated vertex first, ties by degree."""
    n = len(indptr) - 1
    color = np.full(n, -1, dtype=np.int64)
    most = 1
    for v in range(n):
        most = max(most, indptr[v + 1] - indptr[v] + 1)
    seen = np.zeros((n, most), dtype=np.bool_)
    saturation = np.zeros(n, dtype=np.int64)
    for _ in range(n):
        best = -1
        for v in range(n):
            if color[v] >= 0:
                continue
            if (
                best < 0
                or saturation[v] > saturation[best]
                or (
                    saturation[v] == saturation[best]
                    and indptr[v + 1] - indptr[v] > indptr[best + 1] - indptr[best]
                )
            ):
                best = v
        c = 0
        while seen[best, c]:
            c += 1
        color[best] = c
        for e in range(indptr[best], indptr[best + 1]):
            u = indices[e]
            if not seen[u, c]:
                seen[u, c] = True
                saturation[u] += 1
    return color


@njit(cache=True)
def conflicts(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], color: NDArray[np.int64]
) -> int:
    """Number of edges whose ends have the same colour."""
    total = 0
    for v in range(len(indptr) - 1):
        for e in range(indptr[v], indptr[v + 1]):
            if indices[e] > v and color[indices[e]] == color[v]:
                total += 1
    return total


@njit(cache=True)
def _same_coloured(
    indptr: NDArray[np.int64], indices: NDArray[np.int64], k: int, color: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64], int]:
    """(n, k) neighbours of every vertex by colour; the clashing vertices, their places in that
    list (-1: not in it), and how many there are.
    """
    n = len(indptr) - 1
    gamma = np.zeros((n, k), dtype=np.int32)
    for v in range(n):
        for e in range(indptr[v], indptr[v + 1]):
            gamma[v, color[indices[e]]] += 1
    clash = np.empty(n, dtype=np.int64)
    place = np.full(n, -1, dtype=np.int64)
    count = 0
    for v in range(n):
        if gamma[v, color[v]] > 0:
            place[v] = count
            clash[count] = v
            count += 1
    return gamma, clash, place, count


@njit(inline="always")
def _out(clash: NDArray[np.int64], place: NDArray[np.int64], count: int, v: int) -> int:
    """Take ``v`` from the list of clashing vertices; its new length."""
    last = clash[count - 1]
    clash[place[v]] = last
    place[last] = place[v]
    place[v] = -1
    return count - 1


@njit(inline="always")
def _least_move(
    color: NDArray[np.int64],
    gamma: NDArray[np.int32],
    clash: NDArray[np.int64],
    until: NDArray[np.int64],
    time: int,
    lead: int,
    state: Any,
) -> tuple[int, int, int, Any]:
    """The clashing vertex, its colour, the change of conflicts and the random state after it.

    Tabu ones only where the change is below ``lead``; ties at random; -1 where all are tabu.
    """
    choice, target, value, ties = -1, -1, 1 << 30, 0
    for v in clash:
        own = gamma[v, color[v]]
        for c in range(gamma.shape[1]):
            if c == color[v]:
                continue
            delta = gamma[v, c] - own
            if delta > value or (until[v, c] > time and delta >= lead):
                continue
            if delta < value:
                choice, target, value, ties = v, c, delta, 1
            else:
                ties += 1
                state = xorshift(state)
                if state % np.uint64(ties) == 0:
                    choice, target = v, c
    return choice, target, value, state


@njit(cache=True)
def tabu_step(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int64],
    k: int,
    color: NDArray[np.int64],
    best: NDArray[np.int64],
    until: NDArray[np.int64],
    clock: NDArray[np.uint64],
    steps: int,
) -> Any:
    """TabuCol (Hertz and de Werra, 1987; tenure of Galinier and Hao, 1999) for ``steps`` moves.

    color (n,) is the current colouring and ``best`` (n,) the best so far, both updated;
    until (n, k) int64 is when a colour stops being tabu; clock (2,) uint64 holds the move counter
    and the state of the random numbers. Returns the conflicts of ``best``; stops at 0.
    """
    gamma, clash, place, count = _same_coloured(indptr, indices, k, color)
    total = conflicts(indptr, indices, color)
    least = conflicts(indptr, indices, best)
    if total < least:
        least = total
        best[:] = color
    time = np.int64(clock[0])
    state = clock[1]
    for _ in range(steps):
        if least == 0:
            break
        time += 1
        choice, target, value, state = _least_move(
            color, gamma, clash[:count], until, time, least - total, state
        )
        if choice < 0:  # everything is tabu: let time pass
            continue
        old = color[choice]
        color[choice] = target
        total += value
        for e in range(indptr[choice], indptr[choice + 1]):
            u = indices[e]
            gamma[u, old] -= 1
            gamma[u, target] += 1
            if color[u] == old and gamma[u, old] == 0:
                count = _out(clash, place, count, u)
            elif color[u] == target and place[u] < 0:
                place[u] = count
                clash[count] = u
                count += 1
        if gamma[choice, target] == 0 and place[choice] >= 0:
            count = _out(clash, place, count, choice)
        state = xorshift(state)
        until[choice, old] = time + np.int64(state % np.uint64(10)) + (6 * count) // 10
        if total < least:
            least = total
            best[:] = color
    clock[0] = np.uint64(time)
    clock[1] = state
    return least
