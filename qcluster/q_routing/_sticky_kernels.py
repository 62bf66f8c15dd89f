"""Numba kernels of the sticky replan: the best single change of a placement in force.

A layer's cost is the sum over windows of the 16-norm of its GPU times: close to the largest time,
but smooth, so that a change which lowers one of two equally full GPUs counts. The tests hold the
gain of a step against a plain NumPy recount.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Step", "best_step", "count_layer", "norm_layer", "sticky_layers"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741
B = NDArray[np.bool_]
Step = tuple[float, int, int, int]
"""Gain per moved slot; slot; another slot to swap with or -1; expert to put there or -1."""


@njit(cache=True, inline="always")
def _pow16(x: float) -> float:
    x = x * x
    x = x * x
    x = x * x
    return x * x


@njit(cache=True)
def count_layer(w: F, speed: F, gpu: I, slots: I, count: I, on: B, holder: I, load: F) -> None:
    """Fill counts (experts,), ``on`` (gpus, experts), holders (experts, gpus) and GPU times
    (windows, gpus) of one layer from its slots.
    """
    count[:] = 0
    on[:] = False
    load[:] = 0.0
    for s in range(slots.size):
        e = slots[s]
        if e >= 0:
            holder[e, count[e]] = gpu[s]
            on[gpu[s], e] = True
            count[e] += 1
    for s in range(slots.size):
        e = slots[s]
        if e >= 0:
            for v in range(load.shape[0]):
                load[v, gpu[s]] += w[v, e] / count[e] / speed[gpu[s]]


@njit(cache=True)
def norm_layer(load: F, mean: F) -> float:
    """Sum over windows of the 16-norm of GPU times (windows, gpus)."""
    total = 0.0
    for v in range(load.shape[0]):
        if mean[v] > 0:
            power = 0.0
            for g in range(load.shape[1]):
                power += _pow16(load[v, g] / mean[v])
            total += mean[v] * power ** (1 / 16)
    return total


@njit(cache=True)
def _changed(load: F, mean: F, g: int, v: int, delta: float) -> float:
    after: float = _pow16((load[v, g] + delta) / mean[v])
    before: float = _pow16(load[v, g] / mean[v])
    return after - before


@njit(cache=True)
def _replaced(
    w: F, speed: F, g: int, e: int, f: int, count: I, on: B, holder: I, load: F, mean: F, power: F
) -> float:
    """The layer's cost after GPU ``g`` holds ``f`` in place of ``e`` (-1: an empty slot)."""
    total = 0.0
    for v in range(load.shape[0]):
        if mean[v] <= 0:
            continue
        p = power[v]
        there = w[v, f] / (count[f] + 1)
        less = there - w[v, f] / count[f]
        more, own = 0.0, there
        if e >= 0:
            more = w[v, e] / (count[e] - 1) - w[v, e] / count[e]
            own -= w[v, e] / count[e]
            for k in range(count[e]):
                q = holder[e, k]
                if q != g:
                    delta = more + less if on[q, f] else more
                    p += _changed(load, mean, q, v, delta / speed[q])
        for k in range(count[f]):
            q = holder[f, k]
            if e < 0 or not on[q, e]:
                p += _changed(load, mean, q, v, less / speed[q])
        p += _changed(load, mean, g, v, own / speed[g])
        total += mean[v] * max(p, 0.0) ** (1 / 16)
    return total


@njit(cache=True)
def _swapped(
    w: F, speed: F, a: int, b: int, e: int, f: int, count: I, load: F, mean: F, power: F
) -> float:
    """The layer's cost after GPUs ``a`` and ``b`` exchange experts ``e`` and ``f``."""
    total = 0.0
    for v in range(load.shape[0]):
        if mean[v] > 0:
            moved = w[v, f] / count[f] - w[v, e] / count[e]
            p = power[v] + _changed(load, mean, a, v, moved / speed[a])
            p += _changed(load, mean, b, v, -moved / speed[b])
            total += mean[v] * max(p, 0.0) ** (1 / 16)
    return total


@njit(cache=True)
def _price(slots: I, home: I, s: int, f: int) -> int:
    return int(f != home[s]) - int(slots[s] != home[s])


@njit(cache=True)
def best_step(
    w: F, speed: F, gpu: I, zone: I, area: I, slots: I, home: I, count: I, on: B, holder: I,
    load: F, mean: F, left: int,
) -> Step:  # fmt: skip
    """The change that gains most for each slot it moves, among those that touch a fullest GPU.

    Changes: another expert into a slot (one that has a copy to spare), or two slots exchanged.
    ``zone`` (gpus,) and ``area`` (experts,): experts stay in their zone.
    """
    windows, gpus = load.shape
    power = np.zeros(windows)
    now = 0.0
    for v in range(windows):
        if mean[v] > 0:
            for g in range(gpus):
                power[v] += _pow16(load[v, g] / mean[v])
            now += mean[v] * power[v] ** (1 / 16)
    full = np.zeros(gpus, dtype=np.bool_)
    for v in range(windows):
        full[np.argmax(load[v])] = True
    best: Step = (now * 1e-6, -1, -1, -1)
    for s in range(slots.size):
        g, e = gpu[s], slots[s]
        if e < 0 or count[e] > 1:
            for f in range(count.size):
                if on[g, f] or area[f] != zone[g]:
                    continue
                touches = full[g] or e < 0
                for k in range(count[f]):
                    touches = touches or full[holder[f, k]]
                price = _price(slots, home, s, f)
                if not touches or price > left:
                    continue
                after = _replaced(w, speed, g, e, f, count, on, holder, load, mean, power)
                gain = (now - after) / max(price, 0.5)
                if gain > best[0]:
                    best = (gain, s, -1, f)
        if e < 0 or not full[g]:
            continue
        for t in range(slots.size):
            b, f = gpu[t], slots[t]
            if b == g or f < 0 or on[b, e] or on[g, f] or zone[b] != zone[g]:
                continue
            price = _price(slots, home, s, f) + _price(slots, home, t, e)
            if price > left:
                continue
            after = _swapped(w, speed, g, b, e, f, count, load, mean, power)
            gain = (now - after) / max(price, 0.5)
            if gain > best[0]:
                best = (gain, s, t, -1)
    return best


@njit(cache=True)
def sticky_layers(w: F, speed: F, gpu: I, zone: I, area: I, slots: I, home: I, limit: int) -> int:
    """Improve ``slots`` (layers, slots) in place, at most ``limit`` of them off ``home``.

    w (windows, layers, experts). Each round takes the layer whose best step gains most for each
    moved slot. Returns how many slots differ from ``home``.
    """
    windows, layers, experts = w.shape
    gpus = speed.size
    count, on = np.zeros((layers, experts), np.int64), np.zeros((layers, gpus, experts), np.bool_)
    holder = np.zeros((layers, experts, gpus), np.int64)
    load, mean = np.zeros((layers, windows, gpus)), np.zeros((layers, windows))
    gain, steps = np.zeros(layers), np.zeros((layers, 3), np.int64)
    moved = 0
    for x in range(layers):
        for s in range(gpu.size):
            moved += int(slots[x, s] != home[x, s])
        for v in range(windows):
            mean[x, v] = w[v, x].sum() / speed.sum()
    stale = np.ones(layers, np.bool_)
    tight = np.zeros(layers, np.int64)
    while True:
        for x in range(layers):
            if stale[x] or tight[x] > limit - moved:
                part = w[:, x]
                count_layer(part, speed, gpu, slots[x], count[x], on[x], holder[x], load[x])
                g, s, t, f = best_step(part, speed, gpu, zone, area[x], slots[x], home[x],
                                       count[x], on[x], holder[x], load[x], mean[x],
                                       limit - moved)  # fmt: skip
                gain[x] = g if s >= 0 else 0.0
                steps[x, 0], steps[x, 1], steps[x, 2] = s, t, f
                tight[x] = 0
                if s >= 0:
                    tight[x] = _price(slots[x], home[x], s, f if t < 0 else slots[x, t])
                    if t >= 0:
                        tight[x] += _price(slots[x], home[x], t, slots[x, s])
                stale[x] = False
        x = int(np.argmax(gain))
        if gain[x] <= 0.0:
            return moved
        s, t, f = steps[x]
        moved += tight[x]
        if t < 0:
            slots[x, s] = f
        else:
            slots[x, s], slots[x, t] = slots[x, t], slots[x, s]
        stale[x] = True
