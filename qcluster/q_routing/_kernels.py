"""Numba kernels of expert placement: how many copies of each expert, what each GPU carries.

Arrays are float64 and int64, C-contiguous. ``start`` (gpus + 1,) delimits the slots of each GPU;
an empty slot holds -1. The tests hold each kernel against a plain NumPy twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["gpu_load_layer", "list_copies", "replicate", "weigh_layers"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741 - the field's letter for an index array


@njit(cache=True)
def _sift(heap: I, key: F, i: int, size: int) -> None:
    """Let the entry at ``i`` of a max-heap sink to its place."""
    e, value = heap[i], key[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and key[child + 1] > key[child]:
            child += 1
        if key[child] <= value:
            break
        key[i], heap[i] = key[child], heap[child]
        i = child
    key[i], heap[i] = value, e


@njit(cache=True)
def replicate(w: F, extra: int, cap: int) -> I:
    """Replica counts (experts,): ``extra`` times one more copy of the largest w / count.

    Greedy is exact here: it minimises the largest share w / count among all counts with this sum
    and at most ``cap`` copies of an expert. A binary heap keeps it at O(extra log experts).
    """
    n = w.size
    count = np.ones(n, dtype=np.int64)
    if extra <= 0 or cap < 2:
        return count
    heap, key = np.arange(n), w.copy()
    for i in range(n // 2 - 1, -1, -1):
        _sift(heap, key, i, n)
    size = n
    for _ in range(extra):
        if size == 0:
            break
        e = heap[0]
        count[e] += 1
        key[0] = w[e] / count[e]
        if count[e] >= cap:
            size -= 1
            heap[0], key[0] = heap[size], key[size]
        _sift(heap, key, 0, size)
    return count


@njit(cache=True)
def gpu_load_layer(w: F, count: I, start: I, slots: I, load: F) -> None:
    """Load of each GPU (gpus,) when replicas share equally."""
    for g in range(load.size):
        total = 0.0
        for s in range(start[g], start[g + 1]):
            if slots[s] >= 0:
                total += w[slots[s]] / count[slots[s]]
        load[g] = total


@njit(cache=True)
def weigh_layers(w: F, slots: I, gpu: I, gpus: int) -> tuple[F, int]:
    """Loads (windows, layers, gpus) under equal shares of w (windows, layers, experts), and the
    first layer that holds an expert twice on a GPU or not at all, or -1.
    """
    windows, layers, experts = w.shape
    load = np.zeros((windows, layers, gpus))
    wrong = -1
    for x in range(layers):
        count = np.zeros(experts, dtype=np.int64)
        on = np.zeros((experts, gpus), dtype=np.bool_)
        for s in range(gpu.size):
            e = slots[x, s]
            if e >= 0:
                if on[e, gpu[s]] and wrong < 0:
                    wrong = x
                on[e, gpu[s]] = True
                count[e] += 1
        if count.min() == 0 and wrong < 0:
            wrong = x
        for v in range(windows):
            for s in range(gpu.size):
                e = slots[x, s]
                if e >= 0:
                    load[v, x, gpu[s]] += w[v, x, e] / count[e]
    return load, wrong


@njit(cache=True)
def list_copies(slots: I, out: I) -> None:
    """The slots of each expert, rising, into ``out`` (layers, experts, largest count)."""
    filled = np.zeros(out.shape[1], dtype=np.int64)
    for x in range(slots.shape[0]):
        filled[:] = 0
        for s in range(slots.shape[1]):
            e = slots[x, s]
            if e >= 0:
                out[x, e, filled[e]] = s
                filled[e] += 1
