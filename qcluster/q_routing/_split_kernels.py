"""Numba kernels of the weighted split: water-filling one expert at a time."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["fill", "split_layer"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741


@njit(cache=True)
def fill(amount: float, time: F, speed: F, part: F) -> None:
    """Pour ``amount`` over bins with finish times ``time`` (sorted here) so that the level is even.

    ``part`` receives each bin's share: speed x (level - time) where positive.
    """
    n = time.size
    level, rate, used = 0.0, 0.0, 0.0
    done = np.zeros(n, dtype=np.bool_)
    for _ in range(n):
        k = -1
        for i in range(n):
            if not done[i] and (k < 0 or time[i] < time[k]):
                k = i
        if rate > 0.0 and used + amount <= time[k] * rate:
            break
        done[k] = True
        rate += speed[k]
        used += time[k] * speed[k]
    level = (amount + used) / rate
    for i in range(n):
        part[i] = max(0.0, (level - time[i]) * speed[i])


@njit(cache=True)
def split_layer(
    w: F, slots: I, gpu: I, speed: F, out: F, sweeps: int, tolerance: float
) -> tuple[float, float]:
    """Weighted split of one layer; returns its largest GPU time and a proven lower bound on it.

    Block coordinate descent on sum over GPUs of load^2 / speed, whose minimum over splits also
    minimises the largest time. The bound: experts that live wholly on the fullest GPUs must be
    carried by them.
    """
    experts, gpus = w.size, speed.size
    first = np.zeros(experts + 1, dtype=np.int64)
    for s in range(slots.size):
        if slots[s] >= 0:
            first[slots[s] + 1] += 1
    for e in range(experts):
        first[e + 1] += first[e]
    place, at = first[:-1].copy(), np.empty(first[-1], dtype=np.int64)
    load = np.zeros(gpus)
    for s in range(slots.size):
        e = slots[s]
        if e >= 0:
            at[place[e]] = s
            place[e] += 1
            out[s] = w[e] / (first[e + 1] - first[e])
            load[gpu[s]] += out[s]
    time, rate, part = np.empty(gpus), np.empty(gpus), np.empty(gpus)
    top, bound = 0.0, 0.0
    for _ in range(sweeps):
        for e in range(experts):
            c = first[e + 1] - first[e]
            if c < 2 or w[e] <= 0.0:
                continue
            for k in range(c):
                s = at[first[e] + k]
                g = gpu[s]
                rate[k], time[k] = speed[g], (load[g] - out[s]) / speed[g]
            fill(w[e], time[:c], rate[:c], part[:c])
            for k in range(c):
                s = at[first[e] + k]
                load[gpu[s]] += part[k] - out[s]
                out[s] = part[k]
        top = (load / speed).max()
        bound = max(bound, _bound(w, first, at, gpu, speed, load, top, tolerance))
        if top - bound <= tolerance * top:
            break
    return top, bound


@njit(cache=True)
def _bound(w: F, first: I, at: I, gpu: I, speed: F, load: F, top: float, tolerance: float) -> float:
    """Largest of the forced means of nested sets of fullest GPUs."""
    best = 0.0
    for step in range(4):
        limit = top * (1.0 - tolerance * 10.0 ** (step - 1))
        rate, forced = 0.0, 0.0
        for g in range(speed.size):
            if load[g] >= limit * speed[g]:
                rate += speed[g]
        for e in range(w.size):
            inside = first[e + 1] > first[e]
            for k in range(first[e], first[e + 1]):
                g = gpu[at[k]]
                if load[g] < limit * speed[g]:
                    inside = False
                    break
            if inside:
                forced += w[e]
        best = max(best, forced / rate)
    return best
