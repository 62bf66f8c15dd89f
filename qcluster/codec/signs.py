"""Signs apart from their magnitudes, where that is shorter.

The bytes: the octave that magnitudes are compared with (int32), columns (uint32), words (uint32),
then the arithmetic coder's 16-bit words.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import RATES, logistic, new_contexts, new_weights
from qcluster.codec._sign_kernels import SIGN_SETS, code_signs, count_signs, sign_contexts
from qcluster.codec.errors import QctFormatError

__all__ = ["WORTH", "WORTH_DENSE", "read_signs", "split_signs", "write_signs"]

Levels = NDArray[Any]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]

_HEAD = struct.Struct("<iII")
# Fewer rows or columns say nothing of each other.
LEAST = 8
# Bits an element from which signs are coded by context, which takes longer than all the rest: of
# quantised values, and of floating-point words with the effort "dense".
WORTH = 0.006
WORTH_DENSE = 0.03


def write_signs(
    signs: U8, levels: Levels, columns: int, *, zeros: bool, worth: float = WORTH
) -> bytes | None:
    """The signs (n,), 1 for below zero, or None where they had better stay where they are.

    ``levels`` (n,) are the elements' octaves, which the reader has; without ``zeros`` an element
    of level 0 has no sign. ``worth`` is how many bits an element they must save.
    """
    rows = signs.size // columns
    if rows < LEAST or columns < LEAST or not signs.any():
        return None
    if _promised(signs, rows, columns) < worth * signs.size:
        return None
    middle = int(np.median(levels[:: max(1, signs.size // 4096)]))
    room = np.zeros(signs.size // 16 + 256, dtype=np.uint16)
    used = _walk(1, signs, levels, rows, columns, zeros, middle, room)
    there = signs.size if zeros else int(np.count_nonzero(levels))
    if used > room.size or 16 * used > there - worth * signs.size:
        return None
    head = _HEAD.pack(middle, columns, used)
    return head + room[:used].astype("<u2", copy=False).tobytes()


def split_signs(data: memoryview) -> tuple[memoryview, memoryview]:
    """What ``write_signs`` wrote at the front of ``data``, and what follows it.

    Raises QctFormatError.
    """
    if len(data) < _HEAD.size:
        raise QctFormatError("ends within its signs", field="chunk")
    end = _HEAD.size + 2 * _HEAD.unpack_from(data)[2]
    if end > len(data):
        raise QctFormatError("ends within its signs", field="chunk")
    return data[:end], data[end:]


def read_signs(data: memoryview, levels: Levels, *, zeros: bool) -> U8:
    """The signs (n,) of elements of these levels (n,), from the front part of ``split_signs``.

    Raises QctFormatError.
    """
    middle, columns, used = _HEAD.unpack_from(data)
    rows = levels.size // max(columns, 1)
    if min(rows, columns) < LEAST or rows * columns != levels.size or abs(middle) > 4096:
        raise QctFormatError("has signs that contradict themselves", field="chunk")
    words = np.frombuffer(data, "<u2", used, _HEAD.size).astype(np.uint16)
    signs = np.zeros(levels.size, dtype=np.uint8)
    _walk(0, signs, levels, rows, columns, zeros, middle, words)
    return signs


def _promised(signs: U8, rows: int, columns: int) -> float:
    """Bits that columns, rows or agreement with the row above save, nearly: each costs half a
    logarithm of its elements to learn.
    """
    row, agree = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    column = np.zeros(columns, np.int64)
    count_signs(signs, rows, columns, row, column, agree)
    return max(_saved(column, rows), _saved(row, columns), _saved(agree, columns))


def _saved(count: I64, of: int) -> float:
    share = np.clip(count / of, 1e-9, 1 - 1e-9)
    kept = 1 + share * np.log2(share) + (1 - share) * np.log2(1 - share)
    return float(np.maximum(of * kept - 0.5 * np.log2(of), 0).sum())


def _walk(
    encode: int, signs: U8, levels: Levels, rows: int, columns: int, zeros: bool, middle: int,
    buffer: NDArray[np.uint16],
) -> int:  # fmt: skip
    squash, stretch = logistic()
    return int(
        code_signs(
            encode, signs, levels, rows, columns, int(zeros), middle, buffer,
            new_contexts(sign_contexts(rows, columns)) + np.uint32(2),
            new_weights(SIGN_SETS, 24_000), RATES, squash, stretch,
        )
    )  # fmt: skip
