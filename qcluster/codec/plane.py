"""A matrix of words to bytes and back: which contexts, which scales, and the coder's tables.

A plane's bytes: kind, flags, mantissa bits, exponent bits, shift, states (log2), base scale (7
unsigned bytes and one of padding), lowest exponent (int32), columns (uint32), then where flagged
row and column scales (planes themselves, each after its length), then the coder's 16-bit words.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import RATES, logistic, new_contexts, new_weights
from qcluster.codec._plane_kernels import PLANE_CONTEXTS, SCALES, WEIGHT_SETS, code_plane
from qcluster.codec.errors import QctFormatError
from qcluster.codec.signs import read_signs, split_signs

__all__ = ["COLUMNS", "DENSE", "FLOAT", "INTEGER", "JOINT", "NO_TRELLIS", "ROWS", "SCALES", "SIGNS",
           "TRELLIS", "UNSIGNED", "Layout", "decode_plane", "encode_plane", "encode_steps",
           "fit_scales", "octaves", "pack_head", "pack_scales", "trellis"]  # fmt: skip

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

INTEGER, TRELLIS, FLOAT = 0, 1, 2
# Added to the kind of a plane that is coded by tables.
TABLED = 3
# In place of a kind: signs, and then a plane of absolute values.
SIGNS = 6
DENSE, ROWS, COLUMNS, UNSIGNED = 1, 2, 4, 8
# Of a plane by tables: symbols hold leading mantissa bits, and the head's last byte says which.
JOINT = 16
# Bits seen after which a context adapts no slower.
LIMITS = {0: 1023, DENSE: 1023}
_HEAD = struct.Struct("<8BiI")
# Parity-check polynomials of Ungerboeck's one-dimensional codes (1982), by states.
POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10),
               64: (0o103, 0o24)}  # fmt: skip
NO_TRELLIS = np.zeros((1, 2), dtype=np.int64)


@dataclass(frozen=True)
class Layout:
    """How a plane's words are read: see ``_plane_kernels``; ``base`` is the scale without rows."""

    kind: int = INTEGER
    flags: int = 0
    mantissa: int = 0
    exponent: int = 0
    shift: int = 0
    states: int = 1
    base: int = 16
    lowest: int = 0
    columns: int = 1


@lru_cache(maxsize=8)
def trellis(states: int) -> tuple[I64, I64, I64]:
    """``next_state`` (states, 2) by bit 1 of k, and for the encoder ``before`` and ``coset``
    (states, 2): where a state is entered from and by which k modulo 4.
    """
    h0, h1 = POLYNOMIALS[states]
    following = np.zeros((states, 2), dtype=np.int64)
    entered: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for state in range(states):
        parity = state & 1
        for bit in (0, 1):
            to = (state >> 1) ^ (parity * (h0 >> 1)) ^ (bit * (h1 >> 1))
            following[state, bit] = to
            entered[to].append((state, 2 * bit + parity))
    pairs = np.array(entered, dtype=np.int64)
    return following, pairs[:, :, 0].copy(), pairs[:, :, 1].copy()


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
    return _encode(words, replace(layout, base=base), row, column)


def encode_steps(words: I64, columns: int) -> bytes:
    """The bytes of small integers (elements,): a plane of one scale, that of 2."""
    layout = Layout(base=20, columns=columns)
    none = np.zeros(max(columns, words.size // columns), dtype=np.int64)
    return _encode(words, layout, none[: words.size // columns], none[:columns])


def _encode(words: I64, layout: Layout, row: I64, column: I64) -> bytes:
    parts = [pack_head(layout), *pack_scales(layout.flags, row, column)]
    room = np.zeros(4 * words.size + 64, dtype=np.uint16)
    while (used := _walk(1, words.copy(), layout, room, row + layout.base, column)) > room.size:
        room = np.zeros(4 * room.size, dtype=np.uint16)
    parts.append(room[:used].astype("<u2", copy=False).tobytes())
    return b"".join(parts)


def pack_head(layout: Layout, mix: int | None = None) -> bytes:
    """The head of a plane; with ``mix`` of one by tables."""
    kind = layout.kind + (0 if mix is None else TABLED)
    return _HEAD.pack(
        kind, layout.flags, layout.mantissa, layout.exponent, layout.shift,
        layout.states.bit_length() - 1, layout.base, mix or 0, layout.lowest, layout.columns,
    )  # fmt: skip


def pack_scales(flags: int, row: I64, column: I64) -> list[bytes]:
    """The scales that are flagged, each after its length."""
    parts = []
    for flag, scales in ((ROWS, row), (COLUMNS, column)):
        if flags & flag:
            inner = _scale_bytes(scales)
            parts += [struct.pack("<I", len(inner)), inner]
    return parts


def _scale_bytes(scales: I64) -> bytes:
    return encode_steps(np.diff(scales, prepend=0), scales.size)


def decode_plane(
    data: memoryview, count: int, *, deep: bool = False, out: Any = None
) -> tuple[Any, Layout]:
    """The ``count`` words and their layout.

    ``out`` (count,), unsigned, takes the bits of floating-point words coded by tables, which then
    are what is returned. Raises QctFormatError for a head that contradicts itself or the count.
    """
    if len(data) and data[0] == SIGNS and not deep and out is None:
        return _decode_signed(data[1:], count)
    layout, mix, at = _read_head(data, count)
    if deep and (layout.flags or mix is not None):
        raise QctFormatError("scales have scales of their own", field="plane")
    row = np.zeros(count // layout.columns, dtype=np.int64)
    column = np.zeros(layout.columns, dtype=np.int64)
    for flag, scales in ((ROWS, row), (COLUMNS, column)):
        if layout.flags & flag:
            if at + 4 > len(data):
                raise QctFormatError("ends within its scales", field="plane")
            (length,) = struct.unpack_from("<I", data, at)
            at += 4 + length
            if at > len(data):
                raise QctFormatError("ends within its scales", field="plane")
            steps, _ = decode_plane(data[at - length : at], scales.size, deep=True)
            scales[:] = np.clip(np.cumsum(np.clip(steps, -256, 256)), -256, 256)
    if mix is not None:
        from qcluster.codec.tabled import decode_tabled

        width = 1 + layout.mantissa + layout.exponent + layout.shift
        if layout.kind == FLOAT and (out is None or width != 8 * out.dtype.itemsize):
            raise QctFormatError("is a plane of other words", field="plane")
        words = out if layout.kind == FLOAT else np.zeros(count, dtype=np.int64)
        decode_tabled(data, at, layout, mix, row, column, words)
        return words, layout
    body = np.frombuffer(data[at : at + (len(data) - at) // 2 * 2], dtype="<u2")
    words = np.zeros(count, dtype=np.int64)
    _walk(0, words, layout, body.astype(np.uint16), row + layout.base, column)
    return words, layout


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


def _flags_fit(kind: int, flags: int, mix: int, tabled: bool) -> bool:
    if flags & JOINT:
        from qcluster.codec.joint import read_split

        return tabled and kind == FLOAT and flags < 32 and not flags & DENSE and (
            read_split(mix) is not None
        )  # fmt: skip
    return flags < (16 if tabled or kind == FLOAT else 8) and mix <= (8 if tabled else 0)


def _read_head(data: memoryview, count: int) -> tuple[Layout, int | None, int]:
    """The layout, the neighbours' weight of a plane by tables, and where the scales start."""
    if len(data) < _HEAD.size:
        raise QctFormatError("is shorter than its head", field="plane")
    kind, flags, mantissa, exponent, shift, states, base, mix, lowest, columns = _HEAD.unpack_from(
        data
    )
    tabled = kind >= TABLED
    kind -= TABLED if tabled else 0
    fits = (
        kind <= FLOAT
        and _flags_fit(kind, flags, mix, tabled)
        and mantissa <= (23 if tabled else 52)
        and exponent <= (8 if tabled else 11)
        and mantissa + exponent + shift < (32 if tabled else 64)
        and base < SCALES
        and -64 <= lowest < 2048
        and columns >= 1
        and count % columns == 0
        and ((kind == TRELLIS) == (states > 0))
        and (states == 0 or 1 << states in POLYNOMIALS)
    )
    if not fits:
        raise QctFormatError("has a head that contradicts itself", field="plane")
    layout = Layout(kind, flags, mantissa, exponent, shift, 1 << states, base, lowest, columns)
    return layout, mix if tabled else None, _HEAD.size


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
