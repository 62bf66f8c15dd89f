"""Numba kernels of expert placement: packing and swaps, one layer after another.

Arrays are float64 and int64, C-contiguous. ``start`` (gpus + 1,) delimits the slots of each GPU;
an empty slot holds -1. The tests hold each kernel against a plain NumPy twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_routing._bound_kernels import crowd_bound
from qcluster.q_routing._kernels import gpu_load_layer, replicate

__all__ = ["pack_layer", "place_layers", "swap_layer"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741 - the field's letter for an index array
B = NDArray[np.bool_]

# Tries with ever fewer copies of hot experts that may fail in a row before no more are made.
_PATIENCE = 4
# Above this many copies x experts ``crowd_bound`` may take more than a millisecond.
_LARGEST = 2**14


@njit(cache=True)
def _sink(heap: I, size: int, load: F, i: int) -> None:
    """Let the GPU at ``i`` of a min-heap by load, then by number, sink to its place."""
    g = heap[i]
    here = load[g]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        c = heap[child]
        if child + 1 < size:
            d = heap[child + 1]
            if load[d] < load[c] or (load[d] == load[c] and d < c):
                child, c = child + 1, d
        if here < load[c] or (here == load[c] and g < c):
            break
        heap[i] = c
        i = child
    heap[i] = g


@njit(cache=True)
def _rise(heap: I, size: int, load: F, g: int) -> None:
    """Put GPU ``g`` into a min-heap of ``size`` GPUs."""
    i = size
    while i > 0:
        parent = (i - 1) // 2
        p = heap[parent]
        if load[p] < load[g] or (load[p] == load[g] and p < g):
            break
        heap[i] = p
        i = parent
    heap[i] = g


@njit(cache=True)
def _deal_equal(share: F, count: I, start: I, slots: I, on: B, load: F, used: I) -> None:
    """Copies to GPUs of equal speed, each to the least loaded: a heap makes it O(log gpus) a copy.

    The GPUs of an expert's copies return to the heap when all its copies are placed, so that no
    GPU gets two.
    """
    gpus = load.size
    heap, held, size = np.empty(gpus, dtype=np.int64), np.empty(gpus, dtype=np.int64), 0
    for g in range(gpus):
        if start[g + 1] > start[g]:
            _rise(heap, size, load, g)
            size += 1
    for e in np.argsort(-share):
        placed = 0
        while placed < count[e] and size > 0:
            g = heap[0]
            slots[start[g] + used[g]] = e
            on[e, g] = True
            used[g] += 1
            load[g] += share[e]
            if count[e] > 1 or used[g] == start[g + 1] - start[g]:
                size -= 1
                heap[0] = heap[size]
                held[placed] = g
            _sink(heap, size, load, 0)
            placed += 1
        if count[e] > 1:
            for i in range(placed):
                g = held[i]
                if used[g] < start[g + 1] - start[g]:
                    _rise(heap, size, load, g)
                    size += 1
        count[e] = placed


@njit(cache=True)
def _deal(share: F, count: I, start: I, pace: F, slots: I, on: B, load: F, used: I) -> None:
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
def pack_layer(w: F, count: I, start: I, speed: F, slots: I, on: B, load: F) -> None:
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
def _best_swap(
    a: int, b: int, value: F, start: I, pace: F, slots: I, on: B, load: F, best: F
) -> tuple[int, int]:
    """The slots of ``a`` and ``b`` whose exchange finishes earliest, if before ``best[0]``, which
    it lowers; (-1, -1) if none. ``pace`` is 1 / speed, ``value`` the share that a slot carries.
    """
    at_i, at_j, limit = -1, -1, best[0]
    from_a, to_b, pace_a, pace_b = load[a], load[b], pace[a], pace[b]
    for i in range(start[a], start[a + 1]):
        big = value[i]
        for j in range(start[b], start[b + 1]):
            moved = big - value[j]
            if moved <= 0.0:
                continue
            after, there = (from_a - moved) * pace_a, (to_b + moved) * pace_b
            if there > after:
                after = there
            if after >= limit:
                continue
            e, f = slots[i], slots[j]
            if not on[e, b] and (f < 0 or not on[f, a]):
                limit, at_i, at_j = after, i, j
    best[0] = limit
    return at_i, at_j


@njit(cache=True)
def swap_layer(
    share: F, start: I, speed: F, slots: I, on: B, load: F, goal: float, steps: int
) -> None:
    """Swap slots between the fullest GPU and others until none helps or ``goal`` is reached.

    A step takes the swap that makes the later of the two finish earliest; it is accepted only if
    that is earlier than before, so the sorted vector of finish times falls and the search ends.
    """
    gpus = speed.size
    pace = 1.0 / speed
    time = load * pace
    best = np.empty(1)
    value = np.zeros(slots.size)
    for s in range(slots.size):
        if slots[s] >= 0:
            value[s] = share[slots[s]]
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
        best_i, best_j = _best_swap(a, low, value, start, pace, slots, on, load, best)
        enough = best_i >= 0 and best[0] <= (time[a] + goal) / 2
        for b in range(0 if enough else gpus):
            # A pair cannot do better than to finish together.
            if b in (a, low) or (load[a] + load[b]) >= best[0] * (speed[a] + speed[b]):
                continue
            i, j = _best_swap(a, b, value, start, pace, slots, on, load, best)
            if i >= 0:
                best_i, best_j, best_b = i, j, b
        if best_i < 0:
            return
        e, f = slots[best_i], slots[best_j]
        slots[best_i], slots[best_j] = f, e
        on[e, a], on[e, best_b] = False, True
        if f >= 0:
            on[f, best_b], on[f, a] = False, True
        moved = value[best_i] - value[best_j]
        value[best_i], value[best_j] = value[best_j], value[best_i]
        load[a] -= moved
        load[best_b] += moved
        time[a], time[best_b] = load[a] * pace[a], load[best_b] * pace[best_b]


@njit(cache=True)
def _sharper(w: F, low: float, top: float, start: I, speed: F) -> float:
    """``crowd_bound`` of a placement that takes ``top``, where it holds and costs little; else the
    bound known before, ``low``.
    """
    room, extra = start[1] - start[0], start[-1] - w.size
    if extra * w.size > _LARGEST or speed.min() < speed.max():
        return low
    for g in range(speed.size):
        if start[g + 1] - start[g] != room:
            return low
    proven: float = crowd_bound(w, low * speed[0], extra, room, top * speed[0]) / speed[0]
    return max(low, proven)


@njit(cache=True)
def _again(
    w: F, fewer: int, cold: I, start: I, speed: F, slots: I, goal: float, steps: int, top: float
) -> float:
    """Pack and swap with ``fewer`` copies of hot experts and more of ``cold`` ones; the largest
    GPU time, or -1.0 when such counts cannot get below ``top``.
    """
    count = replicate(w, start[-1] - w.size - fewer, speed.size)
    if (w / count).max() >= top * speed.max():
        return -1.0
    for i in range(fewer):
        if count[cold[i % w.size]] < speed.size:
            count[cold[i % w.size]] += 1
    slots[:] = -1
    on, load = np.zeros((w.size, speed.size), dtype=np.bool_), np.zeros(speed.size)
    pack_layer(w, count, start, speed, slots, on, load)
    swap_layer(w / count, start, speed, slots, on, load, goal, steps)
    return float((load / speed).max())


@njit(cache=True)
def place_layers(
    w: F, start: I, speed: F, tolerance: float, steps: int, loose: float, far: float, tries: int
) -> tuple[I, F, F]:
    """Slots (layers, slots) for loads (layers, experts), a time (layers,) that the fullest GPU of
    any placement needs, and the time of theirs; swaps end ``tolerance`` from the former. What
    ends further than ``loose`` from it is proven with more care.

    A layer that ends further than ``far`` from there is tried again with fewer copies of hot
    experts, up to ``tries`` times: two of their copies may be in each other's way on one GPU, and
    the slots are better spent on halving cold experts, which then fit beside the hot ones.
    """
    layers, experts = w.shape
    gpus, extra = speed.size, start[-1] - experts
    slots = np.full((layers, start[-1]), -1, dtype=np.int64)
    floor, reached = np.empty(layers), np.empty(layers)
    trial = np.empty(start[-1], dtype=np.int64)
    for layer in range(layers):
        row = w[layer]
        count = replicate(row, extra, gpus)
        low = max(row.sum() / speed.sum(), (row / count).max() / speed.max())
        on, load = np.zeros((experts, gpus), dtype=np.bool_), np.zeros(gpus)
        pack_layer(row, count, start, speed, slots[layer], on, load)
        swap_layer(
            row / count, start, speed, slots[layer], on, load, low * (1.0 + tolerance), steps
        )
        top = (load / speed).max()
        if top > low * (1.0 + loose) and tries > 0:
            low = _sharper(row, low, top, start, speed)
        floor[layer], reached[layer] = low, top
        goal = low * (1.0 + tolerance)
        if top <= goal * (1.0 + far):
            continue
        cold, vain = np.argsort(row), 0
        for fewer in range(1, min(extra, tries) + 1):
            after = _again(row, fewer, cold, start, speed, trial, goal, steps, top)
            vain += 1
            if 0.0 <= after < top:
                top, vain = after, 0
                slots[layer], reached[layer] = trial, after
            if after < 0.0 or vain == _PATIENCE or top <= goal * (1.0 + far):
                break
    return slots, floor, reached
