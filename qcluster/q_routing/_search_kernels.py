"""Numba kernels of the sticky search over layers: the step that gains most comes first.

Where layers are large, steps come from a short list (experts with copies to spare, GPUs with room
in time) at a hundredth of the price of looking at all; when it has none left, all are looked at.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.q_routing._sticky_kernels import (
    Step,
    best_step,
    count_layer,
    pow16,
    price_of,
    replaced,
    swapped,
)

__all__ = ["apply_step", "quick_step", "sticky_layers"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741
B = NDArray[np.bool_]

_LARGE = 256
"""From so many slots on, the short list comes first."""
_DONORS, _PLACES = 6, 4
"""Experts that give a copy up and GPUs that are looked at for each step of the short list."""
_STAY = 0.7
"""A layer goes on while its step gains this share of the best of other layers."""


@njit(cache=True)
def _least(key: F, out: I) -> int:
    """The indices of the smallest finite keys into ``out``, rising; how many there are."""
    found = 0
    for i in range(key.size):
        if key[i] == np.inf or (found == out.size and key[i] >= key[out[found - 1]]):
            continue
        at = min(found, out.size - 1)
        while at > 0 and key[out[at - 1]] > key[i]:
            out[at] = out[at - 1]
            at -= 1
        out[at] = i
        found = min(found + 1, out.size)
    return found


@njit(cache=True)
def _slot_of(slots: I, first: I, g: int, e: int) -> int:
    """The slot of GPU ``g`` that holds ``e``, or -1."""
    for s in range(first[g], first[g + 1]):
        if slots[s] == e:
            return int(s)
    return -1


@njit(inline="always")
def _give(
    w: F, speed: F, first: I, zone: I, area: I, slots: I, home: I, count: I, on: B, holder: I,
    load: F, mean: F, power: F, idle: F, left: int, now: float, donors: I, f: int, best: Step,
) -> Step:  # fmt: skip
    """A copy of ``f`` in place of one of ``donors``, where there is most time to spare."""
    key, places = np.empty(speed.size), np.empty(_PLACES, np.int64)
    for e in donors:
        if e == f:
            continue
        for j in range(count[e]):
            q = holder[e, j]
            key[j] = idle[q] if not on[q, f] and area[f] == zone[q] else np.inf
        for j in range(_least(key[: count[e]], places)):
            g = holder[e, places[j]]
            s = _slot_of(slots, first, g, e)
            price = price_of(slots, home, s, f)
            if price > left:
                continue
            after = replaced(w, speed, g, e, f, count, on, holder, load, mean, power)
            gain = (now - after) / max(price, 0.5)
            if gain > best[0]:
                best = (gain, s, -1, f)
    return best


@njit(inline="always")
def _free(
    w: F, speed: F, zone: I, area: I, slots: I, home: I, count: I, on: B, holder: I, load: F,
    mean: F, power: F, left: int, now: float, takers: I, full: int, i: int, best: Step,
) -> Step:  # fmt: skip
    """Slot ``i`` of the GPU ``full`` given to one of ``takers``."""
    f = slots[i]
    for e in takers:
        price = price_of(slots, home, i, e)
        if on[full, e] or count[f] < 2 or area[e] != zone[full] or price > left:
            continue
        after = replaced(w, speed, full, f, e, count, on, holder, load, mean, power)
        gain = (now - after) / max(price, 0.5)
        if gain > best[0]:
            best = (gain, i, -1, e)
    return best


@njit(inline="always")
def _exchange(
    w: F, speed: F, first: I, zone: I, slots: I, home: I, count: I, on: B, load: F, mean: F,
    power: F, left: int, now: float, calm: I, full: int, i: int, best: Step,
) -> Step:  # fmt: skip
    """Slot ``i`` of the GPU ``full`` exchanged with a slot of one of the GPUs ``calm``."""
    f = slots[i]
    for g in calm:
        if g == full or zone[g] != zone[full] or on[g, f]:
            continue
        for t in range(first[g], first[g + 1]):
            e = slots[t]
            if e < 0 or on[full, e]:
                continue
            price = price_of(slots, home, i, e) + price_of(slots, home, t, f)
            if price > left:
                continue
            after = swapped(w, speed, full, g, f, e, count, load, mean, power)
            gain = (now - after) / max(price, 0.5)
            if gain > best[0]:
                best = (gain, i, t, -1)
    return best


@njit(cache=True)
def quick_step(
    w: F, speed: F, first: I, zone: I, area: I, slots: I, home: I, count: I, on: B, holder: I,
    load: F, mean: F, left: int,
) -> Step:  # fmt: skip
    """As ``best_step``, from a short list: copies of the experts of a fullest GPU in place of
    copies that are missed least, on GPUs with the most time to spare; slots of a fullest GPU given
    to idle experts; and exchanges with the GPUs that have the most time to spare.

    ``first`` (gpus + 1,) delimits the slots of each GPU.
    """
    windows, gpus = load.shape
    experts = count.size
    power, now = np.zeros(windows), 0.0
    idle = np.zeros(gpus)
    for v in range(windows):
        if mean[v] > 0:
            for g in range(gpus):
                power[v] += pow16(load[v, g] / mean[v])
                idle[g] += load[v, g]
            now += mean[v] * power[v] ** (1 / 16)
    missed, gained = np.full(experts, np.inf), np.full(experts, np.inf)
    for e in range(experts):
        total = w[:, e].sum()
        gained[e] = total / (count[e] + 1)
        if count[e] > 1:
            missed[e] = total / (count[e] * (count[e] - 1))
    room = np.empty((3, max(_DONORS, _PLACES)), np.int64)
    donors = room[0, : _least(missed, room[0, :_DONORS])]
    calm = room[1, : _least(idle, room[1, :_PLACES])]
    takers = room[2, : _least(gained, room[2, :_DONORS])]
    best: Step = (now * 1e-6, -1, -1, -1)
    for v in range(windows):
        full = np.argmax(load[v])
        for i in range(first[full], first[full + 1]):
            if slots[i] < 0:
                continue
            best = _give(w, speed, first, zone, area, slots, home, count, on, holder, load, mean,
                         power, idle, left, now, donors, slots[i], best)  # fmt: skip
            best = _free(w, speed, zone, area, slots, home, count, on, holder, load, mean, power,
                         left, now, takers, full, i, best)  # fmt: skip
            best = _exchange(w, speed, first, zone, slots, home, count, on, load, mean, power, left,
                             now, calm, full, i, best)  # fmt: skip
    return best


@njit(cache=True)
def _reload(w: F, speed: F, e: int, count: I, holder: I, load: F, sign: float) -> None:
    """Take the shares of ``e`` from its holders' times, or give them back."""
    for v in range(load.shape[0]):
        share = sign * w[v, e] / count[e]
        for k in range(count[e]):
            load[v, holder[e, k]] += share / speed[holder[e, k]]


@njit(cache=True)
def _leave(e: int, g: int, count: I, on: B, holder: I) -> None:
    for k in range(count[e]):
        if holder[e, k] == g:
            count[e] -= 1
            holder[e, k] = holder[e, count[e]]
            break
    on[g, e] = False


@njit(cache=True)
def _enter(e: int, g: int, count: I, on: B, holder: I) -> None:
    holder[e, count[e]] = g
    count[e] += 1
    on[g, e] = True


@njit(cache=True)
def apply_step(
    w: F, speed: F, gpu: I, slots: I, step: I, count: I, on: B, holder: I, load: F
) -> None:
    """Make a step (slot, other slot or -1, expert, price) in ``slots`` and in the books that
    ``count_layer`` filled.
    """
    s, t = step[0], step[1]
    e, g = slots[s], gpu[s]
    f = step[2] if t < 0 else slots[t]
    for x in (e, f):
        if x >= 0:
            _reload(w, speed, x, count, holder, load, -1.0)
    if e >= 0:
        _leave(e, g, count, on, holder)
    slots[s] = f
    if t >= 0:
        _leave(f, gpu[t], count, on, holder)
        _enter(e, gpu[t], count, on, holder)
        slots[t] = e
    _enter(f, g, count, on, holder)
    for x in (e, f):
        if x >= 0:
            _reload(w, speed, x, count, holder, load, 1.0)


@njit(cache=True)
def _make(slots: I, step: I) -> int:
    """Make a step (slot, other slot or -1, expert, price) and return its price."""
    s, t = step[0], step[1]
    if t < 0:
        slots[s] = step[2]
    else:
        slots[s], slots[t] = slots[t], slots[s]
    return int(step[3])


@njit(cache=True)
def _price(slots: I, home: I, s: int, t: int, f: int) -> int:
    """What a step (slot, other slot or -1, expert) costs in moved slots; 0 for none (-1)."""
    if s < 0:
        return 0
    if t < 0:
        return int(price_of(slots, home, s, f))
    return int(price_of(slots, home, s, slots[t]) + price_of(slots, home, t, slots[s]))


@njit(cache=True)
def sticky_layers(
    w: F, speed: F, gpu: I, zone: I, area: I, slots: I, home: I, limit: int, gain: F, steps: I,
    most: int,
) -> bool:  # fmt: skip
    """Improve ``slots`` (layers, slots) in place, at most ``limit`` of them off ``home``.

    w (windows, layers, experts). Each round takes the layer whose best step gains most for each
    moved slot. Stops after ``most`` searches of a layer and returns whether there may be more to
    do; with 0 it makes the steps that earlier calls found, one a layer, and is done. ``gain``
    (layers,), NaN where a layer is still to be searched, and ``steps`` (layers, 4) are what a
    later call goes on from.
    """
    windows, layers, experts = w.shape
    gpus = speed.size
    count, on = np.zeros(experts, np.int64), np.zeros((gpus, experts), np.bool_)
    holder = np.zeros((experts, gpus), np.int64)
    load, mean = np.zeros((windows, gpus)), np.zeros((layers, windows))
    first = np.searchsorted(gpu, np.arange(gpus + 1))
    moved, searched, loaded = int((slots != home).sum()), 0, -1
    for x in range(layers):
        for v in range(windows):
            mean[x, v] = w[v, x].sum() / speed.sum()
    if most == 0:
        for x in range(layers):
            if gain[x] > 0.0 and steps[x, 3] <= limit - moved:
                moved += _make(slots[x], steps[x])
        return False
    while True:
        for x in range(layers):
            if not np.isnan(gain[x]) and steps[x, 3] <= limit - moved:
                continue
            if searched == most:
                return True
            searched += 1
            part = w[:, x]
            if loaded != x:
                count_layer(part, speed, gpu, slots[x], count, on, holder, load)
                loaded = x
            left = limit - moved
            g, s, t, f = 0.0, -1, -1, -1
            if gpu.size >= _LARGE:
                g, s, t, f = quick_step(part, speed, first, zone, area[x], slots[x], home[x],
                                        count, on, holder, load, mean[x], left)  # fmt: skip
            if s < 0:
                g, s, t, f = best_step(part, speed, gpu, zone, area[x], slots[x], home[x], count,
                                       on, holder, load, mean[x], left)  # fmt: skip
            gain[x] = g if s >= 0 else 0.0
            steps[x, 0], steps[x, 1], steps[x, 2] = s, t, f
            steps[x, 3] = _price(slots[x], home[x], s, t, f)
        x = int(np.argmax(gain))
        if gain[x] <= 0.0:
            return False
        if loaded >= 0 and gain[loaded] >= _STAY * gain[x]:
            x = loaded
            moved += steps[x, 3]
            apply_step(w[:, x], speed, gpu, slots[x], steps[x], count, on, holder, load)
        else:
            moved += _make(slots[x], steps[x])
            loaded = -1
        gain[x] = np.nan
