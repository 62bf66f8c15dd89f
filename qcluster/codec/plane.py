"""A matrix of words to bytes and back: which scales, and which of the coders wrote it.

A plane's bytes: its head (``plane_head``), scales, then the words of the coder that learns as it
goes (``plane_coder``) or tables and the words coded by them (``tabled``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.errors import QctFormatError
from qcluster.codec.plane_coder import decode_words, encode_words, read_scales
from qcluster.codec.plane_head import (
    COLUMNS,
    FLOAT,
    INTEGER,
    ROWS,
    SCALES,
    SIGNS,
    Layout,
    read_head,
)
from qcluster.codec.signs import read_signs, split_signs
from qcluster.codec.tabled import decode_tabled

__all__ = ["decode_plane", "encode_plane", "fit_scales", "octaves"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


def fit_scales(magnitude: F64, offset: float, flags: int) -> tuple[int, I64, I64]:
    """Scales in quarter octaves: ``base``, rows' and columns' differences from it.

    Parameters
    ----------
    magnitude: (rows, columns) absolute values; zeros and what is not finite count as nothing.
    offset: the scale of a root mean square of 1.
    flags: ROWS and COLUMNS as wanted; the others' differences are zero.
    """
    rows, columns = magnitude.shape
    power = np.square(magnitude)
    whole = float(power.mean()) or 1e-300
    base = int(np.clip(np.rint(2 * np.log2(whole) + offset), 0, SCALES - 1))
    row = np.zeros(rows, dtype=np.int64)
    column = np.zeros(columns, dtype=np.int64)
    if flags & ROWS:
        row = _quarter(power.mean(axis=1) / whole)
    if flags & COLUMNS:
        # What the rows do not explain, so that both together fit (one step of scaling).
        share = np.exp2(row / 2)
        column = _quarter((power / share[:, None]).mean(axis=0) / whole)
    return base, row, column


def _quarter(ratio: F64) -> I64:
    with np.errstate(divide="ignore"):
        return np.asarray(np.clip(np.rint(2 * np.log2(ratio)), -SCALES, SCALES), dtype=np.int64)


def encode_plane(words: I64, layout: Layout, magnitude: F64, offset: float) -> bytes:
    """The bytes of ``words`` (elements,), whose columns divide them."""
    columns = layout.columns
    rows = words.size // columns
    base, row, column = fit_scales(magnitude.reshape(rows, columns), offset, layout.flags)
    return encode_words(words, replace(layout, base=base), row, column)


def decode_plane(data: memoryview, count: int, *, out: Any = None) -> tuple[Any, Layout]:
    """The ``count`` words and their layout.

    ``out`` (count,), unsigned, takes the bits of floating-point words coded by tables, which then
    are what is returned. Raises QctFormatError for a head that contradicts itself or the count.
    """
    if len(data) and data[0] == SIGNS and out is None:
        return _decode_signed(data[1:], count)
    layout, mix, at = read_head(data, count)
    row, column, at = read_scales(data, at, layout, count // layout.columns)
    if mix is not None:
        width = 1 + layout.mantissa + layout.exponent + layout.shift
        if layout.kind == FLOAT and (out is None or width != 8 * out.dtype.itemsize):
            raise QctFormatError("is a plane of other words", field="plane")
        words = out if layout.kind == FLOAT else np.zeros(count, dtype=np.int64)
        decode_tabled(data, at, layout, mix, row, column, words)
        return words, layout
    return decode_words(data[at:], count, layout, row, column), layout


def octaves(size: I64) -> NDArray[np.uint8]:
    """The bit lengths (n,) of integers from 0 to 2^53."""
    return np.frexp(size.astype(np.float64))[1].astype(np.uint8)


def _decode_signed(data: memoryview, count: int) -> tuple[I64, Layout]:
    """Integers whose signs stand before their absolute values."""
    signs, rest = split_signs(data)
    if len(rest) and rest[0] == SIGNS:
        raise QctFormatError("has signs twice", field="plane")
    size, layout = decode_plane(rest, count)
    if layout.kind != INTEGER or (size < 0).any():
        raise QctFormatError("has signs that contradict themselves", field="plane")
    below = read_signs(signs, octaves(size), zeros=False)
    return np.where(below, -size, size), layout
