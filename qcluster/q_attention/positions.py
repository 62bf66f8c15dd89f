"""Positions from phase estimation: index i is a phase i / N, read by t qubits.

Before the inverse Fourier transform qubit j holds (|0> + e^{2 pi i 2^j i / N} |1>) / sqrt 2, whose
Bloch vector is (cos, sin) of 2 pi 2^j i / N: sinusoidal features whose wavelengths halve. After it
the outcome is distributed around i 2^t / N as the Fejer kernel (Kitaev, 1995). Both are closed
forms; circuits are in the tests. In effect this is a sinusoidal encoding (Vaswani et al., 2017)
with powers of two, and it saves no memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError

__all__ = ["QPEPositionEncoder"]

Floats = NDArray[np.float64]


class QPEPositionEncoder:
    """Encodes positions 0 .. length - 1 on ``qubits`` qubits.

    ``mode`` "phases" gives 2 t features a position, "outcomes" the 2^t probabilities of the
    estimate. ``length`` None takes the length of what is encoded, as i / N in the formula; a fixed
    one keeps positions the same when sequences grow. Raises InputError naming the argument.
    """

    def __init__(
        self, qubits: int = 6, *, length: int | None = None, mode: str = "phases"
    ) -> None:
        if isinstance(qubits, bool) or not 1 <= qubits <= 16:
            raise InputError(f"wants 1 to 16, got {qubits}", field="qubits")
        if mode not in ("phases", "outcomes"):
            raise InputError(f"'{mode}' is none of phases, outcomes", field="mode")
        if length is not None and (isinstance(length, bool) or length < 1):
            raise InputError(f"wants at least 1, got {length}", field="length")
        self.qubits, self.length, self.mode = qubits, length, mode

    def features(self, n: int) -> Floats:
        """(n, 2 t) in [-1, 1], or (n, 2^t) of sum 1."""
        phase = np.arange(n) / (self.length or n)
        if self.mode == "phases":
            angles = 2 * np.pi * phase[:, None] * 2.0 ** np.arange(self.qubits)
            return np.stack([np.cos(angles), np.sin(angles)], -1).reshape(n, -1)
        size = 2**self.qubits
        off = phase[:, None] - np.arange(size) / size
        off -= np.round(off)
        bottom = np.sin(np.pi * off) ** 2
        at = bottom < 1e-24
        top = np.sin(np.pi * size * off) ** 2
        return np.where(at, 1.0, top / np.where(at, 1.0, size**2 * bottom))

    def encode(self, embeddings: Any) -> Any:
        """Embeddings (..., n, dim), array or tensor, with features added to their first channels,
        as loud as the embeddings are on average.
        """
        n, dim = embeddings.shape[-2:]
        found = self.features(n)[:, :dim]
        numpy = isinstance(embeddings, np.ndarray)
        level = float((embeddings**2).mean()) ** 0.5
        wide = np.zeros((n, dim))
        wide[:, : found.shape[1]] = found * level
        if numpy:
            return (embeddings + wide).astype(embeddings.dtype)
        import torch

        return embeddings + torch.as_tensor(wide).to(embeddings)
