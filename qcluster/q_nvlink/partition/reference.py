"""Plain twins of the partitioning kernels: what crosses, what a step gains, and brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

__all__ = ["brute_force", "contract", "crossing", "descend"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


def crossing(weight: Matrix, part: Labels) -> float:
    """What crosses between domains; weight (n, n) symmetric, each pair counted once."""
    apart = part[:, None] != part[None, :]
    return float(weight[apart].sum() / 2)


def contract(weight: Matrix, label: Labels, count: int) -> Matrix:
    """The weights between clusters, without what stays inside one."""
    member = np.eye(count)[label]
    found = np.asarray(member.T @ weight @ member)
    np.fill_diagonal(found, 0.0)
    return found


def descend(weight: Matrix, part: Labels, capacity: Labels) -> Labels:
    """Best swap or move of single ranks again and again until none helps."""
    part = part.copy()
    n, k = len(part), len(capacity)
    while True:
        here = crossing(weight, part)
        best, better = here - 1e-9, None
        for i in range(n):
            for j in range(i + 1, n):
                other = part.copy()
                other[i], other[j] = part[j], part[i]
                if (value := crossing(weight, other)) < best:
                    best, better = value, other
            for d in range(k):
                other = part.copy()
                other[i] = d
                fits = (np.bincount(other, minlength=k) <= capacity).all()
                if fits and (value := crossing(weight, other)) < best:
                    best, better = value, other
        if better is None:
            return part
        part = better


def brute_force(weight: Matrix, capacity: Labels) -> float:
    """The least that must cross, over all assignments within the capacities."""
    k = len(capacity)
    best = np.inf
    for choice in product(range(k), repeat=len(weight)):
        part = np.array(choice, dtype=np.int64)
        if (np.bincount(part, minlength=k) <= capacity).all():
            best = min(best, crossing(weight, part))
    return float(best)
