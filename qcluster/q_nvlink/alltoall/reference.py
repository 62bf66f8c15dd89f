"""A plain twin of the decomposition: one SciPy matching a round, no thresholds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decompose"]


def decompose(
    real: NDArray[np.int64], idle: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], int]]:
    """Rounds as (column of each row or -1, duration); see ``_kernels.decompose``."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    real, idle = real.copy(), idle.copy()
    rounds = []
    while (real + idle).any():
        have = np.where(real > 0, real, idle)
        mate = maximum_bipartite_matching(csr_matrix(have > 0), perm_type="column")
        rows = np.arange(len(real))
        duration = int(have[rows, mate].min())
        sends = real[rows, mate] > 0
        rounds.append((np.where(sends, mate, -1).astype(np.int64), duration))
        real[rows[sends], mate[sends]] -= duration
        idle[rows[~sends], mate[~sends]] -= duration
    return rounds
