"""Floating-point words whose symbol holds the leading mantissa bits as well, see ``joint``.

Eight range coders take turns, otherwise as those of ``_table_kernels``: a core that waits for one
coder's product and table works on the others. Contexts are promised scales alone, so symbols are
read first and what they leave is put beside them after, in loops without jumps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._table_decoder import first_state, take_symbol
from qcluster.codec._table_kernels import I64, SCALES, SLOTS, STATE, U8, U16, U32
from qcluster.codec.jit import inline, njit

__all__ = ["LANES", "count_places", "decode_lanes", "encode_lanes", "fill_table", "find_places",
           "join_rare", "join_symbols", "pack_rare", "promised_contexts"]  # fmt: skip

U64 = NDArray[np.uint64]

LANES = 8
# Numbers without a sign: places that may be negative cost a comparison each.
_NONE, _ONE, _TWO, _THREE, _FOUR, _EIGHT = (np.uint64(n) for n in (0, 1, 2, 3, 4, 8))
_STATE, _WORD = np.uint64(STATE), np.uint64(65535)
_HIGH = np.uint64(16)
# A state takes a symbol while it is below frequency << 19; reciprocals are 2^43 / frequency.
_FULL, _PRECISION = np.uint64(19), np.uint64(43)


@inline
def _put(x: Any, at: Any, table: U64, out: U16, pos: Any) -> tuple[Any, Any]:
    """The symbol of entry ``at`` into a state: the state and where the next word goes. The entry's
    parts are read as they are wanted, which costs less than taking them apart.
    """
    more = _ONE if x >= table[at] else _NONE
    out[pos - _ONE] = x & _WORD
    x = x >> (more << _FOUR)
    x = x + ((x * table[at + _ONE]) >> _PRECISION) * table[at + _TWO] + table[at + _THREE]
    return x, pos - more


@njit
def encode_lanes(place: U16, table: U64, states: U64, out: U16) -> int:
    """Words from the end of ``out`` (one a symbol and 16 at least); returns where they start, eight
    states of two words first.

    ``place`` (n,) is where an element's entry of ``table`` starts: the state that has no room for
    it, 2^43 / frequency, 4096 - frequency, start. ``states`` (8,) is room.
    """
    pos = np.uint64(out.size)
    states[:] = _STATE
    whole = place.size // LANES * LANES
    for i in range(place.size - 1, whole - 1, -1):
        x, pos = _put(states[i - whole], np.uint64(place[i]), table, out, pos)
        states[i - whole] = x
    x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
    x4, x5, x6, x7 = states[4], states[5], states[6], states[7]
    i = np.uint64(whole)  # type: ignore[assignment]
    while i:
        x7, pos = _put(x7, np.uint64(place[i - np.uint64(1)]), table, out, pos)
        x6, pos = _put(x6, np.uint64(place[i - np.uint64(2)]), table, out, pos)
        x5, pos = _put(x5, np.uint64(place[i - np.uint64(3)]), table, out, pos)
        x4, pos = _put(x4, np.uint64(place[i - np.uint64(4)]), table, out, pos)
        x3, pos = _put(x3, np.uint64(place[i - np.uint64(5)]), table, out, pos)
        x2, pos = _put(x2, np.uint64(place[i - np.uint64(6)]), table, out, pos)
        x1, pos = _put(x1, np.uint64(place[i - np.uint64(7)]), table, out, pos)
        i -= _EIGHT  # type: ignore[assignment]
        x0, pos = _put(x0, np.uint64(place[i]), table, out, pos)
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    states[4], states[5], states[6], states[7] = x4, x5, x6, x7
    start = np.int64(pos) - 2 * LANES
    for lane in range(LANES):
        out[start + 2 * lane] = states[lane] >> _HIGH
        out[start + 2 * lane + 1] = states[lane] & _WORD
    return int(start)


@njit
def decode_lanes(
    context: U8, words: U16, group: U32, slots: U32, states: U64, symbol: U8
) -> int:  # fmt: skip
    """Fill ``symbol`` (n,); returns 0, or 1 when the coders do not end as they began.

    ``group`` (64,) is the first slot of a context's table; a slot is symbol, (frequency - 1) << 8,
    (slot - start) << 20. ``words`` has one for every symbol beyond the states; ``states`` (8,) is
    room.
    """
    for lane in range(LANES):
        states[lane] = first_state(words, lane)
    x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
    x4, x5, x6, x7 = states[4], states[5], states[6], states[7]
    pos, i = np.uint64(2 * LANES), _NONE
    whole = np.uint64(context.size // LANES * LANES)
    while i < whole:
        x0, symbol[i], pos = take_symbol(x0, np.uint64(group[context[i]]), slots, words, pos)
        at = i + np.uint64(1)
        x1, symbol[at], pos = take_symbol(x1, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(2)
        x2, symbol[at], pos = take_symbol(x2, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(3)
        x3, symbol[at], pos = take_symbol(x3, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(4)
        x4, symbol[at], pos = take_symbol(x4, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(5)
        x5, symbol[at], pos = take_symbol(x5, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(6)
        x6, symbol[at], pos = take_symbol(x6, np.uint64(group[context[at]]), slots, words, pos)
        at = i + np.uint64(7)
        x7, symbol[at], pos = take_symbol(x7, np.uint64(group[context[at]]), slots, words, pos)
        i += _EIGHT
    states[0], states[1], states[2], states[3] = x0, x1, x2, x3
    states[4], states[5], states[6], states[7] = x4, x5, x6, x7
    wrong = 0
    for at in range(np.int64(whole), context.size):  # type: ignore[assignment]
        lane = at - np.int64(whole)
        states[lane], symbol[at], pos = take_symbol(
            states[lane], np.uint64(group[context[at]]), slots, words, pos
        )
    for lane in range(LANES):
        wrong |= 1 if states[lane] != _STATE else 0
    return wrong


@njit
def promised_contexts(rows: int, cols: int, row_scale: I64, column_scale: I64, out: U8) -> None:
    """Contexts (n,) that rows and columns promise."""
    for r in range(rows):
        for c in range(cols):
            out[r * cols + c] = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)


@njit
def find_places(
    bits: Any, rows: int, cols: int, row_scale: I64, column_scale: I64, shape: I64, place: U16
) -> None:
    """Where the entry of each element's context and symbol starts (n,).

    ``shape`` is mantissa bits, exponent bits, dropped bits, lowest exponent, leading mantissa bits
    in a symbol, the first class that has them, the lowest context and symbols of a context.
    """
    mantissa, exponent, dropped, lowest = shape[0], shape[1], shape[2], shape[3]
    leading, first, least, width = shape[4], shape[5], shape[6], shape[7]
    below = dropped + mantissa - leading
    for r in range(rows):
        for c in range(cols):
            at = r * cols + c
            fine = (int(np.int64(bits[at])) >> below) & ((1 << (exponent + leading)) - 1)
            cls = (fine >> leading) - lowest
            symbol = fine - (lowest << leading) - (first << leading) + first
            symbol = symbol if cls >= first else cls
            symbol = symbol if 0 <= cls < SCALES else 0
            e = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1) - least
            place[at] = 4 * (e * width + symbol)


@njit
def count_places(place: U16, table: U32) -> None:
    """Add each place to ``table`` (4, entries), by turns: a count that has just been written cannot
    be read at once.
    """
    whole = place.size // 4 * 4
    for i in range(0, whole, 4):
        table[0, np.uint64(place[i]) >> _TWO] += np.uint32(1)
        table[1, np.uint64(place[i + 1]) >> _TWO] += np.uint32(1)
        table[2, np.uint64(place[i + 2]) >> _TWO] += np.uint32(1)
        table[3, np.uint64(place[i + 3]) >> _TWO] += np.uint32(1)
    for i in range(whole, place.size):
        table[0, np.uint64(place[i]) >> _TWO] += np.uint32(1)


@njit
def fill_table(frequencies: I64, group: I64, least: int, table: U64) -> None:
    """Entries (contexts * width * 4,) of contexts from ``least`` on; ``group`` (64,) is the row of
    ``frequencies`` that a context has.
    """
    width = frequencies.shape[1]
    for e in range(table.size // (4 * width)):
        row, start, at = group[least + e], 0, 4 * e * width
        for s in range(width):
            f = frequencies[row, s]
            if f > 0:
                table[at] = f << 19
                table[at + 1] = ((1 << 43) + f - 1) // f
                table[at + 2] = SLOTS - f
                table[at + 3] = start
            start += f
            at += 4


@njit
def join_symbols(symbol: U8, words: Any, bits: Any) -> None:
    """``bits`` (n,) become what ``words`` (256,) has for each symbol."""
    for i in range(symbol.size):
        bits[i] = words[np.uint64(symbol[i])]


@njit
def pack_rare(bits: Any, shape: I64, out: U32) -> int:
    """The exponents (of class 0) and leading mantissa bits of rare elements (n,), as 32-bit words;
    returns how many. ``shape`` is as of ``find_places``.
    """
    mantissa, exponent, dropped, lowest, leading = shape[0], shape[1], shape[2], shape[3], shape[4]
    held, count, pos = 0, 0, 0
    for i in range(bits.size):
        word = int(np.int64(bits[i])) >> dropped
        field = (word >> mantissa) & ((1 << exponent) - 1)
        cls = field - lowest
        if cls <= 0 or cls >= SCALES:
            held |= field << count
            count += exponent
        held |= ((word >> (mantissa - leading)) & ((1 << leading) - 1)) << count
        count += leading
        while count >= 32:
            out[pos] = held & 0xFFFFFFFF
            pos += 1
            held >>= 32
            count -= 32
    out[pos] = held
    return pos + (1 if count else 0)


@njit
def join_rare(symbol: U8, shape: I64, raw: U32, bits: Any) -> int:
    """What ``pack_rare`` wrote, added to ``bits`` (n,) of such elements; returns the words read."""
    mantissa, exponent, dropped, leading = shape[0], shape[1], shape[2], shape[4]
    held, count, at = 0, 0, 0
    for i in range(symbol.size):
        if count < leading + (exponent if symbol[i] == 0 else 0):
            held |= (int(np.int64(raw[at])) if at < raw.size else 0) << count
            count += 32
            at += 1
        if symbol[i] == 0:
            bits[i] |= ((held & ((1 << exponent) - 1)) << mantissa) << dropped
            held >>= exponent
            count -= exponent
        bits[i] |= ((held & ((1 << leading) - 1)) << (mantissa - leading)) << dropped
        held >>= leading
        count -= leading
    return at
