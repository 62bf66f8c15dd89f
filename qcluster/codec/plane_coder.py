"""Planes by the coder that learns its tables as it goes, and the scales in front of them.

After the head come, where flagged, row and column scales (planes themselves, each after its
length), then the coder's 16-bit words.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import RATES, logistic, new_contexts, new_weights
from qcluster.codec._plane_kernels import PLANE_CONTEXTS, WEIGHT_SETS, code_plane
from qcluster.codec.errors import QctFormatError
from qcluster.codec.plane_head import (
    COLUMNS,
    DENSE,
    NO_TRELLIS,
    ROWS,
    UNSIGNED,
    Layout,
    pack_head,
    read_head,
    trellis,
)

__all__ = ["decode_steps", "decode_words", "encode_steps", "encode_words", "pack_scales",
           "read_scales"]  # fmt: skip

I64 = NDArray[np.int64]

# Bits seen after which a context adapts no slower.
LIMITS = {0: 1023, DENSE: 1023}


def encode_words(words: I64, layout: Layout, row: I64, column: I64) -> bytes:
    """The bytes of ``words`` (elements,) with scales (rows,) and (columns,), as far as flagged."""
    parts = [pack_head(layout), *pack_scales(layout.flags, row, column)]
    room = np.zeros(4 * words.size + 64, dtype=np.uint16)
    while (used := _walk(1, words.copy(), layout, room, row + layout.base, column)) > room.size:
        room = np.zeros(4 * room.size, dtype=np.uint16)
    parts.append(room[:used].astype("<u2", copy=False).tobytes())
    return b"".join(parts)


def decode_words(data: memoryview, count: int, layout: Layout, row: I64, column: I64) -> I64:
    """The ``count`` words of what follows the scales (rows,) and (columns,)."""
    body = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2")
    words = np.zeros(count, dtype=np.int64)
    _walk(0, words, layout, body.astype(np.uint16), row + layout.base, column)
    return words


def encode_steps(words: I64, columns: int) -> bytes:
    """The bytes of small integers (elements,): a plane of one scale, that of 2."""
    layout = Layout(base=20, columns=columns)
    none = np.zeros(max(columns, words.size // columns), dtype=np.int64)
    return encode_words(words, layout, none[: words.size // columns], none[:columns])


def decode_steps(data: memoryview, count: int) -> tuple[I64, Layout]:
    """The ``count`` words of a plane without scales, and their layout. Raises QctFormatError."""
    layout, mix, at = read_head(data, count)
    if layout.flags or mix is not None:
        raise QctFormatError("scales have scales of their own", field="plane")
    row = np.zeros(count // layout.columns, dtype=np.int64)
    column = np.zeros(layout.columns, dtype=np.int64)
    return decode_words(data[at:], count, layout, row, column), layout


def pack_scales(flags: int, row: I64, column: I64) -> list[bytes]:
    """The scales that are flagged, each after its length."""
    parts = []
    for flag, scales in ((ROWS, row), (COLUMNS, column)):
        if flags & flag:
            inner = encode_steps(np.diff(scales, prepend=0), scales.size)
            parts += [struct.pack("<I", len(inner)), inner]
    return parts


def read_scales(data: memoryview, at: int, layout: Layout, rows: int) -> tuple[I64, I64, int]:
    """The scales (rows,) and (columns,) from ``at`` on, zero where not flagged, and their end.

    Raises QctFormatError.
    """
    row = np.zeros(rows, dtype=np.int64)
    column = np.zeros(layout.columns, dtype=np.int64)
    for flag, scales in ((ROWS, row), (COLUMNS, column)):
        if layout.flags & flag:
            if at + 4 > len(data):
                raise QctFormatError("ends within its scales", field="plane")
            (length,) = struct.unpack_from("<I", data, at)
            at += 4 + length
            if at > len(data):
                raise QctFormatError("ends within its scales", field="plane")
            steps, _ = decode_steps(data[at - length : at], scales.size)
            scales[:] = np.clip(np.cumsum(np.clip(steps, -256, 256)), -256, 256)
    return row, column, at


def _walk(
    encode: int, words: I64, layout: Layout, buffer: NDArray[np.uint16], row: I64, column: I64
) -> int:
    squash, stretch = logistic()
    columns = layout.columns
    dense = layout.flags & DENSE
    signs = 0 if layout.flags & UNSIGNED else 1
    shape = [layout.kind, dense, LIMITS[dense], layout.mantissa, layout.lowest, layout.exponent,
             signs]  # fmt: skip
    return int(
        code_plane(
            encode, words, words.size // columns, columns, buffer, new_contexts(PLANE_CONTEXTS),
            new_weights(WEIGHT_SETS, 24_000), row, column, np.zeros(columns, dtype=np.int64),
            np.full(columns, -1, dtype=np.int64), np.array(shape, dtype=np.int64),
            trellis(layout.states)[0] if layout.states > 1 else NO_TRELLIS, RATES, squash, stretch,
        )
    )  # fmt: skip
