"""Coding of signs by context, where columns or rows lean to one of them or follow each other.

Embeddings and activations have columns whose mean is not zero, gradients rows that agree with the
one above or with its opposite. The magnitudes are known to both sides before, so they are context
too. Four contexts are mixed: the sign's column and its magnitude, its row and the sign above, the
neighbours, and what column and row promise together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import SPAN, code_mixed, finish, first_code
from qcluster.codec.jit import njit

__all__ = ["SIGN_SETS", "code_signs", "count_signs", "sign_contexts"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

SIGN_SETS = 64
# Signs seen after which a context adapts no slower.
LIMIT = 600


def sign_contexts(rows: int, columns: int) -> int:
    """How many contexts ``code_signs`` takes."""
    return 4 * columns + 4 * rows + 64 + 1024


@njit
def code_signs(
    enc: int, signs: U8, levels: Any, rows: int, cols: int, zeros: int, middle: int, buf: U16,
    T: U32, W: I64, rates: I64, squash: I64, stretch: I64,
) -> int:  # fmt: skip
    """Encode or decode ``signs`` (rows * cols,), 1 for below zero; returns the words of ``buf``
    used, or, where it had too few, how many it should have had.

    ``levels`` (rows * cols,) are the elements' octaves, ``middle`` the one that they are compared
    with; with ``zeros`` 0 an element of level 0 has no sign.
    """
    low = 0 if enc else first_code(buf)
    span = SPAN
    pos = 0 if enc else 3
    row_base = 4 * cols
    near_base = row_base + 4 * rows
    both_base = near_base + 64
    age = 0
    for r in range(rows):
        while (r >> (2 * age)) > 0 and age < 7:
            age += 1
        left = 0
        for c in range(cols):
            at = r * cols + c
            up, corner, beside = 0, 0, 0
            if r:
                up = int(np.int64(signs[at - cols]))
                corner = int(np.int64(signs[at - cols - 1])) if c else 0
                beside = int(np.int64(signs[at - cols + 1])) if c + 1 < cols else 0
            level = int(np.int64(levels[at]))
            if level == 0 and zeros == 0:
                left = 0
                signs[at] = 0
                continue
            size = min(max(level - middle + 2, 0), 3)
            a = 4 * c + size
            b = row_base + 4 * r + 2 * up + (size >> 1)
            n = near_base + 16 * size + 8 * up + 4 * left + 2 * corner + beside
            both = both_base + 32 * int(np.int64(T[a]) >> 27) + int(np.int64(T[b]) >> 27)
            bit = int(np.int64(signs[at])) if enc else 0
            low, span, pos, bit = code_mixed(
                low, span, pos, enc, buf, T, a, b, n, both, W, 4 * age + size, bit, LIMIT, rates,
                squash, stretch,
            )  # fmt: skip
            signs[at] = bit
            left = bit
    return finish(low, span, pos, buf) if enc else pos


@njit
def count_signs(signs: U8, rows: int, cols: int, row_sum: I64, column_sum: I64, agree: I64) -> None:
    """Count the signs below zero of rows and columns, and each row's that are as those above."""
    for r in range(rows):
        total, same = 0, 0
        for c in range(cols):
            at = r * cols + c
            sign = int(np.int64(signs[at]))
            total += sign
            column_sum[c] += sign
            if r:
                same += 1 if signs[at - cols] == signs[at] else 0
        row_sum[r] += total
        agree[r] += same
