"""Coding by fixed tables: interleaved range coding without division (Duda, 2013; Giesen, 2014).

Four coders take turns, so that one's table is read while another multiplies. A state lies in
[2^15, 2^31), probabilities have 12 bits, words 16. The encoder runs backwards, the decoder
forwards. An element's symbol is coded by the table of its context; the bits below it stand in a
stream of their own, as they are.

Contexts are scales in quarter octaves: what row and column promise (sent ahead) and, by the weight
``mix`` of eight, what the neighbours show. Everything is integers below 2^63, so compiled code and
the interpreter agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.jit import inline, njit

__all__ = ["BITS", "DIRECT", "FLOAT_BIAS", "I64", "MANTISSAS", "SCALES", "SLOTS", "STATE", "U8",
           "U16", "U32", "blend", "count_pairs", "encode_symbols", "float_contexts", "follow",
           "integer_contexts", "integer_level", "pack_floats", "pack_integers",
           "scan_floats", "sum_levels", "sum_powers", "survey"]  # fmt: skip

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

BITS = 12
SLOTS = 1 << BITS
STATE = 1 << 15
SCALES = 64
# Integers below this are symbols of their own; then there are four to an octave.
DIRECT = 32
MANTISSAS = 32
FLOAT_BIAS = 47
# The same and small numbers without a sign, for loops whose places are not checked for one.
_NONE, _ONE, _TWO, _THREE, _FOUR = (np.uint64(n) for n in range(5))
_BITS, _SLOTS, _WORD = np.uint64(BITS), np.uint64(SLOTS), np.uint64(65535)
# A state takes a symbol while it is below frequency << 19; reciprocals are 2^43 / frequency.
_FULL, _PRECISION = np.uint64(19), np.uint64(43)


@inline
def blend(s1: int, mix: int, fast: int, over: int, corner: int, beside: int) -> int:
    """The context of an element: its promised scale and its neighbours' levels."""
    if mix == 0:
        return s1
    seen = fast if fast >= 0 else 16 * s1
    near = seen >> 4 if over < 0 else (7 * seen + 16 * (3 * over + corner + beside) + 96) // 192
    return min(((8 - mix) * s1 + mix * near + 4) >> 3, SCALES - 1)


@inline
def follow(fast: int, level: int) -> int:
    """The running mean of levels along a row, times 16."""
    return 16 * level if fast < 0 else fast + ((16 * level - fast) >> 2)


@inline
def integer_level(size: int) -> int:
    """|k| (on a trellis |k| // 2) in quarter octaves."""
    cls = 0
    while (size >> cls) > 0:
        cls += 1
    level = 4 * cls + 8
    if cls > 1:
        level += ((size & ((1 << (cls - 1)) - 1)) << 2) >> (cls - 1)
    return min(level, 255)


@njit
def float_contexts(
    bits: Any, rows: int, cols: int, row_scale: I64, column_scale: I64, above: I64, shape: I64,
    context: U8, symbol: U8, second: U8, near: U8,
) -> None:  # fmt: skip
    """Contexts and symbols (n,) of floating-point bits: class, leading mantissa bits.

    ``shape`` is mix, mantissa bits, lowest exponent, exponent bits, dropped bits, mantissa bits
    that are coded, 1 where signs are sent. ``above`` (cols,) is -1 and room.
    """
    mix, mantissa, lowest, exponent = shape[0], shape[1], shape[2], shape[3]
    dropped, coded = shape[4], shape[5]
    for r in range(rows):
        fast, corner = -1, above[0]
        for c in range(cols):
            at = r * cols + c
            word = int(np.int64(bits[at])) >> dropped
            cls = ((word >> mantissa) & ((1 << exponent) - 1)) - lowest
            if cls < 0 or cls > 63:
                cls = 0
            s1 = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
                level = 4 * (cls - FLOAT_BIAS) + (((word << 2) >> mantissa) & 3)
                level = min(max(level, 0), SCALES - 1)
                corner = above[c]
                above[c] = level
                fast = follow(fast, level)
            context[at] = e
            symbol[at] = cls
            if coded:
                second[at] = (word >> (mantissa - coded)) & ((1 << coded) - 1)
                near[at] = min(max(4 * (cls - FLOAT_BIAS) - e + 20, 0), MANTISSAS - 1)


@njit
def integer_contexts(
    words: I64, kind: int, rows: int, cols: int, row_scale: I64, column_scale: I64, above: I64,
    mix: int, context: U8, symbol: U8, second: U8, near: U8,
) -> None:  # fmt: skip
    """Contexts (scale, then parity as lowest bit on a trellis) and symbols (n,) of integers.

    Where there is a ``second``, it is the sign, and ``near`` its context: small size and parity.
    """
    for r in range(rows):
        fast, corner = -1, above[0]
        for c in range(cols):
            at = r * cols + c
            k = abs(words[at])
            size = k >> kind
            s1 = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
                level = integer_level(size)
                corner = above[c]
                above[c] = level
                fast = follow(fast, level)
            context[at] = (e << kind) | (k & kind)
            if second.size:
                second[at] = 1 if words[at] < 0 else 0
                near[at] = 2 * min(size, 3) + (k & kind)
            if size < DIRECT:
                symbol[at] = size
            else:
                more = 0
                while (size >> (more + 3)) > 0:
                    more += 1
                symbol[at] = DIRECT + (more - 3) * 4 + ((size >> more) & 3)


@njit
def scan_floats(bits: Any, mantissa: int, exponent: int) -> tuple[int, int]:
    """The largest exponent, but that of NaN and infinity, and all words' bits together."""
    special = (1 << exponent) - 1
    top, together = 0, 0
    for i in range(bits.size):
        word = int(np.int64(bits[i]))
        field = (word >> mantissa) & special
        top = max(top, field if field < special else 0)
        together |= word
    return top, together


@njit
def sum_levels(bits: Any, rows: int, cols: int, shape: I64, row_sum: I64, column_sum: I64) -> None:
    """Add the levels of floating-point bits to their rows' and columns' sums."""
    mantissa, lowest, exponent, dropped = shape[1], shape[2], shape[3], shape[4]
    for r in range(rows):
        total = 0
        for c in range(cols):
            word = int(np.int64(bits[r * cols + c])) >> dropped
            cls = ((word >> mantissa) & ((1 << exponent) - 1)) - lowest
            level = 4 * (cls - FLOAT_BIAS) + (((word << 2) >> mantissa) & 3)
            level = min(max(level, 0), SCALES - 1)
            total += level
            column_sum[c] += level
        row_sum[r] += total


@njit
def survey(words: I64) -> tuple[int, int, int]:
    """How many integers are below zero, how many above, and the largest absolute value."""
    below, above, largest = 0, 0, 0
    for i in range(words.size):
        k = words[i]
        below += 1 if k < 0 else 0
        above += 1 if k > 0 else 0
        largest = max(largest, abs(k))
    return below, above, largest


@njit
def sum_powers(
    words: I64, kind: int, rows: int, cols: int, weight: F64, row_sum: F64, column_sum: F64
) -> None:  # fmt: skip
    """Add the squares of integers to their rows' sums, weighed by row to their columns'."""
    for r in range(rows):
        total = 0.0
        for c in range(cols):
            size = float(abs(words[r * cols + c]) >> kind) + 0.05
            total += size * size
            column_sum[c] += size * size * weight[r]
        row_sum[r] += total


@njit
def count_pairs(context: U8, symbol: U8, table: U32, width: int) -> None:
    """Add each pair of context and symbol to ``table`` (4, contexts * width), by turns: a count
    that has just been written cannot be read at once.
    """
    whole = context.size // 4 * 4
    for i in range(0, whole, 4):
        for lane in range(4):
            at = np.uint64(context[i + lane]) * np.uint64(width) + np.uint64(symbol[i + lane])
            table[lane, at] += np.uint32(1)
    for i in range(whole, context.size):
        table[0, np.uint64(context[i]) * np.uint64(width) + np.uint64(symbol[i])] += np.uint32(1)


@inline
def _put(x: Any, entry: Any, reciprocal: Any, out: U16, pos: Any) -> tuple[Any, Any]:
    """One symbol into a state: the state and where the next word goes. Unsigned throughout, as
    places that may be negative cost a comparison each; and without a jump, which would be
    mispredicted one time in seven.
    """
    f = entry >> _BITS
    more = _ONE if x >= f << _FULL else _NONE
    out[pos - _ONE] = x & _WORD
    x = x >> (more << _FOUR)
    x = x + ((x * reciprocal) >> _PRECISION) * (_SLOTS - f) + (entry & (_SLOTS - _ONE))
    return x, pos - more


@njit
def encode_symbols(
    context: U8, symbol: U8, second: U8, near: U8, pairs: int, width: int, table: U64,
    reciprocal: U64, seconds: U64, second_reciprocal: U64, out: U16,
) -> int:  # fmt: skip
    """Words from the end of ``out``; returns where they start, four states of two words first.

    ``table`` (contexts * width,) is frequency << 12 | start; ``seconds`` the same of mantissas, of
    8 symbols. An element of ``pairs`` 2 has both symbols.
    """
    x0, x1, x2, x3 = np.uint64(STATE), np.uint64(STATE), np.uint64(STATE), np.uint64(STATE)
    pos, i, w = np.uint64(out.size), np.uint64(context.size), np.uint64(width)
    # Element by element until four coders' turns are whole, then turn by turn.
    while i & (_THREE if pairs == 1 else _ONE):
        i -= _ONE
        if pairs == 2:
            j = (np.uint64(near[i]) << _THREE) + np.uint64(second[i])
            x3, pos = _put(x3, seconds[j], second_reciprocal[j], out, pos)
            x0, x1, x2, x3 = x3, x0, x1, x2
        j = np.uint64(context[i]) * w + np.uint64(symbol[i])
        x3, pos = _put(x3, table[j], reciprocal[j], out, pos)
        x0, x1, x2, x3 = x3, x0, x1, x2
    while pairs == 1 and i:
        j = np.uint64(context[i - _ONE]) * w + np.uint64(symbol[i - _ONE])
        x3, pos = _put(x3, table[j], reciprocal[j], out, pos)
        j = np.uint64(context[i - _TWO]) * w + np.uint64(symbol[i - _TWO])
        x2, pos = _put(x2, table[j], reciprocal[j], out, pos)
        j = np.uint64(context[i - _THREE]) * w + np.uint64(symbol[i - _THREE])
        x1, pos = _put(x1, table[j], reciprocal[j], out, pos)
        i -= _FOUR
        j = np.uint64(context[i]) * w + np.uint64(symbol[i])
        x0, pos = _put(x0, table[j], reciprocal[j], out, pos)
    while i:
        j = (np.uint64(near[i - _ONE]) << _THREE) + np.uint64(second[i - _ONE])
        x3, pos = _put(x3, seconds[j], second_reciprocal[j], out, pos)
        j = np.uint64(context[i - _ONE]) * w + np.uint64(symbol[i - _ONE])
        x2, pos = _put(x2, table[j], reciprocal[j], out, pos)
        i -= _TWO
        j = (np.uint64(near[i]) << _THREE) + np.uint64(second[i])
        x1, pos = _put(x1, seconds[j], second_reciprocal[j], out, pos)
        j = np.uint64(context[i]) * w + np.uint64(symbol[i])
        x0, pos = _put(x0, table[j], reciprocal[j], out, pos)
    start = np.int64(pos) - 8
    for lane in range(4):
        x = np.int64(x0 if lane == 0 else x1 if lane == 1 else x2 if lane == 2 else x3)
        out[start + 2 * lane] = x >> 16
        out[start + 2 * lane + 1] = x & 65535
    return int(start)


@njit
def pack_floats(bits: Any, symbol: U8, shape: I64, out: U32) -> int:
    """What the symbols leave of floating-point bits, as 32-bit words; returns how many.

    Below the coded mantissa bits: the others, then the sign, then an exponent out of range.
    """
    mantissa, exponent, dropped, coded, signs = shape[1], shape[3], shape[4], shape[5], shape[6]
    rest = mantissa - coded
    held, count, pos = 0, 0, 0
    for i in range(symbol.size):
        word = int(np.int64(bits[i])) >> dropped
        held |= (word & ((1 << rest) - 1)) << count
        count += rest
        held |= ((word >> (mantissa + exponent)) & signs) << count
        count += signs
        if count >= 32:
            out[pos] = held & 0xFFFFFFFF
            pos += 1
            held >>= 32
            count -= 32
        if symbol[i] == 0:
            held |= ((word >> mantissa) & ((1 << exponent) - 1)) << count
            count += exponent
            if count >= 32:
                out[pos] = held & 0xFFFFFFFF
                pos += 1
                held >>= 32
                count -= 32
    out[pos] = held
    return pos + 1


@njit
def pack_integers(words: I64, kind: int, signs: int, out: U32) -> int:
    """What the symbols leave of integers, as 32-bit words: with ``signs`` the sign of all but
    zero, then bits of large ones.
    """
    held, count, pos = 0, 0, 0
    for i in range(words.size):
        k = words[i]
        if signs and k != 0:
            held |= (1 if k < 0 else 0) << count
            count += 1
        size = abs(k) >> kind
        if size >= DIRECT:
            more = 0
            while (size >> (more + 3)) > 0:
                more += 1
            part = min(more, 20)
            held |= (size & ((1 << part) - 1)) << count
            count += part
            if count >= 32:
                out[pos] = held & 0xFFFFFFFF
                pos += 1
                held >>= 32
                count -= 32
            held |= ((size >> part) & ((1 << (more - part)) - 1)) << count
            count += more - part
        if count >= 32:
            out[pos] = held & 0xFFFFFFFF
            pos += 1
            held >>= 32
            count -= 32
    out[pos] = held
    return pos + 1
