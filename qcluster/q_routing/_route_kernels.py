"""Numba kernels of the routing objective: its value, the gain of a move, local search, annealing.

The last eleven arguments of each kernel are ``RoutingProblem.arrays``. ``load`` (experts,) is the
complexity on each expert, ``used`` (experts,) its tokens, ``pull`` (groups, experts) the summed
distance from each expert to a group's tokens.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["anneal", "descend", "enumerate_all", "move_costs", "objective", "state"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741


@njit(cache=True)
def objective(
    choice: I, weight: F, linear: F, near: F, group: I, size: I, start: I, other: I, value: F,
    share: F, balance: float, together: float,
) -> float:  # fmt: skip
    """The objective of ``choice`` (tokens,), from scratch."""
    experts = share.size
    load = np.zeros(experts)
    total, apart = 0.0, 0.0
    counts = np.zeros((max(size.size, 1), experts))
    for i in range(choice.size):
        load[choice[i]] += weight[i]
        total += linear[i, choice[i]]
        if group[i] >= 0:
            counts[group[i], choice[i]] += 1.0
        for k in range(start[i], start[i + 1]):
            apart += value[k] * near[choice[i], choice[other[k]]] / 2
    for g in range(size.size):
        for e in range(experts):
            if size[g] > 1 and counts[g, e] > 0:
                for f in range(experts):
                    # Pairs once, scaled so that a group weighs as much as size - 1 pairs.
                    apart += counts[g, e] * counts[g, f] * near[e, f] / size[g]
    spread, mass = 0.0, weight.sum()
    for e in range(experts):
        spread += load[e] ** 2 / share[e]
    return float(balance * (spread - mass**2) + total + together * apart)


@njit(cache=True)
def state(choice: I, weight: F, near: F, group: I, load: F, used: I, pull: F) -> None:
    """Fill ``load``, ``used`` and ``pull`` for an assignment."""
    load[:] = 0.0
    used[:] = 0
    pull[:] = 0.0
    for i in range(choice.size):
        load[choice[i]] += weight[i]
        used[choice[i]] += 1
        if group[i] >= 0:
            for e in range(load.size):
                pull[group[i], e] += near[e, choice[i]]


@njit(cache=True)
def move_costs(
    i: int, choice: I, load: F, pull: F, out: F, weight: F, linear: F, near: F, group: I, size: I,
    start: I, other: I, value: F, share: F, balance: float, together: float,
) -> None:  # fmt: skip
    """Change of the objective when token ``i`` goes to each expert, (experts,) into ``out``."""
    e, w, g = choice[i], weight[i], group[i]
    leave = ((load[e] - w) ** 2 - load[e] ** 2) / share[e]
    for f in range(share.size):
        if f == e:
            out[f] = 0.0
            continue
        change = ((load[f] + w) ** 2 - load[f] ** 2) / share[f] + leave
        cost = balance * change + linear[i, f] - linear[i, e]
        apart = 0.0
        if g >= 0 and size[g] > 1:
            # The token itself is in the pull; at home it adds nothing, away near[f, e].
            apart += (pull[g, f] - near[f, e] - pull[g, e]) * 2.0 / size[g]
        for k in range(start[i], start[i + 1]):
            at = choice[other[k]]
            apart += value[k] * (near[f, at] - near[e, at])
        out[f] = cost + together * apart


@njit(cache=True)
def _go(i: int, f: int, choice: I, load: F, used: I, pull: F, weight: F, near: F, group: I) -> None:
    e = choice[i]
    choice[i] = f
    load[e] -= weight[i]
    load[f] += weight[i]
    used[e] -= 1
    used[f] += 1
    if group[i] >= 0:
        for x in range(load.size):
            pull[group[i], x] += near[x, f] - near[x, e]


@njit(cache=True)
def descend(
    choice: I, capacity: I, load: F, used: I, pull: F, begin: int, end: int, swaps: bool,
    weight: F, linear: F, near: F, group: I, size: I, start: I, other: I, value: F, share: F,
    balance: float, together: float,
) -> float:  # fmt: skip
    """One sweep of best moves (and exchanges, where the better expert is full) over tokens
    ``begin`` to ``end``; returns by how much the objective fell.
    """
    experts = share.size
    costs, back = np.empty(experts), np.empty(experts)
    fell = 0.0
    for i in range(begin, end):
        move_costs(i, choice, load, pull, costs, weight, linear, near, group, size, start, other,
                   value, share, balance, together)  # fmt: skip
        best, at, wish, full = -1e-12, -1, -1e-12, -1
        for f in range(experts):
            if used[f] < capacity[f]:
                if costs[f] < best:
                    best, at = costs[f], f
            elif costs[f] < wish and f != choice[i]:
                wish, full = costs[f], f
        if swaps and full >= 0 and wish < best:
            home, gain = choice[i], costs[full]
            _go(i, full, choice, load, used, pull, weight, near, group)
            partner, reached = -1, min(best, -1e-12)
            for j in range(choice.size):
                if j != i and choice[j] == full:
                    move_costs(j, choice, load, pull, back, weight, linear, near, group, size,
                               start, other, value, share, balance, together)  # fmt: skip
                    if gain + back[home] < reached:
                        reached, partner = gain + back[home], j
            if partner >= 0:
                _go(partner, home, choice, load, used, pull, weight, near, group)
                fell -= reached
                continue
            _go(i, home, choice, load, used, pull, weight, near, group)
        if at >= 0:
            _go(i, at, choice, load, used, pull, weight, near, group)
            fell -= best
    return fell


@njit(cache=True)
def anneal(
    choice: I, capacity: I, load: F, used: I, pull: F, steps: int, hot: float, cold: float,
    seed: int, weight: F, linear: F, near: F, group: I, size: I, start: I, other: I, value: F,
    share: F, balance: float, together: float,
) -> I:  # fmt: skip
    """Simulated annealing by moves and exchanges from temperature ``hot`` down to ``cold``;
    returns the best assignment met (Kirkpatrick et al. 1983).
    """
    np.random.seed(seed)  # noqa: NPY002 - what numba compiles
    experts, tokens = share.size, choice.size
    costs, back = np.empty(experts), np.empty(experts)
    best, now, low = choice.copy(), 0.0, 0.0
    for step in range(steps):
        heat = hot * (cold / hot) ** (step / max(steps - 1, 1))
        i, f = np.random.randint(tokens), np.random.randint(experts)  # noqa: NPY002
        e = choice[i]
        if f == e:
            continue
        move_costs(i, choice, load, pull, costs, weight, linear, near, group, size, start, other,
                   value, share, balance, together)  # fmt: skip
        change, j = costs[f], -1
        _go(i, f, choice, load, used, pull, weight, near, group)
        if used[f] > capacity[f]:
            for _ in range(4 * experts):
                j = np.random.randint(tokens)  # noqa: NPY002
                if j != i and choice[j] == f:
                    break
                j = -1
            if j < 0:
                _go(i, e, choice, load, used, pull, weight, near, group)
                continue
            move_costs(j, choice, load, pull, back, weight, linear, near, group, size, start,
                       other, value, share, balance, together)  # fmt: skip
            change += back[e]
        if change > 0 and np.random.random() >= np.exp(-change / heat):  # noqa: NPY002
            _go(i, e, choice, load, used, pull, weight, near, group)
            continue
        if j >= 0:
            _go(j, e, choice, load, used, pull, weight, near, group)
        now += change
        if now < low - 1e-12:
            low = now
            best[:] = choice
    return best


@njit(cache=True)
def enumerate_all(
    capacity: I, weight: F, linear: F, near: F, group: I, size: I, start: I, other: I, value: F,
    share: F, balance: float, together: float,
) -> tuple[I, float]:  # fmt: skip
    """The best of all experts^tokens assignments within the capacities."""
    tokens, experts = linear.shape
    choice, best = np.zeros(tokens, np.int64), np.zeros(tokens, np.int64)
    used, low = np.zeros(experts, np.int64), np.inf
    used[0] = tokens
    while True:
        fits = True
        for e in range(experts):
            fits = fits and used[e] <= capacity[e]
        if fits:
            cost = objective(choice, weight, linear, near, group, size, start, other, value,
                             share, balance, together)  # fmt: skip
            if cost < low:
                low = cost
                best[:] = choice
        i = 0
        while i < tokens:
            used[choice[i]] -= 1
            choice[i] = (choice[i] + 1) % experts
            used[choice[i]] += 1
            if choice[i] != 0:
                break
            i += 1
        if i == tokens:
            return best, low
