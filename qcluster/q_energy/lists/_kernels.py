"""Compiled inner loops of the peak search: list schedules under a power cap, and their evolution.

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


@njit(cache=True)
def place(
    order: I, dur: I, power: F, before_ptr: I, before: I, cap: float, start: I, load: F
) -> int:
    """Serial schedule generation: each task of ``order`` at its earliest step under the cap.

    ``before[before_ptr[t]:before_ptr[t + 1]]`` are t's predecessors, which stand earlier in
    ``order``. ``load`` (at least sum of durations + 1) is scratch. Fills ``start``; returns the
    makespan. ``cap`` must be at least every task's power. Kolisch (1996).
    """
    load[:] = 0.0
    span = 0
    for t in order:
        s = 0
        for e in range(before_ptr[t], before_ptr[t + 1]):
            b = before[e]
            s = max(s, start[b] + dur[b])
        room = cap - power[t] + _SLACK
        d = dur[t]
        i = s
        while i < s + d:
            if load[i] > room:
                s = i + 1
            i += 1
        start[t] = s
        for i in range(s, s + d):
            load[i] += power[t]
        span = max(span, s + d)
    return span


@njit(cache=True)
def feasible_list(order: I, before_ptr: I, before: I) -> I:
    """``order`` with every task moved behind its predecessors, otherwise as it was."""
    n = len(order)
    out = np.empty(n, np.int64)
    state = np.zeros(n, np.int8)
    stack = np.empty(n + 1, np.int64)
    k = 0
    for first in order:
        if state[first]:
            continue
        top = 0
        stack[0] = first
        state[first] = 1
        while top >= 0:
            t = stack[top]
            deeper = False
            for e in range(before_ptr[t], before_ptr[t + 1]):
                if not state[before[e]]:
                    top += 1
                    stack[top] = before[e]
                    state[before[e]] = 1
                    deeper = True
                    break
            if not deeper:
                out[k] = t
                k += 1
                top -= 1
    return out


@njit(cache=True)
def by_time(key: I, rank: I, order: I) -> None:
    """Sort ``order`` by ``key`` then ``rank``, in place: a shell sort without allocations."""
    n = len(order)
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap:
        for i in range(gap, n):
            t = order[i]
            j = i
            while j >= gap:
                o = order[j - gap]
                if key[o] < key[t] or (key[o] == key[t] and rank[o] <= rank[t]):
                    break
                order[j] = o
                j -= gap
            order[j] = t
        gap //= 3


@njit(cache=True)
def justify(
    order: I,
    dur: I,
    power: F,
    pp: I,
    pre: I,
    sp: I,
    suc: I,
    rank: I,
    cap: float,
    start: I,
    load: F,
    key: I,
) -> int:
    """A schedule from a list, then pushed right and left again (Tormos and Lova 2001).

    ``pp, pre`` predecessors, ``sp, suc`` successors, ``rank`` a topological rank. ``order`` ends
    as the list of the final left-justified schedule. Returns the makespan.
    """
    n = len(dur)
    back_rank = n - rank
    span = place(order, dur, power, pp, pre, cap, start, load)
    for _ in range(3):
        for t in range(n):
            key[t] = -(start[t] + dur[t])
        by_time(key, back_rank, order)
        back = place(order, dur, power, sp, suc, cap, key, load)
        for t in range(n):
            start[t] = back - key[t] - dur[t]
            key[t] = start[t]
        by_time(key, rank, order)
        after = place(order, dur, power, pp, pre, cap, start, load)
        for t in range(n):
            key[t] = start[t]
        by_time(key, rank, order)
        if after >= span:
            break
        span = after
    return int(after)


@njit(cache=True)
def breed(lists: I, genes: I, score: F, modes: I, child: I, mode: I, used: B, rng: Rng) -> None:
    """Two-point crossover of two good lists into ``child``, and of their modes into ``mode``."""
    size, n = lists.shape
    a = rng.integers(0, size)
    b = rng.integers(0, size)
    if score[b] < score[a]:
        a, b = b, a
    c = rng.integers(0, size)
    if score[c] < score[b] and c != a:
        b = c
    lo = rng.integers(0, n + 1)
    hi = lo + rng.integers(1, n // 2 + 2)
    used[:] = False
    k = 0
    while k < min(lo, n):
        child[k] = lists[a, k]
        used[child[k]] = True
        k += 1
    for t in lists[b]:
        if k >= min(hi, n):
            break
        if not used[t]:
            child[k] = t
            used[t] = True
            k += 1
    for t in lists[a]:
        if not used[t]:
            child[k] = t
            used[t] = True
            k += 1
    for t in range(n):
        mode[t] = genes[a, t] if rng.random() < 0.5 else genes[b, t]
        if modes[t] > 1 and rng.random() < 0.03:
            mode[t] = rng.integers(0, modes[t])


@njit(cache=True)
def set_modes(dur_of: I, power_of: F, modes: I, cap: float, mode: I, dur: I, power: F) -> None:
    """Durations and watts of the modes; a mode above the cap gives way to the first below it."""
    for t in range(len(modes)):
        if power_of[t, mode[t]] > cap + _SLACK:
            for k in range(modes[t]):
                if power_of[t, k] <= cap + _SLACK:
                    mode[t] = k
                    break
        dur[t] = dur_of[t, mode[t]]
        power[t] = power_of[t, mode[t]]


@njit(cache=True)
def place_of(score: F, worth: float) -> int:
    """Whom a newcomer replaces: one of equal worth, else the worst; -1 when it is worse."""
    slot = 0
    for k in range(len(score)):
        if score[k] == worth:
            return k
        if score[k] > score[slot]:
            slot = k
    return slot if worth <= score[slot] else -1


@njit(cache=True)
def evolve(
    dur_of: I, power_of: F, modes: I, pp: I, pre: I, sp: I, suc: I, rank: I, tail: I,
    deadline: int, cap: float, lists: I, genes: I, score: F, rounds: int, rng: Rng,
    start: I, mode: I,
) -> int:  # fmt: skip
    """Look for a schedule that ends by the deadline under the cap.

    A steady-state genetic search over task lists and modes with two-point crossover (Hartmann
    1998) and forward-backward justification. ``dur_of``, ``power_of`` (n, m); ``modes`` (n,) how
    many; ``lists`` (population, n), ``genes`` (population, n) modes and ``score`` (population,)
    are the population, changed in place; negative scores are evaluated first. Returns 1 and fills
    ``start`` and ``mode`` when found, otherwise 0 after ``rounds`` evaluations.
    """
    size, n = lists.shape
    steps = 1
    for t in range(n):
        steps += dur_of[t].max()
    load = np.empty(steps)
    key = np.empty(n, np.int64)
    dur = np.empty(n, np.int64)
    power = np.empty(n)
    child = np.empty(n, np.int64)
    used = np.empty(n, np.bool_)
    for r in range(rounds):
        slot = -1
        if r < size:
            if score[r] >= 0:
                continue
            slot = r
            child[:] = lists[r]
            mode[:] = genes[r]
        else:
            breed(lists, genes, score, modes, child, mode, used, rng)
            mutate(child, pp, pre, n, rng)
        set_modes(dur_of, power_of, modes, cap, mode, dur, power)
        span = justify(child, dur, power, pp, pre, sp, suc, rank, cap, start, load, key)
        if span <= deadline:
            return 1
        late = 0
        for t in range(n):
            late += max(0, start[t] + dur[t] + tail[t] - deadline)
        worth = float(span - deadline) * 1e6 + late
        if slot < 0:
            slot = place_of(score, worth)
            if slot < 0:
                continue
        lists[slot] = child
        genes[slot] = mode
        score[slot] = worth
    return 0


@njit(cache=True)
def mutate(child: I, pp: I, pre: I, n: int, rng: Rng) -> None:
    """Move a few tasks to another place of the list that keeps precedence."""
    moves = 1 + rng.integers(0, 3)
    for _ in range(moves):
        i = rng.integers(0, n)
        t = child[i]
        j = i
        reach = 1 + rng.integers(0, max(1, n // 4))
        while j > 0 and reach > 0:
            o = child[j - 1]
            blocked = False
            for e in range(pp[t], pp[t + 1]):
                if pre[e] == o:
                    blocked = True
                    break
            if blocked:
                break
            child[j] = o
            j -= 1
            reach -= 1
        child[j] = t
