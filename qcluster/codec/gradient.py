"""Levels of quantised gradients to bytes and back: what travels between ranks at every step.

Sizes and order of the tensors are known to both sides, so nothing of them is in the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import RATES, new_contexts
from qcluster.codec._gradient_kernels import LARGEST, LEVEL_CONTEXTS, code_levels
from qcluster.codec.errors import QctFormatError

__all__ = ["LARGEST", "Layout", "read_levels", "write_levels"]

I32 = NDArray[np.int32]


class Layout:
    """Which levels belong to which tensor.

    ``shapes``: of the tensors, in order. Vectors have contexts of their own: they are coded finer.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        rows = [(int(np.prod(s)), s[-1] if len(s) > 1 else 1, 0 if len(s) > 1 else 1)
                for s in shapes]  # fmt: skip
        self.tables = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self.elements = int(self.tables[:, 0].sum())


def write_levels(levels: I32, layout: Layout) -> bytes:
    """The levels (n,) of all tensors, each within +-``LARGEST``, as bytes."""
    words = levels.size // 8 + 256
    while True:
        buffer = np.zeros(words, dtype=np.uint16)
        contexts = new_contexts(2 * LEVEL_CONTEXTS)
        used = code_levels(levels, layout.tables, 1, buffer, contexts, RATES)
        if used >= 0:
            return buffer[:used].astype("<u2").tobytes()
        words *= 2


def read_levels(data: bytes | memoryview, layout: Layout) -> I32:
    """The levels (n,) that ``write_levels`` wrote; other bytes give other levels, never more.

    Raises QctFormatError for an odd number of bytes.
    """
    if len(data) % 2:
        raise QctFormatError("is cut", field="levels")
    buffer = np.frombuffer(data, dtype="<u2").astype(np.uint16)
    levels = np.zeros(layout.elements, dtype=np.int32)
    code_levels(levels, layout.tables, 0, buffer, new_contexts(2 * LEVEL_CONTEXTS), RATES)
    return levels
