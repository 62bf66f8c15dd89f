"""A tensor against another of the same shape and type: unchanged, changed a little, or not alike.

A chunk starts with its method: 0 nothing changed, 1 changes by context, 2 differences of the bits
in byte planes with zstd. Floating-point bits are put in order of value first, so that a difference
counts representable values in between.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import RATES, logistic, new_contexts, new_weights
from qcluster.codec._delta_kernels import DELTA_CONTEXTS, code_changes
from qcluster.codec.container import Entry, digest
from qcluster.codec.dtypes import DType, to_bits
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.lossless import unzstd
from qcluster.codec.replay import OptimizerState, predict_next
from qcluster.errors import InputError

__all__ = ["decode_delta", "encode_delta", "parent_bits"]

Bits = NDArray[Any]
I64 = NDArray[np.int64]

SAME, CHANGES, PLANES = range(3)
_HEAD = struct.Struct("<BiI")


def parent_bits(entry: Entry, parent: Any, optimizer_state: Any = None) -> Bits:
    """The bits that the entry was coded against: its parent's, or what a step makes of them.

    ``parent`` is a tensor. Raises InputError without what is needed, QctCorruptError when it is not
    what was coded with.
    """
    replayed = entry.ops[0][0] == "replay"
    if parent is None:
        raise InputError(f"is needed: this was coded against {entry.parent}", field="parent")
    if replayed and optimizer_state is None:
        raise InputError("is needed: this replays a step", field="optimizer_state")
    dtype, shape, bits, _ = to_bits(parent)
    alike = dtype == entry.dtype or (replayed and dtype.is_float)
    if not alike or shape != entry.shape:
        raise InputError(f"is {dtype.name} {list(shape)}, not {entry.dtype.name} "
                         f"{list(entry.shape)}", field="parent")  # fmt: skip
    parts: list[Any] = [bits]
    if replayed:
        state = OptimizerState.read(optimizer_state, bits.size)
        parts.append(state.digest())
        bits = predict_next(bits, dtype, entry.dtype, state)
    if digest(*parts).hex() != entry.parent:
        what = "or optimizer state is not what" if replayed else "is not the tensor that"
        raise QctCorruptError(f"{what} this was coded against", field="parent")
    return bits


def _ordered(bits: Bits, dtype: DType) -> I64:
    """Integers in the order of the values; both zeros apart."""
    if not dtype.exponent:
        return bits.astype(np.int64)
    words = bits.astype(np.int64)
    half = 1 << (8 * bits.dtype.itemsize - 1)
    return np.where(words >= half, half - 1 - words, words)


def _unordered(words: I64, dtype: DType, kind: np.dtype[Any]) -> Bits:
    if dtype.exponent:
        half = 1 << (8 * kind.itemsize - 1)
        words = np.where(words < 0, half - 1 - words, words)
    return words.astype(np.uint64).astype(kind)


def _known(base: Bits, dtype: DType, lowest: int) -> tuple[I64, I64]:
    """Class and sign of what the receiver has."""
    words = base.astype(np.int64)
    if not dtype.exponent:
        return np.zeros(words.size, np.int64), np.zeros(words.size, np.int64)
    exponent = (words >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
    sign = words >> (dtype.mantissa + dtype.exponent)
    return np.clip(exponent - lowest, 0, 63), sign


def encode_delta(bits: Bits, base: Bits, dtype: DType, columns: int) -> bytes:
    """The shortest of the methods' bytes for ``bits`` (elements,) given ``base``."""
    if np.array_equal(bits, base):
        return bytes([SAME])
    import zstandard

    planes = (bits - base).tobytes()
    planes = np.frombuffer(planes, np.uint8).reshape(-1, bits.dtype.itemsize).T.tobytes()
    packed = zstandard.ZstdCompressor(level=9, write_content_size=False).compress(planes)
    found = bytes([PLANES]) + packed
    if bits.dtype.itemsize > 4:
        return found
    words = _ordered(bits, dtype) - _ordered(base, dtype)
    lowest = 0
    if dtype.exponent:
        exponent = (base.astype(np.int64) >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
        ordinary = exponent[exponent < (1 << dtype.exponent) - 1]
        lowest = int(ordinary.max()) - 62 if ordinary.size else 0
    room = np.zeros(4 * words.size + 64, dtype=np.uint16)
    while (used := _walk(1, words, base, dtype, lowest, columns, room)) > room.size:
        room = np.zeros(4 * room.size, dtype=np.uint16)
    body = room[:used].astype("<u2", copy=False).tobytes()
    return min(found, _HEAD.pack(CHANGES, lowest, columns) + body, key=len)


def decode_delta(data: memoryview, dtype: DType, base: Bits, out: Bits) -> None:
    """Fill ``out`` (elements,) with the chunk's bits. Raises QctFormatError."""
    if not len(data):
        raise QctFormatError("is empty", field="chunk")
    method = data[0]
    if method == SAME and len(data) == 1:
        out[:] = base
        return
    if method == PLANES:
        raw = unzstd(data[1:], out.nbytes)
        if len(raw) != out.nbytes:
            raise QctFormatError(f"holds {len(raw)} bytes, not {out.nbytes}", field="chunk")
        raw = np.frombuffer(raw, np.uint8).reshape(out.dtype.itemsize, -1).T.tobytes()
        out[:] = base + np.frombuffer(raw, out.dtype)
        return
    if method != CHANGES or len(data) < _HEAD.size or out.dtype.itemsize > 4:
        raise QctFormatError(f"has the unknown method {method}", field="chunk")
    _, lowest, columns = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if columns < 1 or columns > max(out.size, 1) or not -64 <= lowest < 2048:
        raise QctFormatError("has a head that contradicts itself", field="chunk")
    words = np.zeros(out.size, dtype=np.int64)
    buffer = np.frombuffer(body[: len(body) // 2 * 2], "<u2").astype(np.uint16)
    _walk(0, words, base, dtype, lowest, columns, buffer)
    out[:] = _unordered(_ordered(base, dtype) + words, dtype, out.dtype)


def _walk(
    encode: int, words: I64, base: Bits, dtype: DType, lowest: int, columns: int,
    buffer: NDArray[np.uint16],
) -> int:  # fmt: skip
    squash, stretch = logistic()
    known, negative = _known(base, dtype, lowest)
    return int(
        code_changes(
            encode, words, known, negative, columns, buffer, new_contexts(DELTA_CONTEXTS),
            new_weights(1, 24_000), np.zeros(1, np.int64), np.zeros(columns, np.int64), RATES,
            squash, stretch,
        )
    )  # fmt: skip
