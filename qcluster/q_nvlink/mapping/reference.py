"""Plain twins: the objective of a placement, the change by a swap, and brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

__all__ = ["brute_force", "cost"]


def cost(
    flow: NDArray[np.float64], dist: NDArray[np.float64], location: NDArray[np.int64]
) -> float:
    """sum flow[i, j] dist[location i, location j]."""
    return float((flow * dist[np.ix_(location, location)]).sum())


def brute_force(flow: NDArray[np.float64], dist: NDArray[np.float64]) -> float:
    """The least cost over all placements of n ranks on m locations."""
    n, m = len(flow), len(dist)
    found = (cost(flow, dist, np.array(p, dtype=np.int64)) for p in permutations(range(m), n))
    return min(found, default=0.0)
