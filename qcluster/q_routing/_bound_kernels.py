"""Numba kernels of the proofs: what no placement's fullest GPU can stay below.

Arrays are float64 and int64, C-contiguous. The tests hold them against placements found by trying
all and by search.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_routing._kernels import replicate

__all__ = ["bound_layers", "crowd_bound"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741 - the field's letter for an index array


@njit(cache=True)
def bound_layers(w: F, extra: int, cap: int) -> F:
    """(layers,) the largest share that no counts with ``extra`` more copies can avoid."""
    out = np.empty(w.shape[0])
    for layer in range(w.shape[0]):
        out[layer] = (w[layer] / replicate(w[layer], extra, cap)).max()
    return out


@njit(cache=True)
def _reachable(time: float, hot: F, cold: F, extra: int, room: int) -> bool:
    """Whether ``crowd_bound``'s conditions allow a largest GPU time of ``time``."""
    n = hot.size
    least = np.empty(n, dtype=np.int64)
    needed = 0
    for i in range(n):
        least[i] = max(1, int(np.ceil(hot[i] / time - 1e-9)))
        needed += least[i] - 1
    slack = extra - needed
    if slack < 0:
        return False
    small = np.inf
    for i in range(n):
        small = min(small, hot[i] / (least[i] + slack))
    held = np.zeros(cold.size + 1)
    for i in range(cold.size):
        held[i + 1] = held[i] + min(cold[i], small)
    copies = np.empty(n, dtype=np.int64)
    for spent in range(slack + 1):
        total = spent
        for i in range(n):
            c = least[i]
            while c <= least[i] + slack:
                beside = min(max((room - 1) * c - spent, 0), cold.size)
                if hot[i] + held[beside] <= c * time * (1.0 + 1e-9):
                    break
                c += 1
            copies[i] = c
            total += c - 1
            if c > least[i] + slack or total > extra:
                total = extra + 1
                break
        if total <= extra and _together(time, hot, copies, held, extra - total, spent, room):
            return True
    return False


@njit(cache=True)
def _together(time: float, hot: F, copies: I, held: F, spare: int, spent: int, room: int) -> bool:
    """Whether sets of hot experts fit with what must stand beside them.

    ``copies`` are the fewest that each can have, ``spare`` more may be given out. Copies with
    shares above half the time stand on GPUs of their own, so the slots beside them add up.
    """
    order = np.argsort(-hot / copies)
    load, number = 0.0, 0
    for i in order:
        if hot[i] / (copies[i] + spare) <= time / 2:
            continue
        load += hot[i]
        number += copies[i]
        fits = False
        for more in range(spare + 1):
            beside = min(max((room - 1) * (number + more) - spent, 0), held.size - 1)
            if load + held[beside] <= (number + more) * time * (1.0 + 1e-9):
                fits = True
                break
        if not fits:
            return False
    return True


@njit(cache=True)
def crowd_bound(w: F, low: float, extra: int, room: int, high: float) -> float:
    """A lower bound on the largest GPU time, at least ``low`` (a bound already known) and below
    ``high`` (a time that some placement has, or inf), for GPUs of equal speed with ``room`` slots
    each.

    A hot expert with c copies stands on c GPUs, whose other (room - 1) c slots hold at least the
    smallest that there is: of cold experts with ``spent`` more copies, m slots hold at least the
    m - spent smallest experts whole. So w + that must fit into c x time, for every hot expert and
    for sets of them that cannot share a GPU, with the copies that there are.
    """
    hot, cold = w[w > 0.5 * low], np.sort(w[w <= 0.5 * low])
    if hot.size == 0 or _reachable(low, hot, cold, extra, room):
        return low
    high = min(high, low * 2.0)
    while high - low > 1e-5 * low:
        middle = (low + high) / 2
        if _reachable(middle, hot, cold, extra, room):
            high = middle
        else:
            low = middle
    return low
