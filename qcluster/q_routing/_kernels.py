"""Numba kernels of expert placement: replicas, packing and swaps, one layer after another.

Arrays are float64 and int64, C-contiguous. ``start`` (gpus + 1,) delimits the slots of each GPU;
an empty slot holds -1. The tests hold each kernel against a plain NumPy twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "gpu_load_layer",
    "pack_layer",
    "place_layers",
    "replicate",
    "swap_layer",
    "weigh_layers",
]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741 - the field's letter for an index array


# Tries with ever fewer copies of hot experts that may fail in a row before no more are made.
_PATIENCE = 4


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
def _earlier(load: F, a: int, b: int) -> bool:
    return bool(load[a] < load[b] or (load[a] == load[b] and a < b))


@njit(cache=True)
def _push(heap: I, size: int, load: F, g: int) -> None:
    """Put GPU ``g`` into a min-heap of ``size`` GPUs by load, then by number."""
    i = size
    while i > 0:
        parent = (i - 1) // 2
        if not _earlier(load, g, heap[parent]):
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = g


@njit(cache=True)
def _pop(heap: I, size: int, load: F) -> int:
    """Take the first GPU out of the heap; its size is then one less."""
    first, last = heap[0], heap[size - 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and _earlier(load, heap[child + 1], heap[child]):
            child += 1
        if not _earlier(load, heap[child], last):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = last
    return int(first)


@njit(cache=True)
def _deal_equal(
    share: F, count: I, start: I, slots: I, on: NDArray[np.bool_], load: F, used: I
) -> None:
    """Copies to GPUs of equal speed, each to the least loaded: a heap makes it O(log gpus) a copy.

    The GPUs of an expert's copies return to the heap when all its copies are placed, so that no
    GPU gets two.
    """
    gpus = load.size
    heap, held, size = np.empty(gpus, dtype=np.int64), np.empty(gpus, dtype=np.int64), 0
    for g in range(gpus):
        if start[g + 1] > start[g]:
            _push(heap, size, load, g)
            size += 1
    for e in np.argsort(-share):
        placed = 0
        while placed < count[e] and size > 0:
            g = _pop(heap, size, load)
            size -= 1
            slots[start[g] + used[g]] = e
            on[e, g] = True
            used[g] += 1
            load[g] += share[e]
            held[placed] = g
            placed += 1
        count[e] = placed
        for i in range(placed):
            g = held[i]
            if used[g] < start[g + 1] - start[g]:
                _push(heap, size, load, g)
                size += 1


@njit(cache=True)
def _deal(
    share: F, count: I, start: I, pace: F, slots: I, on: NDArray[np.bool_], load: F, used: I
) -> None:
    """Copies to GPUs of any speed, each to the one that would finish first."""
    for e in np.argsort(-share):
        placed = 0
        for _ in range(count[e]):
            best, best_time = -1, np.inf
            for g in range(pace.size):
                if used[g] < start[g + 1] - start[g] and not on[e, g]:
                    time = (load[g] + share[e]) * pace[g]
                    if time < best_time:
                        best, best_time = g, time
            if best < 0:
                break
            slots[start[best] + used[best]] = e
            on[e, best] = True
            used[best] += 1
            load[best] += share[e]
            placed += 1
        count[e] = placed


@njit(cache=True)
def pack_layer(
    w: F, count: I, start: I, speed: F, slots: I, on: NDArray[np.bool_], load: F
) -> None:
    """Longest processing time first: each copy to the GPU that would finish first.

    Never two copies of an expert on a GPU; a copy that fits nowhere is dropped, and slots left
    free take the largest share that their GPU does not hold. Writes ``slots``, ``load``, ``on``
    (experts, gpus) and the counts that came out.
    """
    gpus, experts = speed.size, w.size
    used = np.zeros(gpus, dtype=np.int64)
    share = w / count
    if speed.min() == speed.max():
        _deal_equal(share, count, start, slots, on, load, used)
    else:
        _deal(share, count, start, 1.0 / speed, slots, on, load, used)
    for g in range(gpus):
        while used[g] < start[g + 1] - start[g]:
            best = -1
            for e in range(experts):
                if not on[e, g] and (best < 0 or w[e] * count[best] > w[best] * count[e]):
                    best = e
            if best < 0:
                break
            count[best] += 1
            slots[start[g] + used[g]] = best
            on[best, g] = True
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
def _best_swap(
    a: int, b: int, share: F, start: I, pace: F, slots: I, on: NDArray[np.bool_], load: F, best: F
) -> tuple[int, int]:
    """The slots of ``a`` and ``b`` whose exchange finishes earliest, if before ``best[0]``, which
    it lowers; (-1, -1) if none. ``pace`` is 1 / speed.
    """
    at_i, at_j = -1, -1
    for i in range(start[a], start[a + 1]):
        e = slots[i]
        if e < 0 or on[e, b]:
            continue
        big = share[e]
        for j in range(start[b], start[b + 1]):
            f = slots[j]
            moved = big - (share[f] if f >= 0 else 0.0)
            if moved <= 0.0:
                continue
            after = max((load[a] - moved) * pace[a], (load[b] + moved) * pace[b])
            if after < best[0] and (f < 0 or not on[f, a]):
                best[0], at_i, at_j = after, i, j
    return at_i, at_j


@njit(cache=True)
def swap_layer(
    share: F, start: I, speed: F, slots: I, on: NDArray[np.bool_], load: F, goal: float, steps: int
) -> None:
    """Swap slots between the fullest GPU and others until none helps or ``goal`` is reached.

    A step takes the swap that makes the later of the two finish earliest; it is accepted only if
    that is earlier than before, so the sorted vector of finish times falls and the search ends.
    """
    gpus = speed.size
    pace = 1.0 / speed
    time = load * pace
    best = np.empty(1)
    for _ in range(steps):
        a, low = 0, 0
        for g in range(1, gpus):
            if time[g] > time[a]:
                a = g
            if time[g] < time[low]:
                low = g
        if time[a] <= goal:
            return
        # The emptiest GPU first: its swap rules out most others by the bound below.
        best[0] = time[a] * (1.0 - 1e-12)
        best_b = low
        best_i, best_j = _best_swap(a, low, share, start, pace, slots, on, load, best)
        for b in range(gpus):
            # A pair cannot do better than to finish together.
            if b in (a, low) or (load[a] + load[b]) >= best[0] * (speed[a] + speed[b]):
                continue
            i, j = _best_swap(a, b, share, start, pace, slots, on, load, best)
            if i >= 0:
                best_i, best_j, best_b = i, j, b
        if best_i < 0:
            return
        e, f = slots[best_i], slots[best_j]
        slots[best_i], slots[best_j] = f, e
        on[e, a], on[e, best_b] = False, True
        moved = share[e]
        if f >= 0:
            on[f, best_b], on[f, a] = False, True
            moved -= share[f]
        load[a] -= moved
        load[best_b] += moved
        time[a], time[best_b] = load[a] * pace[a], load[best_b] * pace[best_b]


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
def _place_layer(w: F, count: I, start: I, speed: F, slots: I, goal: float, steps: int) -> float:
    """Pack and swap one layer with these counts; returns its largest GPU time."""
    on = np.zeros((w.size, speed.size), dtype=np.bool_)
    load = np.zeros(speed.size)
    pack_layer(w, count, start, speed, slots, on, load)
    swap_layer(w / count, start, speed, slots, on, load, goal, steps)
    return float((load / speed).max())


@njit(cache=True)
def place_layers(
    w: F, start: I, speed: F, tolerance: float, steps: int, far: float, tries: int
) -> tuple[I, F]:
    """Slots (layers, slots) for loads (layers, experts), and the largest share (layers,) that the
    number of slots forces; swaps end ``tolerance`` from the mean or that share, whichever is later.

    A layer that ends further than ``far`` from there is tried again with fewer copies of hot
    experts, up to ``tries`` times: two of their copies may be in each other's way on one GPU, and
    the slots are better spent on halving cold experts, which then fit beside the hot ones.
    """
    layers, experts = w.shape
    gpus, extra = speed.size, start[-1] - experts
    slots, forced = np.full((layers, start[-1]), -1, dtype=np.int64), np.empty(layers)
    trial = np.empty(start[-1], dtype=np.int64)
    for layer in range(layers):
        row = w[layer]
        count = replicate(row, extra, gpus)
        forced[layer] = (row / count).max()
        goal = max(row.sum() / speed.sum(), forced[layer] / speed.max()) * (1.0 + tolerance)
        top = _place_layer(row, count, start, speed, slots[layer], goal, steps)
        if top <= goal * (1.0 + far):
            continue
        cold = np.argsort(row)
        vain = 0
        for fewer in range(1, min(extra, tries) + 1):
            count = replicate(row, extra - fewer, gpus)
            if vain == _PATIENCE or (row / count).max() >= top * speed.max():
                break
            vain += 1
            for i in range(fewer):
                if count[cold[i % experts]] < gpus:
                    count[cold[i % experts]] += 1
            trial[:] = -1
            after = _place_layer(row, count, start, speed, trial, goal, steps)
            if after < top:
                top, vain = after, 0
                slots[layer] = trial
    return slots, forced
