"""Bits as they are: exponents by context where that pays, byte planes or zstd where it does not.

A chunk starts with its method: 0 all elements equal, 1 as they are, 2 zstd, 3 bytes of equal weight
together and zstd, 4 a plane of floating-point words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.plane import COLUMNS, DENSE, FLOAT, ROWS, Layout, decode_plane, encode_plane

__all__ = ["best_plane", "decode_lossless", "encode_lossless", "unzstd"]

Bits = NDArray[Any]

CONSTANT, RAW, ZSTD, SHUFFLED, PLANE = range(5)
# Elements on which the choice between contexts is tried out.
SAMPLE = 1 << 15


def encode_lossless(bits: Bits, dtype: DType, columns: int, *, dense: bool = True) -> bytes:
    """The shortest of the methods' bytes for ``bits`` (elements,)."""
    if not bits.size:
        return bytes([RAW])
    if (bits == bits[0]).all():
        return bytes([CONSTANT]) + bits[:1].tobytes()
    raw = bits.tobytes()
    found = [bytes([RAW]) + raw]
    if dtype.exponent and dtype.mantissa:
        found.append(bytes([PLANE]) + _encode_floats(bits, dtype, columns, dense))
    if not dtype.exponent or len(found[-1]) > 0.95 * len(raw) or _repeats(bits):
        found.append(bytes([ZSTD]) + _zstd(raw))
        if dtype.bits.itemsize > 1:
            found.append(bytes([SHUFFLED]) + _zstd(_transposed(raw, dtype.bits.itemsize)))
    return min(found, key=len)


def _repeats(bits: Bits) -> bool:
    """Whether values come back so often that zstd may find more than contexts do."""
    some = bits[:4096]
    return np.unique(some).size < 0.25 * some.size


def _encode_floats(bits: Bits, dtype: DType, columns: int, dense: bool) -> bytes:
    words = bits.astype(np.int64)
    exponents = (words >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
    together = int(np.bitwise_or.reduce(words & ((1 << dtype.mantissa) - 1)))
    shift = dtype.mantissa if together == 0 else (together & -together).bit_length() - 1
    # The largest exponent may be that of NaN and infinity: they must not push out the others.
    special = (1 << dtype.exponent) - 1
    ordinary = exponents[exponents < special]
    top = int(ordinary.max()) if ordinary.size else special
    lowest = top - 62
    layout = Layout(kind=FLOAT, flags=0, mantissa=dtype.mantissa - shift, exponent=dtype.exponent,
                    shift=shift, lowest=lowest, columns=columns)  # fmt: skip
    magnitude = np.where(exponents < special, np.exp2(exponents.astype(np.float64) - top), 0.0)
    magnitude *= 1 + (words & ((1 << dtype.mantissa) - 1)) / (1 << dtype.mantissa)
    return best_plane(words >> shift, layout, magnitude, 60.0, dense)


def best_plane(
    words: NDArray[np.int64], layout: Layout, magnitude: NDArray[np.float64], offset: float,
    dense: bool,
) -> bytes:  # fmt: skip
    """The plane with the scales that did best on a sample of whole rows."""
    columns = layout.columns
    rows = min(words.size // columns, max(1, SAMPLE // columns))
    first = (words.size // columns - rows) // 2 * columns
    some = slice(first, first + rows * columns)

    def encoded(flags: int, part: slice) -> bytes:
        chosen = Layout(**{**vars(layout), "flags": flags | (DENSE if dense else 0)})
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
    return encoded(best, slice(0, words.size))


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
    if method == PLANE:
        if not (dtype.exponent and dtype.mantissa):
            raise QctFormatError(f"codes {dtype.name} as floating point", field="chunk")
        words, layout = decode_plane(body, out.size)
        if layout.kind != FLOAT or layout.mantissa + layout.shift != dtype.mantissa or (
            layout.exponent != dtype.exponent
        ):  # fmt: skip
            raise QctFormatError(f"is a plane of other words than {dtype.name}", field="chunk")
        out[:] = (words << layout.shift).astype(np.uint64).astype(out.dtype)
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


def _transposed(raw: bytes, size: int) -> bytes:
    return np.frombuffer(raw, np.uint8).reshape(-1, size).T.tobytes()


def _zstd(raw: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=9, write_content_size=False).compress(raw)


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
