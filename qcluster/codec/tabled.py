"""Planes coded by tables: two to ten times as fast as by learning, and for large tensors as short.

The bytes are a plane's head (its kind plus 3, the neighbours' weight in the last byte), scales as
in every plane, tables (of classes or integers, and where flagged of mantissas), words and bits.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._table_decoder import (
    decode_floats,
    decode_integers,
    decode_symbols,
    join_bytes,
)
from qcluster.codec._table_kernels import (
    MANTISSAS,
    count_pairs,
    encode_symbols,
    float_contexts,
    integer_contexts,
    pack_floats,
    pack_integers,
    sum_levels,
    sum_powers,
    survey,
)
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.joint import decode_joint, encode_joint
from qcluster.codec.plane_coder import pack_scales
from qcluster.codec.plane_head import (
    COLUMNS,
    DENSE,
    FLOAT,
    JOINT,
    NO_TRELLIS,
    ROWS,
    SCALES,
    TRELLIS,
    UNSIGNED,
    Layout,
    pack_head,
    read_split,
    trellis,
)
from qcluster.codec.tables import Tables, fit_tables, ideal_bits, read_tables

__all__ = ["decode_tabled", "encode_tabled"]

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Words = NDArray[Any]

# Weights of the neighbours, of eight, that are tried, and elements that they are tried on.
MIXES = (0, 3, 6)
SAMPLE = 1 << 15
# Levels of independent values spread by 6.4 steps; the gain of a scale in bits, by its variance.
SPREAD = 41.0
GAIN = 0.0433
SCALE_BITS = 3.5
# Integers of fewer than 42 bits.
WIDTH = 176
# The share of signs that are more of one kind from which it pays to code them.
LEANING = 0.2


@dataclass(frozen=True)
class _Scales:
    base: int
    row: I64
    column: I64
    flags: int


@dataclass(frozen=True)
class _Symbols:
    """Contexts and symbols (n,), and of floating point those of the leading mantissa bits."""

    context: U8
    symbol: U8
    second: U8
    near: U8

    def counts(self, contexts: int, width: int) -> I64:
        """(contexts, width)."""
        return _counted(self.context, self.symbol, contexts, width)

    def second_counts(self) -> I64:
        """(MANTISSAS, 8)."""
        return _counted(self.near, self.second, MANTISSAS, 8)


def _counted(context: U8, symbol: U8, contexts: int, width: int) -> I64:
    table = np.zeros((4, contexts * width), dtype=np.uint32)
    count_pairs(context, symbol, table, width)
    return np.asarray(table.sum(axis=0, dtype=np.int64).reshape(contexts, width))


def _width(layout: Layout) -> int:
    """Symbols that there may be."""
    return 64 if layout.kind == FLOAT else WIDTH


def _shape(layout: Layout, mix: int) -> I64:
    """What the kernels of floating point want to know."""
    coded = min(layout.mantissa, 3) if layout.flags & DENSE else 0
    signs = 0 if layout.flags & UNSIGNED else 1
    return np.array([mix, layout.mantissa, layout.lowest, layout.exponent, layout.shift, coded,
                     signs], dtype=np.int64)  # fmt: skip


def encode_tabled(words: Words, layout: Layout, *, dense: bool, before: bytes = b"") -> bytes:
    """The bytes of words (n,): integers, or floating-point bits of at most 32 bits as they are.

    ``dense`` looks at neighbours, and tries more; what is ``before`` the plane is put there.
    """
    scales = _fit_scales(words, layout)
    joint = JOINT if layout.kind == FLOAT else 0
    layout = replace(layout, flags=layout.flags | scales.flags | joint, base=scales.base)
    sent = pack_scales(scales.flags, scales.row, scales.column)
    if layout.kind == FLOAT:
        mix = _mix(words, layout, scales) if dense else 0
        if mix == 0:
            split, parts = encode_joint(words, layout, scales.row + scales.base, scales.column,
                                        dense=dense)  # fmt: skip
            return b"".join([before, pack_head(layout, split), *sent, *parts])
        layout = replace(layout, flags=layout.flags ^ (DENSE | JOINT))
    else:
        if _leaning(words):
            layout = replace(layout, flags=layout.flags | DENSE)
        mix = _mix(words, layout, scales) if dense else 0
    return b"".join([before, pack_head(layout, mix), *sent, *_encode(words, layout, scales, mix)])


def _encode(words: Words, layout: Layout, scales: _Scales, mix: int) -> list[Any]:
    """What follows the scales."""
    found = _symbols(words, layout, scales, mix)
    sets = 2 if layout.kind == TRELLIS else 1
    fine = words.size >= 1 << 18
    first = fit_tables(found.counts(64 * sets, _width(layout)), sets, fine=fine)
    tables = [first]
    if found.second.size:
        tables.append(fit_tables(found.second_counts(), 1, fine=fine))
    coded = _coded(found, tables).astype("<u2", copy=False)
    raw = _left(words, layout, found, mix)
    return [*(t.pack() for t in tables), struct.pack("<I", coded.size), coded, raw]


def _left(words: Words, layout: Layout, found: _Symbols, mix: int) -> NDArray[Any]:
    """The bits that the symbols leave."""
    room = np.empty(2 * words.size + 4, dtype=np.uint32)
    if layout.kind == FLOAT:
        used = pack_floats(words, found.symbol, _shape(layout, mix), room)
    else:
        used = pack_integers(words, layout.kind, 0 if layout.flags & DENSE else 1, room)
    return room[:used].astype("<u4", copy=False)


def _is_bytes(layout: Layout, mix: int, tables: Tables) -> bool:
    """Whether symbols leave a byte of every element, and contexts do not depend on elements."""
    shape = _shape(layout, mix)
    whole = layout.mantissa + int(shape[6]) == 8 and not layout.shift
    return bool(whole and mix == 0 and not shape[5] and not tables.logs[:, 0].any())


def _sign(layout: Layout) -> int:
    return 63 if layout.flags & UNSIGNED else layout.mantissa + layout.exponent


def _leaning(words: Words) -> bool:
    """Whether integers have their signs as second symbols, because they lean one way."""
    below, above, _ = survey(words)
    return abs(below - above) > LEANING * (below + above)


def _coded(found: _Symbols, tables: Sequence[Tables]) -> NDArray[np.uint16]:
    pairs = 2 if found.second.size else 1
    entries, reciprocal = tables[0].encoder(64)
    width = tables[0].logs.shape[1]
    seconds, second_reciprocal = tables[1].encoder(MANTISSAS) if pairs == 2 else (_EMPTY, _EMPTY)
    if pairs == 2 and tables[1].logs.shape[1] < 8:
        missing = ((0, 0), (0, 8 - tables[1].logs.shape[1]))
        seconds = np.pad(seconds.reshape(MANTISSAS, -1), missing).reshape(-1)
        second_reciprocal = np.pad(second_reciprocal.reshape(MANTISSAS, -1), missing).reshape(-1)
    room = np.empty(found.symbol.size * pairs * 3 // 4 + 32, dtype=np.uint16)
    start = encode_symbols(
        found.context, found.symbol, found.second, found.near, pairs, width, entries, reciprocal,
        seconds, second_reciprocal, room,
    )  # fmt: skip
    return room[start:]


_NONE = np.zeros(1, dtype=np.int64)
_EMPTY = np.zeros(1, dtype=np.uint64)


def _fit_scales(words: Words, layout: Layout) -> _Scales:
    """Scales of rows and columns, where they promise more than they cost."""
    columns = layout.columns
    rows = words.size // columns
    if layout.kind == FLOAT:
        row_sum, column_sum = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
        sum_levels(words, rows, columns, _shape(layout, 0), row_sum, column_sum)
        middle = float(row_sum.sum() / words.size)
        row, column = row_sum / columns - middle, column_sum / rows - middle
    else:
        power, across = np.zeros(rows), np.zeros(columns)
        sum_powers(words, layout.kind, rows, columns, np.zeros(rows), power, across)
        whole = power.sum() / words.size
        middle = 2 * np.log2(whole) + 16
        row = 2 * np.log2(power / columns / whole)
        sum_powers(words, layout.kind, rows, columns, whole * columns / power, power, across)
        column = 2 * np.log2(across / rows / whole)
    flags = 0
    for flag, found, other in ((ROWS, row, columns), (COLUMNS, column, rows)):
        gain = GAIN * (_variance(found) - SPREAD / other)
        flags |= flag if other > 1 and gain > SCALE_BITS / other + 0.001 else 0
    base = int(np.clip(np.rint(middle), 0, SCALES - 1))
    return _Scales(base, _whole(row, flags & ROWS), _whole(column, flags & COLUMNS), flags)


def _variance(values: NDArray[np.float64]) -> float:
    return float(values @ values / values.size - (values.sum() / values.size) ** 2)


def _whole(scales: NDArray[np.float64], wanted: int) -> I64:
    if not wanted:
        return np.zeros(scales.size, dtype=np.int64)
    return np.asarray(np.clip(np.rint(scales), -SCALES, SCALES), dtype=np.int64)


def _symbols(words: Words, layout: Layout, scales: _Scales, mix: int) -> _Symbols:
    size, columns = words.size, layout.columns
    above = np.full(columns, -1, dtype=np.int64)
    context, symbol = np.empty(size, np.uint8), np.empty(size, np.uint8)
    shape = _shape(layout, mix)
    second = np.empty(size if _has_second(layout) else 0, np.uint8)
    near = np.empty(second.size, np.uint8)
    if layout.kind != FLOAT:
        integer_contexts(words, layout.kind, size // columns, columns, scales.row + scales.base,
                         scales.column, above, mix, context, symbol, second, near)  # fmt: skip
        return _Symbols(context, symbol, second, near)
    float_contexts(words, size // columns, columns, scales.row + scales.base, scales.column, above,
                   shape, context, symbol, second, near)  # fmt: skip
    return _Symbols(context, symbol, second, near)


def _has_second(layout: Layout) -> bool:
    return bool(layout.flags & DENSE) and (layout.kind != FLOAT or layout.mantissa > 0)


def _mix(words: Words, layout: Layout, scales: _Scales) -> int:
    """The neighbours' weight that is shortest on a run of rows in the middle."""
    columns = layout.columns
    sample = SAMPLE // 2 if layout.kind == FLOAT else SAMPLE
    rows = min(words.size // columns, max(1, sample // columns))
    first = (words.size // columns - rows) // 2
    some = words[first * columns : (first + rows) * columns]
    part = replace(scales, row=scales.row[first : first + rows])
    sets = 2 if layout.kind == TRELLIS else 1
    lengths = {}
    for mix in MIXES:
        counts = _symbols(some, layout, part, mix).counts(64 * sets, _width(layout))
        lengths[mix] = ideal_bits(fit_tables(counts, sets, fine=False), counts, 64)
    best = min(lengths, key=lambda mix: lengths[mix])
    return best if lengths[best] < lengths[0] - 0.004 * some.size else 0


def decode_tabled(
    data: memoryview, at: int, layout: Layout, mix: int, row: I64, column: I64, out: Words
) -> None:
    """Fill ``out`` (n,) with words: integers (int64), or floating-point bits as they are.

    ``at`` is where the tables start. Raises QctFormatError, QctCorruptError.
    """
    if layout.flags & JOINT:
        split = read_split(mix)
        assert split is not None
        decode_joint(data, at, layout, split, row + layout.base, column, out)
        return
    sets = 2 if layout.kind == TRELLIS else 1
    tables, used = read_tables(data[at:], 64, sets, _width(layout))
    at += used
    group, slots = tables.decoder(64)
    shape = _shape(layout, mix)
    second_group, second_slots = _NONE, np.zeros(1, np.uint32)
    if _has_second(layout):
        width = 1 << int(shape[5]) if layout.kind == FLOAT else 2
        seconds, used = read_tables(data[at:], MANTISSAS, 1, width)
        at += used
        second_group, second_slots = seconds.decoder(MANTISSAS)
    if at + 4 > len(data):
        raise QctFormatError("ends within its tables", field="plane")
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    if count < 8 or at + 2 * count > len(data) or (len(data) - at - 2 * count) % 4:
        raise QctFormatError("has words beyond its end", field="plane")
    if count > 9 + 2 * out.size:
        raise QctFormatError("has more words than symbols", field="plane")
    # Each symbol takes one word at most: no place is out of range, whatever the words say.
    words = np.zeros(9 + 2 * out.size, dtype=np.uint16)
    words[:count] = np.frombuffer(data, "<u2", count, at)
    raw = np.frombuffer(data[at + 2 * count :], "<u4").astype(np.uint32, copy=False)
    above = np.full(layout.columns, -1, dtype=np.int64)
    rows, columns = out.size // layout.columns, layout.columns
    if layout.kind == FLOAT and _is_bytes(layout, mix, tables):
        left = np.zeros(max(out.size, len(raw) * 4), dtype=np.uint8)
        left[: 4 * len(raw)] = np.frombuffer(data[at + 2 * count :], np.uint8)
        symbol = np.empty(out.size, dtype=np.uint8)
        wrong = decode_symbols(symbol, rows, columns, words, row + layout.base, column, group,
                               slots)  # fmt: skip
        join_bytes(symbol, left[: out.size], layout.mantissa, _sign(layout), layout.lowest,
                   layout.exponent, out)  # fmt: skip
    elif layout.kind == FLOAT:
        wrong = decode_floats(out, rows, columns, words, raw, row + layout.base, column, above,
                              shape, group, slots, second_group, second_slots)  # fmt: skip
    else:
        following = trellis(layout.states)[0] if layout.kind == TRELLIS else NO_TRELLIS
        wrong = decode_integers(out, layout.kind, rows, columns, words, raw, row + layout.base,
                                column, above, mix, group, slots, following,
                                0 if layout.flags & DENSE else 1, second_group,
                                second_slots)  # fmt: skip
    if wrong:
        raise QctCorruptError("does not end where its coder began", field="plane")
