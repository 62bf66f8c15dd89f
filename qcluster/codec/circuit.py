"""The autoencoder's circuit as the decoder needs it: angles in 16 bits to an integer basis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.errors import QctFormatError

__all__ = ["CircuitBasis", "apply_ring", "rotate"]

F64 = NDArray[np.float64]
MAX_LAYERS = 64
MAX_QUBITS = 8


def rotate(matrix: F64, qubit: int, angle: float) -> F64:
    """exp(-i angle Y / 2) on a qubit (0 is the most significant), times ``matrix`` (2^n, m)."""
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    parts = matrix.reshape(2**qubit, 2, -1)
    turned = np.stack(
        [c * parts[:, 0] - s * parts[:, 1], s * parts[:, 0] + c * parts[:, 1]], axis=1
    )
    return np.asarray(turned.reshape(matrix.shape))


@lru_cache(maxsize=512)
def apply_ring(qubits: int, layer: int) -> NDArray[np.int64]:
    """Rows (2^n,) after a ring of controlled NOTs from each qubit to the one ``reach`` further."""
    order = np.arange(2**qubits)
    if qubits == 1:
        return order
    reach = layer % (qubits - 1) + 1
    for control in range(qubits):
        target = (control + reach) % qubits
        index = np.arange(2**qubits)
        set_ = (index >> (qubits - 1 - control)) & 1
        order = order[np.where(set_ == 1, index ^ (1 << (qubits - 1 - target)), index)]
    return order


@dataclass(frozen=True)
class CircuitBasis:
    """Angles by layer and qubit, in 1/65536 of a turn."""

    turns: tuple[tuple[int, ...], ...]

    def matrix(self) -> F64:
        """The orthogonal matrix (2^n, 2^n) that the circuit applies; rows are latents."""
        qubits = len(self.turns[0])
        matrix = np.eye(2**qubits)
        for number, row in enumerate(self.turns):
            for qubit, turn in enumerate(row):
                matrix = rotate(matrix, qubit, turn * (2 * np.pi / 65536))
            matrix = matrix[apply_ring(qubits, number)]
        return matrix

    @classmethod
    def read(cls, turns: Any) -> CircuitBasis:
        """From the header. Raises QctFormatError."""
        rows = turns if isinstance(turns, list) else []
        wide = len(rows[0]) if rows and isinstance(rows[0], list) else 0
        if not 1 <= len(rows) <= MAX_LAYERS or not 1 <= wide <= MAX_QUBITS or not all(
            isinstance(row, list) and len(row) == wide
            and all(type(t) is int and 0 <= t < 65536 for t in row) for row in rows
        ):  # fmt: skip
            raise QctFormatError("wants layers of angles from 0 to 65535", field="turns")
        return cls(tuple(tuple(row) for row in rows))
