"""Hierarchical mode: groups of experts are pinned to nodes so that no token leaves its node twice.

Each node takes the same number of groups. The pairing that makes the fullest node least full is
found exactly by branch and bound where there are few groups (Korf 1998, for number partitioning),
and by LPT with swaps beyond that; the bound stays a proof either way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXACT_GROUPS", "pair_groups"]

EXACT_GROUPS = 12
"""Up to this many groups the pairing is exact (at most 15,400 partitions into threes)."""


def pair_groups(
    load: NDArray[np.float64], speed: NDArray[np.float64]
) -> tuple[NDArray[np.int64], float]:
    """Node of each group, and a lower bound on the time of the fullest node.

    load (groups,), speed (nodes,): total speed of each node's GPUs, 0 if all are dead.
    """
    groups, nodes = len(load), len(speed)
    size = groups // nodes
    rate = np.maximum(speed, 1e-300)
    best = _greedy(load, rate, size)
    top = _top(load, best, rate)
    floor = max(float(load.sum() / speed.sum()), _largest(load, rate))
    if groups > EXACT_GROUPS or nodes == 1:
        return best, min(floor, top)
    node, top = _search(load, rate, size, best, top)
    return node, top


def _top(load: NDArray[np.float64], node: NDArray[np.int64], rate: NDArray[np.float64]) -> float:
    return float((np.bincount(node, weights=load, minlength=len(rate)) / rate).max())


def _largest(load: NDArray[np.float64], rate: NDArray[np.float64]) -> float:
    return float(load.max() / rate.max())


def _greedy(load: NDArray[np.float64], rate: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    node, total = np.zeros(len(load), dtype=np.int64), np.zeros(len(rate))
    held = np.zeros(len(rate), dtype=np.int64)
    for group in np.argsort(-load, kind="stable"):
        after = np.where(held < size, (total + load[group]) / rate, np.inf)
        chosen = int(after.argmin())
        node[group], held[chosen] = chosen, held[chosen] + 1
        total[chosen] += load[group]
    return _swaps(load, node, total, rate)


def _swaps(
    load: NDArray[np.float64],
    node: NDArray[np.int64],
    total: NDArray[np.float64],
    rate: NDArray[np.float64],
) -> NDArray[np.int64]:
    while True:
        full = int((total / rate).argmax())
        inside, outside = np.flatnonzero(node == full), np.flatnonzero(node != full)
        if not len(outside):
            return node
        moved = load[inside][:, None] - load[outside][None, :]
        there = (total[node[outside]][None, :] + moved) / rate[node[outside]][None, :]
        after = np.maximum((total[full] - moved) / rate[full], there)
        i, j = np.unravel_index(int(after.argmin()), after.shape)
        if after[i, j] >= total[full] / rate[full] * (1 - 1e-12):
            return node
        a, b, delta = inside[i], outside[j], moved[i, j]
        total[full] -= delta
        total[node[b]] += delta
        node[a], node[b] = node[b], node[a]


def _search(
    load: NDArray[np.float64],
    rate: NDArray[np.float64],
    size: int,
    best: NDArray[np.int64],
    top: float,
) -> tuple[NDArray[np.int64], float]:
    """Depth first over groups by falling load; nodes of equal speed and content are tried once."""
    order = [int(g) for g in np.argsort(-load, kind="stable")]
    weights, rates = load.tolist(), rate.tolist()
    total, held = [0.0] * len(rates), [0] * len(rates)
    node = [0] * len(weights)
    found = best
    limit = top

    def place(depth: int, reached: float) -> None:
        nonlocal found, limit
        if depth == len(order):
            found, limit = np.array(node, dtype=np.int64), reached
            return
        group, seen = order[depth], set()
        for n, rate_n in enumerate(rates):
            state = (held[n], total[n], rate_n)
            after = max(reached, (total[n] + weights[group]) / rate_n)
            if held[n] == size or state in seen or after >= limit * (1 - 1e-12):
                continue
            seen.add(state)
            before, total[n], held[n], node[group] = (
                total[n],
                total[n] + weights[group],
                held[n] + 1,
                n,
            )
            place(depth + 1, after)
            total[n], held[n] = before, held[n] - 1

    place(0, 0.0)
    return found, limit
