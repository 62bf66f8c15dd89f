"""Compiled loops of the classical solvers and of the state-vector engine.

Each has a plain NumPy twin that the tests hold it against: ``problem.energy`` for the searches
(every energy they report is recomputed), the functions of ``qcluster.quantum.simulator`` for the
engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["anneal", "descend"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]


@njit(cache=True)
def _next(state: Words) -> Any:
    """xorshift64* (Vigna, 2016): the next 64 random bits; ``state`` is (1,) uint64, not zero."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return x * np.uint64(0x2545F4914F6CDD1D)


@njit(cache=True)
def _flip(i: int, z: Floats, field: Floats, indptr: Ints, indices: Ints, data: Floats) -> None:
    z[i] = -z[i]
    step = 2.0 * z[i]
    for e in range(indptr[i], indptr[i + 1]):
        field[indices[e]] += step * data[e]


@njit(cache=True)
def _coupling(i: int, j: int, indptr: Ints, indices: Ints, data: Floats) -> float:
    low, high = indptr[i], indptr[i + 1]
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < j:
            low = middle + 1
        else:
            high = middle
    if low < indptr[i + 1] and indices[low] == j:
        value: float = data[low]
        return value
    return 0.0


@njit(cache=True)
def _delta(
    i: int,
    z: Floats,
    field: Floats,
    group: Ints,
    hot: Ints,
    indptr: Ints,
    indices: Ints,
    data: Floats,
) -> float:
    """Energy change of flipping free spin i, or of making grouped spin i (now -1) the hot one."""
    g = group[i]
    change: float = -2.0 * z[i] * field[i]
    if g >= 0:
        if z[i] > 0:
            return np.inf
        a = hot[g]
        change -= 2.0 * field[a] + 4.0 * _coupling(i, a, indptr, indices, data)
    return change


@njit(cache=True)
def _move(
    i: int,
    z: Floats,
    field: Floats,
    group: Ints,
    hot: Ints,
    indptr: Ints,
    indices: Ints,
    data: Floats,
) -> None:
    g = group[i]
    if g >= 0:
        _flip(hot[g], z, field, indptr, indices, data)
        hot[g] = i
    _flip(i, z, field, indptr, indices, data)


@njit(cache=True)
def descend(
    z: Floats,
    field: Floats,
    group: Ints,
    hot: Ints,
    indptr: Ints,
    indices: Ints,
    data: Floats,
    steps: int,
) -> int:
    """Steepest descent in place: at most ``steps`` moves. Returns how many were made."""
    n = len(z)
    # Rounding must not let two states that are equal in truth improve on each other for ever.
    least = 0.0
    for i in range(n):
        least = max(least, abs(field[i]))
    least = -1e-12 * max(least, 1e-300)
    for step in range(steps):
        best, chosen = least, -1
        for i in range(n):
            change = _delta(i, z, field, group, hot, indptr, indices, data)
            if change < best:
                best, chosen = change, i
        if chosen < 0:
            return step
        _move(chosen, z, field, group, hot, indptr, indices, data)
    return steps


@njit(cache=True)
def anneal(
    z: Floats,
    field: Floats,
    group: Ints,
    hot: Ints,
    indptr: Ints,
    indices: Ints,
    data: Floats,
    betas: Floats,
    state: Words,
    energy: float,
    best_z: Floats,
    best: float,
) -> tuple[float, float]:
    """Metropolis sweeps at the inverse temperatures ``betas``, in place (Kirkpatrick, 1983).

    Free spins are offered a flip in turn, grouped ones to become their group's hot spin. ``best_z``
    and the returned (energy, best) follow the best state seen at the end of a sweep.
    """
    n = len(z)
    scale = 1.0 / 9007199254740992.0
    for beta in betas:
        limit = 40.0 / beta
        for i in range(n):
            change = _delta(i, z, field, group, hot, indptr, indices, data)
            if change >= limit:
                continue
            if change > 0.0:
                u = (_next(state) >> np.uint64(11)) * scale
                if u >= np.exp(-beta * change):
                    continue
            _move(i, z, field, group, hot, indptr, indices, data)
            energy += change
        if energy < best:
            best = energy
            best_z[:] = z
    return energy, best
