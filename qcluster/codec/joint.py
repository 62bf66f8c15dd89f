"""Floating-point words by tables whose symbols hold the class and leading mantissa bits together.

A density falls within an octave, so the leading mantissa bits are not even: as part of the symbol
they cost a core nothing, as symbols of their own as much as the class. Contexts are the scales that
rows and columns promise. After the words come the bits that symbols leave: planes of 8, 4, 2 and 1
bit of every element, then those of rare elements, small ones, whose symbol is their class alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._joint_kernels import (
    LANES,
    count_places,
    decode_lanes,
    encode_lanes,
    fill_table,
    find_places,
    join_rare,
    join_symbols,
    pack_rare,
    promised_contexts,
)
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.plane_head import SCALES, UNSIGNED, Layout, Split
from qcluster.codec.tables import Tables, fit_tables, ideal_bits, read_tables
from qcluster.codec.workspace import workspace

__all__ = ["decode_joint", "encode_joint"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
Words = NDArray[Any]

# Leading mantissa bits in a symbol, and how many of the highest classes have them: the quick
# choice, and what is tried; the last is the finest, of which the others are sums.
QUICK: Split = (2, 10)
SPLITS: tuple[Split, ...] = (QUICK, (3, 7), (3, 10))


def encode_joint(
    words: Words, layout: Layout, row: I64, column: I64, *, dense: bool
) -> tuple[int, list[Any]]:
    """The head's last byte, and what follows the scales, for words (n,) of at most 32 bits.

    ``row`` (rows,) holds the base scale as well; ``dense`` tries more than one split.
    """
    fine = words.size >= 1 << 18
    low, high = int(row.min() + column.min()), int(row.max() + column.max())
    low, high = (min(max(scale, 0), SCALES - 1) for scale in (low, high))
    split = _fitting(SPLITS[-1] if dense else QUICK, layout)
    place, counts = _counted(words, layout, row, column, low, high, split)
    tables = fit_tables(counts, 1, fine=fine)
    if dense:
        options = []
        for other in {_fitting(s, layout) for s in SPLITS}:
            summed = _summed(counts, split, other)
            found = fit_tables(summed, 1, fine=fine)
            options.append((_length(summed, found, other), other, found))
        _, other, tables = min(options, key=lambda option: option[:2])
        if other != split:
            split = other
            place, _ = _counted(words, layout, row, column, low, high, split)
    width = _width(split)
    frequencies = np.zeros((len(tables.logs), width), dtype=np.int64)
    frequencies[:, : tables.logs.shape[1]] = tables.frequencies
    table = np.zeros((high - low + 1) * width * 4, dtype=np.uint64)
    fill_table(frequencies, tables.group(SCALES), low, table)
    room = workspace("words", place.size + 2 * LANES, np.uint16)
    start = encode_lanes(place, table, np.empty(LANES, np.uint64), room)
    coded = room[start:].astype("<u2", copy=False)
    parts = [tables.pack(), struct.pack("<I", coded.size), coded]
    return split[0] | split[1] << 2, parts + _left(words, layout, split)


def _fitting(split: Split, layout: Layout) -> Split:
    return min(split[0], layout.mantissa), split[1]


def _width(split: Split) -> int:
    """Symbols that there may be."""
    return SCALES - split[1] + (split[1] << split[0])


def _shape(layout: Layout, split: Split, least: int = 0) -> I64:
    """What the kernels of symbols want to know."""
    return np.array([layout.mantissa, layout.exponent, layout.shift, layout.lowest, split[0],
                     SCALES - split[1], least, _width(split)], dtype=np.int64)  # fmt: skip


def _counted(
    words: Words, layout: Layout, row: I64, column: I64, low: int, high: int, split: Split
) -> tuple[NDArray[np.uint16], I64]:
    """Places (n,) of the symbols in the coder's table, and how often each occurs (64, width)."""
    place = workspace("place", words.size, np.uint16)
    width = _width(split)
    shape = _shape(layout, split, low)
    find_places(words, words.size // layout.columns, layout.columns, row, column, shape, place)
    table = np.zeros((4, (high - low + 1) * width), dtype=np.uint32)
    count_places(place, table)
    counts = np.zeros((SCALES, width), dtype=np.int64)
    counts[low : high + 1] = table.sum(axis=0, dtype=np.int64).reshape(-1, width)
    return place, counts


def _summed(counts: I64, split: Split, other: Split) -> I64:
    """Counts under a coarser split, or one of fewer classes."""
    first, drop = SCALES - split[1], split[0] - other[0]
    starts = list(range(first))
    for cls in range(first, SCALES):
        at = first + ((cls - first) << split[0])
        parts = 1 << other[0] if cls >= SCALES - other[1] else 1
        starts += [at + (s << drop) for s in range(parts)]
    return np.asarray(np.add.reduceat(counts, starts, axis=1))


def _length(counts: I64, tables: Tables, split: Split) -> float:
    """Bits under a split, but for those that are the same under every one."""
    left = split[0] * (int(counts[:, : SCALES - split[1]].sum()) - int(counts.sum()))
    return ideal_bits(tables, counts, SCALES) + left + 8 * len(tables.pack())


def _planes(bits: int) -> Iterator[tuple[int, int]]:
    """Lowest bit and width of each plane of so many bits."""
    low = 0
    while low < bits:
        wide = next(w for w in (8, 4, 2, 1) if w <= bits - low)
        yield low, wide
        low += wide


def _left(words: Words, layout: Layout, split: Split) -> list[Any]:
    """What symbols leave: planes, and the bits of rare elements."""
    keep, signs = layout.mantissa - split[0], 0 if layout.flags & UNSIGNED else 1
    left, more = (workspace(name, words.size, words.dtype) for name in ("left", "more"))
    np.bitwise_and(words, ((1 << keep) - 1) << layout.shift, out=left)
    if layout.shift:
        left >>= layout.shift
    if signs:
        np.right_shift(words, layout.shift + layout.mantissa + layout.exponent - keep, out=more)
        more &= 1 << keep
        left |= more
    parts: list[Any] = [_packed(left, low, wide, more) for low, wide in _planes(keep + signs)]
    rare = words[_is_rare(words, layout, split)]
    if rare.size:
        room = np.empty(rare.size * (layout.exponent + split[0]) // 32 + 1, dtype=np.uint32)
        used = pack_rare(rare, _shape(layout, split), room)
        parts.append(room[:used].astype("<u4", copy=False))
    return parts


def _is_rare(words: Words, layout: Layout, split: Split) -> NDArray[np.bool_]:
    """Whether an element's symbol (n,) is its class alone."""
    place = layout.mantissa + layout.shift
    first = layout.lowest + SCALES - split[1]
    last = min(layout.lowest + SCALES, 1 << layout.exponent)
    size = workspace("more", words.size, words.dtype)
    np.bitwise_and(words, (1 << (place + layout.exponent)) - 1, out=size)
    if first > 0:
        # One comparison of two: what is below wraps around.
        size -= first << place
    out = workspace("flags", words.size, np.bool_)
    return np.greater_equal(size, (last - max(first, 0)) << place, out=out)  # type: ignore[no-any-return]


def _packed(left: Words, low: int, wide: int, room: Words) -> U8:
    """``wide`` bits of each element (n,) from bit ``low`` on: byte i has those of the elements i,
    i + m, i + 2 m ..., the first lowest, where m is the number of bytes. ``room`` is as ``left``.
    """
    if low:
        np.right_shift(left, low, out=room)
    np.bitwise_and(room if low else left, (1 << wide) - 1, out=room)
    size = -(-left.size * wide // 8)
    out = room[:size]
    for part in range(1, 8 // wide):
        more = room[part * size : (part + 1) * size]
        more <<= part * wide
        out[: more.size] |= more
    packed = workspace(f"plane {low}", size, np.uint8)
    packed[:] = out
    return packed


def decode_joint(
    data: memoryview, at: int, layout: Layout, split: Split, row: I64, column: I64, out: Words
) -> None:
    """Fill ``out`` (n,) with bits; ``at`` is where the tables start, ``row`` holds the base scale.

    Raises QctFormatError, QctCorruptError.
    """
    if split[0] > layout.mantissa:
        raise QctFormatError("has symbols of more bits than there are", field="plane")
    tables, used = read_tables(data[at:], SCALES, 1, _width(split))
    at += used
    if at + 4 > len(data):
        raise QctFormatError("ends within its tables", field="plane")
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    most = out.size + 2 * LANES
    if not 2 * LANES <= count <= most or at + 2 * count > len(data):
        raise QctFormatError("has words beyond its end", field="plane")
    # Each symbol takes one word at most: no place is out of range, whatever the words say.
    words = workspace("words", most + 1, np.uint16)
    words[count:] = 0
    words[:count] = np.frombuffer(data, "<u2", count, at)
    at += 2 * count
    context = workspace("context", out.size, np.uint8)
    promised_contexts(out.size // layout.columns, layout.columns, row, column, context)
    group, slots = tables.decoder(SCALES)
    symbol = workspace("symbol", out.size, np.uint8)
    room = np.empty(LANES, np.uint64)
    if decode_lanes(context, words, group.astype(np.uint32), slots, room, symbol):
        raise QctCorruptError("does not end where its coder began", field="plane")
    join_symbols(symbol, _meanings(layout, split).astype(out.dtype), out)
    at = _join_planes(data, at, layout, split, out)
    if len(data[at:]) % 4:
        raise QctFormatError("ends within its bits", field="plane")
    raw = np.frombuffer(data[at:], "<u4").astype(np.uint32, copy=False)
    rare = np.flatnonzero(symbol < SCALES - split[1])
    found = out[rare]
    if join_rare(symbol[rare], _shape(layout, split), raw, found) != raw.size:
        raise QctFormatError("has fewer or more bits than its symbols leave", field="plane")
    out[rare] = found


def _join_planes(data: memoryview, at: int, layout: Layout, split: Split, out: Words) -> int:
    """Put the planes from ``at`` on into ``out`` (n,); returns where they end."""
    keep, signs = layout.mantissa - split[0], 0 if layout.flags & UNSIGNED else 1
    left, more = (workspace(name, out.size, out.dtype) for name in ("left", "more"))
    left[:] = 0
    for low, wide in _planes(keep + signs):
        size = -(-out.size * wide // 8)
        if at + size > len(data):
            raise QctFormatError("ends within its bits", field="plane")
        plane = np.frombuffer(data, np.uint8, size, at)
        for part in range(8 // wide):
            some = left[part * size : (part + 1) * size]
            bits = more[: some.size]
            np.right_shift(plane[: some.size], part * wide, out=bits)
            bits &= (1 << wide) - 1
            bits <<= low
            some |= bits
        at += size
    if signs:
        np.right_shift(left, keep, out=more)
        more <<= layout.mantissa + layout.exponent + layout.shift
        out |= more
    left &= (1 << keep) - 1
    left <<= layout.shift
    out |= left
    return at


def _meanings(layout: Layout, split: Split) -> U32:
    """The bits (256,) that each symbol stands for."""
    leading, first = split[0], SCALES - split[1]
    symbol = np.arange(256)
    fine = np.maximum(symbol - first, 0)
    cls = np.where(symbol < first, symbol, first + (fine >> leading))
    field = np.where(symbol == 0, 0, (cls + layout.lowest) & ((1 << layout.exponent) - 1))
    head = np.where(symbol < first, 0, fine & ((1 << leading) - 1))
    bits = (field << layout.mantissa) | (head << (layout.mantissa - leading))
    return (bits << layout.shift).astype(np.uint32)
