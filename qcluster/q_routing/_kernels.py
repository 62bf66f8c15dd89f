"""Numba kernels of expert placement: replicas, packing and swaps, one layer after another.

Arrays are float64 and int64, C-contiguous. ``start`` (gpus + 1,) delimits the slots of each GPU;
an empty slot holds -1. The tests hold each kernel against a plain NumPy twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["gpu_load_layer", "pack_layer", "place_layers", "replicate", "swap_layer"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741 - the field's letter for an index array


@njit(cache=True)
def replicate(w: F, extra: int, cap: int) -> I:
    """Replica counts (experts,): ``extra`` times one more copy of the largest w / count.

    Greedy is exact here: it minimises the largest share w / count among all counts with this sum
    and at most ``cap`` copies of an expert. A binary heap keeps it at O(extra log experts).
    """
    n = w.size
    count = np.ones(n, dtype=np.int64)
    heap = np.argsort(-w, kind="mergesort")
    key = w[heap].copy()
    size = n
    for _ in range(extra):
        if size == 0 or cap < 2:
            break
        e = heap[0]
        count[e] += 1
        value = w[e] / count[e]
        if count[e] >= cap:
            size -= 1
            e, value = heap[size], key[size]
        i = 0
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
    return count


@njit(cache=True)
def pack_layer(
    w: F, count: I, start: I, speed: F, slots: I, on: NDArray[np.bool_], load: F
) -> None:
    """Longest processing time first: each copy to the GPU that would finish first.

    Never two copies of an expert on a GPU; a copy that fits nowhere is dropped, and slots left
    free take the largest share that their GPU does not hold. Writes ``slots``, ``on``, ``load``
    and the counts that came out.
    """
    gpus, experts = speed.size, w.size
    used = np.zeros(gpus, dtype=np.int64)
    share = w / count
    for e in np.argsort(-share, kind="mergesort"):
        placed = 0
        for _ in range(count[e]):
            best, best_time = -1, np.inf
            for g in range(gpus):
                if used[g] < start[g + 1] - start[g] and not on[g, e]:
                    time = (load[g] + share[e]) / speed[g]
                    if time < best_time:
                        best, best_time = g, time
            if best < 0:
                break
            slots[start[best] + used[best]] = e
            on[best, e] = True
            used[best] += 1
            load[best] += share[e]
            placed += 1
        count[e] = placed
    for g in range(gpus):
        while used[g] < start[g + 1] - start[g]:
            best = -1
            for e in range(experts):
                if not on[g, e] and (best < 0 or w[e] * count[best] > w[best] * count[e]):
                    best = e
            if best < 0:
                break
            count[best] += 1
            slots[start[g] + used[g]] = best
            on[g, best] = True
            used[g] += 1
    gpu_load_layer(w, count, start, slots, load)


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
def swap_layer(
    share: F, start: I, speed: F, slots: I, on: NDArray[np.bool_], load: F, goal: float, steps: int
) -> None:
    """Swap slots between the fullest GPU and others until none helps or ``goal`` is reached.

    A step takes the swap that makes the later of the two finish earliest; it is accepted only if
    that is earlier than before, so the sorted vector of finish times falls and the search ends.
    """
    gpus = speed.size
    time = load / speed
    for _ in range(steps):
        a = 0
        for g in range(1, gpus):
            if time[g] > time[a]:
                a = g
        top = time[a]
        if top <= goal:
            return
        best, best_i, best_j, best_b = top * (1.0 - 1e-12), -1, -1, -1
        for b in range(gpus):
            # The pair cannot do better than to finish together.
            if b == a or (load[a] + load[b]) / (speed[a] + speed[b]) >= best:
                continue
            for i in range(start[a], start[a + 1]):
                e = slots[i]
                if e < 0 or on[b, e]:
                    continue
                for j in range(start[b], start[b + 1]):
                    f = slots[j]
                    moved = share[e] - (share[f] if f >= 0 else 0.0)
                    if moved <= 0.0:
                        continue
                    after = max((load[a] - moved) / speed[a], (load[b] + moved) / speed[b])
                    if after < best and (f < 0 or not on[a, f]):
                        best, best_i, best_j, best_b = after, i, j, b
        if best_b < 0:
            return
        e, f = slots[best_i], slots[best_j]
        slots[best_i], slots[best_j] = f, e
        on[a, e], on[best_b, e] = False, True
        moved = share[e]
        if f >= 0:
            on[best_b, f], on[a, f] = False, True
            moved -= share[f]
        load[a] -= moved
        load[best_b] += moved
        time[a], time[best_b] = load[a] / speed[a], load[best_b] / speed[best_b]


@njit(cache=True)
def place_layers(w: F, start: I, speed: F, tolerance: float, steps: int) -> tuple[I, F]:
    """Slots (layers, slots) for loads (layers, experts), and a lower bound (layers,) on each
    layer's latest finish time: the mean, or the largest share that the counts allow.
    """
    layers, experts = w.shape
    gpus, size = speed.size, start[-1]
    slots = np.full((layers, size), -1, dtype=np.int64)
    bound = np.empty(layers)
    for layer in range(layers):
        count = replicate(w[layer], size - experts, gpus)
        on = np.zeros((gpus, experts), dtype=np.bool_)
        load = np.zeros(gpus)
        total, top = w[layer].sum() / speed.sum(), (w[layer] / count).max() / speed.max()
        bound[layer] = max(total, top)
        pack_layer(w[layer], count, start, speed, slots[layer], on, load)
        goal = bound[layer] * (1.0 + tolerance)
        swap_layer(w[layer] / count, start, speed, slots[layer], on, load, goal, steps)
    return slots, bound
