"""A graph to be coloured: adjacency in rows, and a clique as a lower bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_nvlink.coloring.clique import large_clique

__all__ = ["ColoringProblem"]


@dataclass(frozen=True)
class ColoringProblem:
    """Adjacency in CSR form, indices sorted in each row, and a clique (positions)."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    clique: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of vertices."""
        return len(self.indptr) - 1

    def neighbours(self, v: int) -> NDArray[np.int64]:
        """Positions of the neighbours of ``v``."""
        return self.indices[self.indptr[v] : self.indptr[v + 1]]

    @classmethod
    def of(cls, n: int, edges: NDArray[np.int64], *, deadline: Deadline) -> ColoringProblem:
        """From (m, 2) pairs of positions, in any order, repeats allowed."""
        both = np.concatenate([edges, edges[:, ::-1]])
        both = np.unique(both, axis=0) if len(both) else both.reshape(0, 2)
        indptr = np.searchsorted(both[:, 0], np.arange(n + 1)).astype(np.int64)
        indices = np.ascontiguousarray(both[:, 1])
        return cls(indptr, indices, large_clique(indptr, indices, deadline=deadline))
