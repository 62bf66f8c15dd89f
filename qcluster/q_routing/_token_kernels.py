"""Numba kernels of token assignment under capacities: price sweeps, final picks, repair."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["demand", "demand_top", "evict", "picks", "settle"]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741
S = NDArray[np.floating]  # scores, float32 or float64


@njit(cache=True, fastmath={"nnan", "ninf", "nsz"})
def demand(scores: S, price: S, weight: F, rows: I, load: F) -> float:
    """Load of each expert when every token of ``rows`` takes its best, and sum of best values.

    The value of an expert to a token is its score minus weight x price; ties go to the lower index.
    """
    load[:] = 0.0
    total = 0.0
    experts = price.size
    for i in rows:
        best, at = scores[i, 0] - weight[i] * price[0], 0
        for e in range(1, experts):
            value = scores[i, e] - weight[i] * price[e]
            if value > best:
                best, at = value, e
        load[at] += weight[i]
        total += best
    return total


@njit(cache=True)
def demand_top(scores: S, price: S, weight: F, rows: I, k: int, load: F) -> float:
    """As ``demand``, when every token takes its ``k`` best."""
    load[:] = 0.0
    total = 0.0
    top, at = np.empty(k), np.empty(k, dtype=np.int64)
    for i in rows:
        top[:] = -np.inf
        for e in range(price.size):
            value = scores[i, e] - weight[i] * price[e]
            if value > top[k - 1]:
                j = k - 1
                while j > 0 and value > top[j - 1]:
                    top[j], at[j] = top[j - 1], at[j - 1]
                    j -= 1
                top[j], at[j] = value, e
        for j in range(k):
            load[at[j]] += weight[i]
            total += top[j]
    return total


@njit(cache=True)
def picks(scores: S, price: S, weight: F, out: I, regret: F, load: F) -> float:
    """Each token's ``out.shape[1]`` best experts, and what its last pick is worth over the next.

    Returns the sum of the values picked. ``regret`` (tokens, k): value of each pick minus that of
    the best expert not picked, per unit of weight.
    """
    tokens, k = out.shape
    experts = price.size
    load[:] = 0.0
    total = 0.0
    top, at = np.empty(k + 1), np.empty(k + 1, dtype=np.int64)
    for i in range(tokens):
        top[:] = -np.inf
        at[:] = -1
        for e in range(experts):
            value = scores[i, e] - weight[i] * price[e]
            if value > top[k]:
                j = k
                while j > 0 and value > top[j - 1]:
                    top[j], at[j] = top[j - 1], at[j - 1]
                    j -= 1
                top[j], at[j] = value, e
        for j in range(k):
            out[i, j] = at[j]
            load[at[j]] += weight[i]
            total += top[j]
            regret[i, j] = (top[j] - top[k]) / weight[i] if at[k] >= 0 else np.inf
    return total


@njit(cache=True)
def evict(out: I, order: I, weight: F, capacity: F, load: F, cast: I) -> int:
    """Take picks out of overfull experts, in ``order`` of flat pick index; returns how many.

    ``cast`` receives their flat indices; ``out`` holds -1 there.
    """
    k = out.shape[1]
    n = 0
    for flat in order:
        i, j = flat // k, flat % k
        e = out[i, j]
        if load[e] > capacity[e]:
            load[e] -= weight[i]
            out[i, j] = -1
            cast[n] = flat
            n += 1
    return n


@njit(cache=True)
def settle(scores: S, price: S, weight: F, cast: I, capacity: F, load: F, out: I) -> int:
    """Give each pick in ``cast`` (served from the last) the best expert with room that its token
    does not hold; where there is none, another token makes room. Returns how many stay without.
    """
    k = out.shape[1]
    experts = price.size
    failed = 0
    for n in range(cast.size - 1, -1, -1):
        i, j = cast[n] // k, cast[n] % k
        best, at = -np.inf, -1
        for e in range(experts):
            value = scores[i, e] - weight[i] * price[e]
            if value > best and load[e] + weight[i] <= capacity[e] and not _holds(out, i, e):
                best, at = value, e
        if at < 0:
            at = _make_room(i, weight, capacity, load, out)
        if at < 0:
            failed += 1
            continue
        out[i, j] = at
        load[at] += weight[i]
    return failed


@njit(cache=True)
def _holds(out: I, i: int, e: int) -> bool:
    for j in range(out.shape[1]):  # noqa: SIM110 - numba has no generators here
        if out[i, j] == e:
            return True
    return False


@njit(cache=True)
def _make_room(i: int, weight: F, capacity: F, load: F, out: I) -> int:
    """Move one other token's pick to an expert with room so that token ``i`` fits in its place."""
    tokens, k = out.shape
    for u in range(tokens):
        for j in range(k):
            x = out[u, j]
            if u == i or x < 0 or _holds(out, i, x):
                continue
            if load[x] - weight[u] + weight[i] > capacity[x]:
                continue
            for r in range(capacity.size):
                if load[r] + weight[u] <= capacity[r] and r != x and not _holds(out, u, r):
                    out[u, j] = r
                    load[r] += weight[u]
                    load[x] -= weight[u]
                    return int(x)
    return -1
