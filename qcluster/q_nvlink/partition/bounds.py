"""What must cross between domains, whatever the partition."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["least_crossing"]

_SPECTRAL = 400  # ranks up to which eigenvalues are computed: they take as long as a search


def least_crossing(weight: NDArray[np.float64], capacity: NDArray[np.int64]) -> float:
    """A bound on the bytes that cross; weight (n, n) symmetric, capacity (k,) ranks a domain.

    The larger of two. A rank has at most ``capacity - 1`` mates, so what it exchanges beyond the
    partners it exchanges most with crosses. And the sum of the smallest eigenvalues of the
    Laplacian times the domains' sizes, halved (Donath and Hoffman, 1973); where domains are not
    filled, sizes are as unequal as the capacities allow, which is the least of all.
    """
    n = len(weight)
    if not n or not weight.any():
        return 0.0
    mates = min(n, int(capacity.max())) - 1
    beyond = np.sort(weight, axis=1)[:, : n - mates].sum() / 2
    if n > _SPECTRAL:
        return float(beyond)
    laplacian = np.diag(weight.sum(axis=1)) - weight
    values = np.maximum(np.linalg.eigvalsh(laplacian), 0.0)
    sizes, left = [], n
    for room in np.sort(capacity)[::-1].tolist():
        sizes.append(min(room, left))
        left -= sizes[-1]
    k = min(len(sizes), n)
    spectral = float(np.asarray(sizes[:k]) @ values[:k]) / 2
    # Eigenvalues are floating-point numbers: a bound must not be above by rounding.
    return max(float(beyond), spectral * (1 - 1e-9))
