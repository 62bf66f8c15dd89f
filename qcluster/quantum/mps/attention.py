"""Local attention by position as entries: softmax of -|i - j| / tau (ALiBi: Press et al., 2022)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.quantum.mps.operators import LEAF_BITS

__all__ = ["LocalAttention"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class LocalAttention:
    """The n x n attention matrix whose row i is softmax_j(-|i - j| / tau), entry by entry.

    ``causal`` keeps j <= i only. ``tau`` in tokens. Called with rows and columns (int64) it gives
    the weights. Raises InputError for n < 1 or a tau that is not positive and finite.
    """

    def __init__(self, n: int, tau: float, *, causal: bool = False) -> None:
        if isinstance(n, bool) or n < 1:
            raise InputError(f"wants at least 1, got {n}", field="n")
        if not (math.isfinite(tau) and tau > 0):
            raise InputError(f"wants a positive number, got {tau}", field="tau")
        self.n, self.tau, self.causal = n, float(tau), causal
        decay = math.exp(-1 / self.tau)
        index = np.arange(n, dtype=np.float64)
        # 1 + decay + ... to the left, decay + ... to the right: geometric sums.
        left = -np.expm1(-(index + 1) / self.tau) / -math.expm1(-1 / self.tau)
        right = decay * np.expm1(-(n - 1 - index) / self.tau) / math.expm1(-1 / self.tau)
        self._sums = left if causal else left + right

    def __call__(self, rows: Indices, columns: Indices) -> Floats:
        weights = np.exp(-np.abs(rows - columns) / self.tau) / self._sums[rows]
        return np.where(columns <= rows, weights, 0.0) if self.causal else weights

    @property
    def tail(self) -> float:
        """Bound on the Frobenius norm of the entries whose i and j differ by more than 256."""
        first = 2**LEAF_BITS + 1
        if self.n <= first:
            return 0.0
        decay = math.exp(-2 / self.tau)
        return math.sqrt(2 * self.n * decay**first / (1 - decay)) / float(self._sums.min())

    def apply(self, values: Floats) -> Floats:
        """The exact product with ``values`` (n, d) in O(n d): two recursions, one each way."""
        from scipy.signal import lfilter

        decay = math.exp(-1 / self.tau)
        forward = lfilter([1.0], [1.0, -decay], values, axis=0)
        if self.causal:
            return np.asarray(forward / self._sums[:, None])
        backward = lfilter([1.0], [1.0, -decay], values[::-1], axis=0)[::-1]
        return np.asarray((forward + backward - values) / self._sums[:, None])
