"""Numba kernels of the sticky replan: the best single change of a placement in force.

A layer's cost is the sum over windows of the 16-norm of its GPU times: close to the largest time,
but smooth, so that a change which lowers one of two equally full GPUs counts. The tests hold the
gain of a step against a plain NumPy recount.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "Step",
    "arrange_layer",
    "best_step",
    "count_layer",
    "match_layer",
    "norm_layer",
    "pow16",
    "price_of",
    "replaced",
    "swapped",
]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741
B = NDArray[np.bool_]
Step = tuple[float, int, int, int]
"""Gain per moved slot; slot; another slot to swap with or -1; expert to put there or -1."""


@njit(cache=True, inline="always")
def pow16(x: float) -> float:
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
                power += pow16(load[v, g] / mean[v])
            total += mean[v] * power ** (1 / 16)
    return total


@njit(cache=True)
def _changed(load: F, mean: F, g: int, v: int, delta: float) -> float:
    after: float = pow16((load[v, g] + delta) / mean[v])
    before: float = pow16(load[v, g] / mean[v])
    return after - before


@njit(cache=True)
def replaced(
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
def swapped(
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
def price_of(slots: I, home: I, s: int, f: int) -> int:
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
                power[v] += pow16(load[v, g] / mean[v])
            now += mean[v] * power[v] ** (1 / 16)
    full = np.zeros(gpus, dtype=np.bool_)
    for v in range(windows):
        full[np.argmax(load[v])] = True
    # Another copy of an expert relieves a fullest GPU only if that one holds it.
    hot = np.empty(count.size, dtype=np.int64)
    hots = 0
    for f in range(count.size):
        for k in range(count[f]):
            if full[holder[f, k]]:
                hot[hots] = f
                hots += 1
                break
    best: Step = (now * 1e-6, -1, -1, -1)
    for s in range(slots.size):
        g, e = gpu[s], slots[s]
        if e < 0 or count[e] > 1:
            everything = full[g] or e < 0
            for i in range(count.size if everything else hots):
                f = i if everything else hot[i]
                if on[g, f] or area[f] != zone[g]:
                    continue
                price = price_of(slots, home, s, f)
                if price > left:
                    continue
                after = replaced(w, speed, g, e, f, count, on, holder, load, mean, power)
                gain = (now - after) / max(price, 0.5)
                if gain > best[0]:
                    best = (gain, s, -1, f)
        if e < 0 or not full[g]:
            continue
        for t in range(slots.size):
            b, f = gpu[t], slots[t]
            if b == g or f < 0 or on[b, e] or on[g, f] or zone[b] != zone[g]:
                continue
            price = price_of(slots, home, s, f) + price_of(slots, home, t, e)
            if price > left:
                continue
            after = swapped(w, speed, g, b, e, f, count, load, mean, power)
            gain = (now - after) / max(price, 0.5)
            if gain > best[0]:
                best = (gain, s, t, -1)
    return best


@njit(cache=True)
def match_layer(old: I, new: I, start: I, kind: I, experts: int, name: I) -> None:
    """``name`` (gpus,): which GPU of ``old`` each GPU of ``new`` should be, of the same ``kind``.

    Greedy: pairs by falling number of common experts, so at least half of the best total. Only
    pairs that have an expert in common are looked at.
    """
    gpus = start.size - 1
    width = 0
    for g in range(gpus):
        width = max(width, start[g + 1] - start[g])
    first, after = np.full(experts, -1, np.int64), np.full(old.size, -1, np.int64)
    owner = np.empty(old.size, np.int64)
    for g in range(gpus):
        for s in range(start[g], start[g + 1]):
            owner[s] = g
            if old[s] >= 0:
                after[s], first[old[s]] = first[old[s]], s
    name[:] = -1
    taken = np.zeros(gpus, np.bool_)
    common, seen = np.zeros(gpus, np.int64), np.empty(gpus, np.int64)
    for wanted in range(width, -1, -1):
        for b in range(gpus):
            if name[b] >= 0 or (wanted == 0):
                continue
            found, number = -1, 0
            for s in range(start[b], start[b + 1]):
                e = new[s]
                if e < 0:
                    continue
                at = first[e]
                while at >= 0:
                    a = owner[at]
                    if not taken[a] and kind[a] == kind[b]:
                        if common[a] == 0:
                            seen[number] = a
                            number += 1
                        common[a] += 1
                    at = after[at]
            for i in range(number):
                a = seen[i]
                if common[a] >= wanted and (found < 0 or a < found):
                    found = a
                common[a] = 0
            if found >= 0:
                name[b], taken[found] = found, True
    at = np.zeros(kind.max() + 1, np.int64)
    for b in range(gpus):
        if name[b] < 0:
            a = at[kind[b]]
            while taken[a] or kind[a] != kind[b]:
                a += 1
            name[b], taken[a] = a, True
            at[kind[b]] = a + 1


@njit(cache=True)
def arrange_layer(old: I, new: I, start: I, name: I, out: I) -> None:
    """Write GPU b of ``new`` as GPU ``name[b]`` of ``out``, what ``old`` has there in its place.

    The other experts fill up by falling number; slots that hold nothing come last.
    """
    out[:] = -1
    for b in range(name.size):
        a = name[b]
        rest = np.sort(new[start[b] : start[b + 1]])[::-1].copy()
        here = old[start[a] : start[a + 1]]
        for s in range(here.size):
            if here[s] < 0:
                continue
            for i in range(rest.size):
                if rest[i] == here[s]:
                    out[start[a] + s], rest[i] = here[s], -1
                    break
        at = start[a]
        for e in rest:
            if e >= 0:
                while out[at] >= 0:
                    at += 1
                out[at] = e
