"""One multilevel cycle: merge ranks within the domains' boundaries, improve, divide, improve."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_nvlink.partition._kernels import cluster, contract, refine

__all__ = ["Draws", "improved"]

_COARSEST = 3  # clusters a domain at which merging stops

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass
class Draws:
    """What a search draws from, and how long it may go on; ``state`` is the kernels' (1,)."""

    rng: np.random.Generator
    deadline: Deadline = field(default_factory=Deadline.never)
    state: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.state = np.array([self.rng.integers(1, 2**62)], dtype=np.uint64)


def improved(
    weight: Matrix, capacity: Labels, part: Labels, draws: Draws, other: Labels | None = None
) -> Labels:
    """A partition (n,) that is no worse and within the capacities (k,), as ``part`` must be.

    weight (n, n) symmetric without diagonal. Ranks are merged across the boundaries neither of
    ``part`` nor of ``other`` (n,), so the result of combining two is no worse than the first.
    """
    size = np.ones(len(weight), dtype=np.int64)
    part = part.copy()
    same = part if other is None else part * (len(capacity) + 1) + other
    levels: list[tuple[Matrix, Labels, Labels]] = []
    most = max(1, int(capacity.max()) // 2)
    while len(size) > _COARSEST * len(capacity):
        order = draws.rng.permutation(len(size))
        label, count = cluster(weight, size, same, order, most)
        if count > 0.95 * len(size):
            break
        levels.append((weight, size, label))
        weight = contract(weight, label, count)
        size = np.bincount(label, weights=size, minlength=count).astype(np.int64)
        first = np.zeros(count, dtype=np.int64)
        first[label] = np.arange(len(label))
        part, same = part[first], same[first]
    _refined(weight, size, part, capacity, draws)
    for finer, count_of, label in reversed(levels):
        part = part[label]
        if not draws.deadline.expired:
            _refined(finer, count_of, part, capacity, draws)
    return part


def _refined(weight: Matrix, size: Labels, part: Labels, capacity: Labels, draws: Draws) -> None:
    refine(weight, size, part, capacity, 30 + len(size) // 4, draws.state)
