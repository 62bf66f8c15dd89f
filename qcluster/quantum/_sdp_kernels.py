"""The compiled loop of the semidefinite bound; ``qcluster.quantum.convex_bounds`` uses it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["mix"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True, fastmath={"contract", "nsz", "reassoc"})
def mix(indptr: Ints, indices: Ints, data: Floats, vectors: Floats, lengths: Floats) -> float:
    """One sweep of the mixing method (Wang, Chang and Kolter, 2017), in place: every row of
    ``vectors`` (n, k) turns against g_i = sum_j A_ij v_j; ``lengths`` (n,) become |g_i|. Returns
    how much the objective fell.
    """
    n, k = vectors.shape
    pull = np.empty(k)
    fallen = 0.0
    for i in range(n):
        pull[:] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            row, weight = vectors[indices[e]], data[e]
            for j in range(k):
                pull[j] += weight * row[j]
        square = inner = 0.0
        for j in range(k):
            square += pull[j] * pull[j]
            inner += pull[j] * vectors[i, j]
        length = np.sqrt(square)
        lengths[i] = length
        if length > 0.0:
            fallen += 2.0 * (inner + length)
            for j in range(k):
                vectors[i, j] = -pull[j] / length
    return fallen
