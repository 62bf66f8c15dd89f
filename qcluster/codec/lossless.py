"""Bits as they are: exponents by context where that pays, byte planes or zstd where it does not.

A chunk starts with its method: 0 all elements equal, 1 as they are, 2 zstd, 3 bytes of equal weight
together and zstd, 4 a plane of floating-point words, 5 signs by context and a plane of magnitudes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._table_kernels import scan_floats, survey
from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.plane import decode_plane, encode_plane, octaves
from qcluster.codec.plane_head import (
    COLUMNS,
    DENSE,
    FLOAT,
    INTEGER,
    ROWS,
    SIGNS,
    TRELLIS,
    UNSIGNED,
    Layout,
)
from qcluster.codec.signs import WORTH, WORTH_DENSE, read_signs, split_signs, write_signs
from qcluster.codec.tabled import encode_tabled

__all__ = ["best_plane", "decode_lossless", "encode_lossless", "unzstd"]

Bits = NDArray[Any]

CONSTANT, RAW, ZSTD, SHUFFLED, PLANE, SIGNED = range(6)
# Elements from which tables, which have to be sent, are shorter or worth their speed.
TABLED_FROM = {"fast": 4096, "dense": 1 << 15}
# Integers that tables have symbols for.
FARTHEST_TABLED = 1 << 41
# Elements on which the choice between contexts is tried out.
SAMPLE = 1 << 15


def encode_lossless(bits: Bits, dtype: DType, columns: int, *, effort: str = "dense") -> bytes:
    """The shortest of the methods' bytes for ``bits`` (elements,), of those that the effort tries:
    ``fast``, ``dense`` or ``max``.
    """
    if not bits.size:
        return bytes([RAW])
    if bits[0] == bits[-1] and (bits == bits[0]).all():
        return bytes([CONSTANT]) + bits[:1].tobytes()
    found = []
    if dtype.exponent and dtype.mantissa:
        found.append(_encode_plane(bits, dtype, columns, effort))
    if not found or len(found[0]) > 0.95 * bits.nbytes or _repeats(bits, columns, effort):
        level = 1 if effort == "fast" else 9
        raw = bits.tobytes()
        found += [bytes([RAW]) + raw, bytes([ZSTD]) + _zstd(raw, level)]
        if dtype.bits.itemsize > 1:
            planes = _transposed(raw, dtype.bits.itemsize)
            found.append(bytes([SHUFFLED]) + _zstd(planes, level))
    return min(found, key=len)


def _encode_plane(bits: Bits, dtype: DType, columns: int, effort: str) -> bytes:
    """A chunk of floating-point words, its signs apart where that is shorter."""
    if effort != "fast":
        place = dtype.mantissa + dtype.exponent
        magnitude = bits & bits.dtype.type((1 << place) - 1)
        below = (bits >> place).astype(np.uint8)
        worth = WORTH_DENSE if effort == "dense" else WORTH
        signs = write_signs(below, magnitude >> dtype.mantissa, columns, zeros=True, worth=worth)
        if signs is not None:
            return _encode_floats(magnitude, dtype, columns, effort, bytes([SIGNED]) + signs)
    return _encode_floats(bits, dtype, columns, effort, bytes([PLANE]))


def _repeats(bits: Bits, columns: int, effort: str) -> bool:
    """Whether values, or rows but for signs, come back so often that zstd may find more than
    contexts do.
    """
    if _kinds(bits[: 512 if effort == "fast" else 4096]) < 0.25:
        return True
    if columns < 16 or bits.size < 8 * columns:
        return False
    start = columns // 2 - 4
    rows = bits.reshape(-1, columns)[:4096, start : start + 8].astype(np.uint8)
    return _kinds(rows.view(np.uint64).reshape(-1)) < 0.95


def _kinds(words: NDArray[Any]) -> float:
    """How many of the words differ, as a share of them."""
    ordered = np.sort(words)
    return float(1 + np.count_nonzero(ordered[1:] != ordered[:-1])) / words.size


def _encode_floats(bits: Bits, dtype: DType, columns: int, effort: str, before: bytes) -> bytes:
    """The plane of floating-point words, and what is put ``before`` it."""
    top, together = scan_floats(bits, dtype.mantissa, dtype.exponent)
    signed = together >> (dtype.mantissa + dtype.exponent) & 1
    together &= (1 << dtype.mantissa) - 1
    shift = dtype.mantissa if together == 0 else (together & -together).bit_length() - 1
    lowest = top - 62
    layout = Layout(kind=FLOAT, flags=0, mantissa=dtype.mantissa - shift, exponent=dtype.exponent,
                    shift=shift, lowest=lowest, columns=columns)  # fmt: skip
    narrow = bits.dtype.itemsize <= 4
    by_table = replace(layout, flags=0 if signed else UNSIGNED)
    if narrow and effort != "max" and bits.size >= TABLED_FROM[effort]:
        return encode_tabled(bits, by_table, dense=effort == "dense", before=before)
    words = bits.astype(np.int64)
    exponents = (words >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
    above = np.minimum(exponents.astype(np.float64) - top, 0)
    magnitude = np.where(exponents < (1 << dtype.exponent) - 1, np.exp2(above), 0.0)
    magnitude *= 1 + (words & ((1 << dtype.mantissa) - 1)) / (1 << dtype.mantissa)
    found = learned_plane(words >> shift, by_table, magnitude, 60.0, effort)
    if narrow and bits.size >= TABLED_FROM["fast"]:
        found = min(found, encode_tabled(bits, by_table, dense=True), key=len)
    return before + found


def best_plane(words: NDArray[np.int64], layout: Layout, effort: str) -> bytes:
    """The plane of integers that the effort finds, their signs apart where that is shorter."""
    if effort != "fast" and layout.kind == INTEGER:
        below = (words < 0).astype(np.uint8)
        size = np.abs(words)
        signs = write_signs(below, octaves(size), layout.columns, zeros=False)
        if signs is not None:
            return b"".join([bytes([SIGNS]), signs, _whole_plane(size, layout, effort)])
    return _whole_plane(words, layout, effort)


def _whole_plane(words: NDArray[np.int64], layout: Layout, effort: str) -> bytes:
    """The plane of integers, with the signs that they have."""
    fits = words.size >= TABLED_FROM["fast"] and survey(words)[2] < FARTHEST_TABLED
    if fits and effort != "max" and words.size >= TABLED_FROM[effort]:
        data = encode_tabled(words, layout, dense=effort == "dense")
        # Of few elements tables are some hundredths of a bit each; learning sends none.
        if effort == "fast" or words.size > SAMPLE << 2:
            return data
        return min(data, _learned(words, layout, effort), key=len)
    found = _learned(words, layout, effort)
    if effort != "fast" and fits:
        return min(found, encode_tabled(words, layout, dense=True), key=len)
    return found


def _learned(words: NDArray[np.int64], layout: Layout, effort: str) -> bytes:
    magnitude = np.abs(words).astype(np.float64)
    if layout.kind == TRELLIS:
        magnitude = magnitude / 2 + 0.05
    return learned_plane(words, layout, magnitude, 16.0, effort)


def learned_plane(
    words: NDArray[np.int64], layout: Layout, magnitude: NDArray[np.float64], offset: float,
    effort: str,
) -> bytes:  # fmt: skip
    """The plane whose coder learns, with the scales that did best on a sample of whole rows."""
    columns = layout.columns
    dense = effort != "fast"
    rows = min(words.size // columns, max(1, SAMPLE // columns))
    first = (words.size // columns - rows) // 2 * columns
    some = slice(first, first + rows * columns)

    def encoded(flags: int, part: slice, mixed: int = DENSE if dense else 0) -> bytes:
        chosen = replace(layout, flags=layout.flags | flags | mixed)
        return encode_plane(words[part], chosen, magnitude[part], offset)

    options = [0, ROWS, COLUMNS, ROWS | COLUMNS] if words.size // columns > 1 else [0]
    sizes = {}
    for flags in options:
        sizes[flags] = len(encoded(flags, some))
        if flags & COLUMNS:
            # All rows share the columns' scales, of which the sample pays the whole price.
            share = 1 - some_share(rows, words.size // columns)
            sizes[flags] -= int(share * len(encoded(COLUMNS, slice(first, first + columns))) * 0.02)
    best = min(sizes, key=lambda flags: sizes[flags])
    whole = slice(0, words.size)
    found = encoded(best, whole)
    if dense and words.size <= 4 * SAMPLE:
        # Where there is little to learn from, fewer contexts may be shorter.
        found = min(found, encoded(best, whole, 0), key=len)
    return found


def some_share(part: int, whole: int) -> float:
    """How much of the whole a sample is."""
    return part / max(whole, 1)


def decode_lossless(data: memoryview, dtype: DType, out: Bits) -> None:
    """Fill ``out`` (elements,) with the chunk's bits.

    Raises QctFormatError or QctCorruptError.
    """
    if not len(data):
        raise QctFormatError("is empty", field="chunk")
    method, body = data[0], data[1:]
    size = out.dtype.itemsize
    if method in (PLANE, SIGNED):
        if not (dtype.exponent and dtype.mantissa):
            raise QctFormatError(f"codes {dtype.name} as floating point", field="chunk")
        signs, body = split_signs(body) if method == SIGNED else (None, body)
        words, layout = decode_plane(body, out.size, out=out)
        if layout.kind != FLOAT or layout.mantissa + layout.shift != dtype.mantissa or (
            layout.exponent != dtype.exponent
        ):  # fmt: skip
            raise QctFormatError(f"is a plane of other words than {dtype.name}", field="chunk")
        if words is not out:
            out[:] = (words << layout.shift).astype(np.uint64).astype(out.dtype)
        if signs is not None:
            _put_signs(signs, dtype, out)
        return
    if method == CONSTANT and len(body) == size:
        out[:] = np.frombuffer(body, dtype=out.dtype)[0]
        return
    if method in (ZSTD, SHUFFLED):
        body = memoryview(unzstd(body, out.nbytes))
    elif method != RAW:
        raise QctFormatError(f"has the unknown method {method}", field="chunk")
    if len(body) != out.nbytes:
        raise QctFormatError(f"holds {len(body)} bytes, not {out.nbytes}", field="chunk")
    if method == SHUFFLED:
        body = memoryview(np.frombuffer(body, np.uint8).reshape(size, -1).T.tobytes())
    out[:] = np.frombuffer(body, dtype=out.dtype)


def _put_signs(data: memoryview, dtype: DType, out: Bits) -> None:
    """Set the signs of magnitudes ``out`` (elements,)."""
    place = dtype.mantissa + dtype.exponent
    if (out >> place).any():
        raise QctFormatError("has magnitudes below zero", field="chunk")
    out |= read_signs(data, out >> dtype.mantissa, zeros=True).astype(out.dtype) << place


def _transposed(raw: bytes, size: int) -> bytes:
    return np.frombuffer(raw, np.uint8).reshape(-1, size).T.tobytes()


def _zstd(raw: bytes, level: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_content_size=False).compress(raw)


def unzstd(data: memoryview, size: int) -> bytes:
    """At most ``size`` bytes out of a zstd frame, whatever the frame promises."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(data) as reader:
            raw = reader.read(size)
            if len(raw) == size and reader.read(1):
                raise QctFormatError(f"decodes to more than {size} bytes", field="chunk")
    except zstandard.ZstdError as error:
        raise QctCorruptError(f"zstd: {error}", field="chunk") from None
    return raw
