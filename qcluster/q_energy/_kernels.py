"""Compiled inner loops: hulls of many curves, longest paths, boosted trees.

Each has a plain twin in the tests that it is held against. Arrays are C-contiguous; int64 and
float64 throughout.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

I = NDArray[np.int64]  # noqa: E741 - short names keep the signatures readable
F = NDArray[np.float64]
B = NDArray[np.bool_]
Rng = np.random.Generator

_SLACK = 1e-9  # watts; sums of floats in different orders differ by less
_SORTED = 4096  # increments that are put in order


@njit(cache=True)
def hull_increments(power: F, value: F, begin: I, allowed: B) -> tuple[I, I, I, F, F]:
    """Upper concave hulls of many curves as increments from each curve's cheapest point.

    ``power``, ``value``, ``allowed``: all curves' points one after the other; curve c owns
    ``begin[c]`` to ``begin[c + 1]``. Returns (base index of each curve, and per increment: curve,
    index of the point it leads to, watts, value). Andrew's monotone chain (1979).
    """
    n = len(begin) - 1
    total = len(power)
    base = np.zeros(n, np.int64)
    curve = np.empty(total, np.int64)
    point = np.empty(total, np.int64)
    watts = np.empty(total)
    gain = np.empty(total)
    m = 0
    for c in range(n):
        lo, hi = begin[c], begin[c + 1]
        rising = True
        for q in range(lo + 1, hi):
            rising = rising and power[q] >= power[q - 1]
        order = np.arange(lo, hi)
        if not rising:
            order = lo + np.argsort(power[lo:hi], kind="mergesort")
        hull = np.empty(hi - lo, np.int64)
        k = 0
        for q in order:
            if not allowed[q]:
                continue
            if k and value[q] <= value[hull[k - 1]]:
                continue
            if k and power[q] <= power[hull[k - 1]]:
                k -= 1  # same watts, more value
            while k >= 2:
                a, b = hull[k - 2], hull[k - 1]
                left = (value[b] - value[a]) * (power[q] - power[a])
                right = (value[q] - value[a]) * (power[b] - power[a])
                if left > right:
                    break
                k -= 1
            hull[k] = q
            k += 1
        base[c] = hull[0]
        for i in range(1, k):
            curve[m] = c
            point[m] = hull[i]
            watts[m] = power[hull[i]] - power[hull[i - 1]]
            gain[m] = value[hull[i]] - value[hull[i - 1]]
            m += 1
    return base, curve[:m], point[:m], watts[:m], gain[:m]


@njit(cache=True)
def slopes(curve: I, watts: F, gain: F) -> F:
    """Value a watt of increments; on one curve never rising, whatever rounding says."""
    out = np.empty(len(watts))
    for e in range(len(watts)):
        out[e] = gain[e] / max(watts[e], 1e-300)
        if e and curve[e] == curve[e - 1]:
            out[e] = min(out[e], out[e - 1])
    return out


@njit(cache=True)
def around_critical(slope: F, watts: F, left: float) -> tuple[I, int, int]:
    """Increments arranged about the slope at which ``left`` watts run out, and where that part is.

    Returns (indices, low, high): those before ``low`` are steeper than those up to ``high``, and
    these than the rest; those before ``low`` fit together, those before ``high`` do not, if any
    are left out. Quickselect on sums of watts (Hoare 1961): all in order would take ten times as
    long, and only the last few that fit need one.
    """
    at = np.arange(len(slope))
    low, high = 0, len(slope)
    while high - low > _SORTED:
        a, b, c = slope[at[low]], slope[at[(low + high) // 2]], slope[at[high - 1]]
        pivot = max(min(a, b), min(max(a, b), c))
        k, steep, flat = low, low, high
        above = equal = 0.0
        while k < flat:
            e = at[k]
            if slope[e] > pivot:
                at[k], at[steep] = at[steep], e
                above += watts[e]
                steep += 1
                k += 1
            elif slope[e] < pivot:
                flat -= 1
                at[k], at[flat] = at[flat], e
            else:
                equal += watts[e]
                k += 1
        if above > left:
            high = steep
        elif above + equal > left:
            return at, steep, flat
        else:
            left -= above + equal
            low = flat
    return at, low, high


@njit(cache=True)
def take_increments(
    curve: I, point: I, watts: F, gain: F, left: float, choice: I
) -> tuple[float, float, float]:
    """Take increments, steepest first, while they fit; returns (watts left, value won, bound).

    ``choice`` (curves,) is changed in place. The bound is the linear relaxation's value: all
    increments before the first that does not fit, and a fraction of that one (Dantzig 1957).
    Up to ``_SORTED`` increments all others are tried too; of more, those about the first.
    """
    slope = slopes(curve, watts, gain)
    at, low, high = around_critical(slope, watts, left)
    sure = np.zeros(len(slope), np.bool_)
    sure[at[:low]] = True
    won = 0.0
    for e in range(len(slope)):
        if sure[e]:
            left -= watts[e]
            won += gain[e]
            choice[curve[e]] = point[e]
    blocked = np.zeros(len(choice), np.bool_)
    bound = 0.0
    broke = False
    near = np.sort(at[low:high])
    for e in near[np.argsort(-slope[near], kind="mergesort")]:
        c = curve[e]
        if not broke and watts[e] > left + _SLACK:
            broke = True
            bound = won + slope[e] * max(0.0, left)
        if blocked[c]:
            continue
        if watts[e] <= left + _SLACK:
            left -= watts[e]
            won += gain[e]
            choice[c] = point[e]
        else:
            blocked[c] = True
    if not broke:
        bound = won
        if high < len(slope):
            bound += slope[at[high:]].max() * max(0.0, left)
    return left, won, bound


@njit(cache=True)
def fill_left(power: F, value: F, begin: I, allowed: B, left: float, choice: I) -> float:
    """Use the watts left on any point, hull or not, by gain; changes ``choice`` in place.

    Each pass takes for every curve in turn its most valuable point that fits, best gain first;
    ends when nothing fits. Returns the watts still left.
    """
    n = len(choice)
    best = np.empty(n, np.int64)
    gain = np.empty(n)
    for _ in range(8):
        some = False
        for c in range(n):
            best[c] = choice[c]
            gain[c] = 0.0
            for q in range(begin[c], begin[c + 1]):
                won = value[q] - value[choice[c]]
                fits = power[q] - power[choice[c]] <= left + _SLACK
                if allowed[q] and fits and won > gain[c] + 1e-12:
                    best[c] = q
                    gain[c] = won
                    some = True
        if not some:
            break
        for c in np.argsort(-gain):
            more = power[best[c]] - power[choice[c]]
            if gain[c] <= 0.0:
                break
            if more <= left + _SLACK:
                left -= more
                choice[c] = best[c]
    return left


@njit(cache=True)
def nearest_curves(
    rows: I, caps: F, max_w: F, demand: F, idle: F, speed: F, rests: F, memories: F, power: float,
    out_idle: F, out_memory: F,
) -> None:  # fmt: skip
    """Fill ``out_idle`` and ``out_memory`` (n,) of ``rows`` with the physical curve (``curves``)
    nearest to ``speed`` (n, caps), in the sum of distances at caps below the demand.

    ``rests`` are shares of ``idle`` (n,), ``caps`` of ``max_w`` (n,); ``power`` of the clock.
    """
    clock = np.empty(len(caps))
    for n in rows:
        held = 0
        while held < len(caps) and caps[held] * max_w[n] < demand[n]:
            held += 1
        best = np.inf
        for rest in rests:
            low = rest * idle[n]
            span = max(demand[n] - low, 1e-9)
            for k in range(held):
                clock[k] = min(max((caps[k] * max_w[n] - low) / span, 0.0), 1.0) ** power
            for memory in memories:
                error = 0.0
                for k in range(held):
                    found = clock[k] / ((1.0 - memory) + memory * clock[k])
                    error += abs(found - speed[n, k])
                if error < best:
                    best, out_idle[n], out_memory[n] = error, low, memory


@njit(cache=True)
def add_trees(x: F, split: F, link: I, root: I, out: F) -> None:
    """Add every tree's leaf for each row of ``x`` to ``out``; layout as in ``trees.Trees``."""
    for i in range(len(x)):
        for r in root:
            at = r
            while not link[at, 3]:
                value = x[i, link[at, 0]]
                left = link[at, 4] == 1 if np.isnan(value) else value <= split[at, 0]
                at = link[at, 1] if left else link[at, 2]
            out[i] += split[at, 1]


@njit(cache=True)
def longest_path(order: I, before_ptr: I, before: I, took: F, start: F) -> float:
    """Earliest starts of operations that take ``took``; fills ``start``, returns the makespan."""
    span = 0.0
    for t in order:
        s = 0.0
        for e in range(before_ptr[t], before_ptr[t + 1]):
            s = max(s, start[before[e]] + took[before[e]])
        start[t] = s
        span = max(span, s + took[t])
    return span


@njit(cache=True)
def try_slower(
    wanted: I, time: F, width: I, before_ptr: I, before: I, order: I, deadline: float, at: I
) -> None:
    """Move each operation of ``wanted``, in turn, to its next clock if the deadline still holds."""
    n = len(at)
    took = np.empty(n)
    start = np.empty(n)
    for t in range(n):
        took[t] = time[t, at[t]]
    for t in wanted:
        if at[t] + 1 >= width[t]:
            continue
        old = took[t]
        took[t] = time[t, at[t] + 1]
        if longest_path(order, before_ptr, before, took, start) <= deadline:
            at[t] += 1
        else:
            took[t] = old


@njit(cache=True)
def slow_down(
    time: F, price: F, width: I, before_ptr: I, before: I, order: I, deadline: float, at: I
) -> None:
    """Move operations to slower, cheaper clocks while the deadline holds; changes ``at``.

    Each pass goes over the operations by saving per second of the next clock and takes what its
    present slack allows; slack is that of earliest starts against latest ends.
    """
    n = len(at)
    took = np.empty(n)
    start = np.empty(n)
    late = np.empty(n)
    worth = np.empty(n)
    for t in range(n):
        took[t] = time[t, at[t]]
    for _ in range(50):
        longest_path(order, before_ptr, before, took, start)
        late[:] = deadline
        for i in range(n - 1, -1, -1):
            t = order[i]
            for e in range(before_ptr[t], before_ptr[t + 1]):
                late[before[e]] = min(late[before[e]], late[t] - took[t])
        changed = False
        for t in range(n):
            worth[t] = 0.0
            if at[t] + 1 < width[t]:
                more = time[t, at[t] + 1] - time[t, at[t]]
                if start[t] + took[t] + more <= late[t]:
                    worth[t] = (price[t, at[t]] - price[t, at[t] + 1]) / more
        best = np.argsort(-worth)
        taken = 0
        for t in best:
            if worth[t] <= 0.0 or taken > max(1, n // 20):
                break
            more = time[t, at[t] + 1] - time[t, at[t]]
            old = took[t]
            took[t] = old + more
            if longest_path(order, before_ptr, before, took, start) <= deadline:
                at[t] += 1
                changed = True
                taken += 1
            else:
                took[t] = old
        if not changed:
            break
