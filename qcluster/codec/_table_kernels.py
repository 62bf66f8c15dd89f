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

__all__ = ["DIRECT", "LOCAL", "MANTISSAS", "SLOTS", "STATE", "count_pairs", "decode_floats",
           "decode_integers", "decode_symbols", "encode_symbols", "float_contexts", "integer_contexts",
           "join_bytes", "pack_bytes", "pack_floats", "pack_integers", "scan_floats", "sum_levels", "sum_powers"]  # fmt: skip

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

BITS = 12
SLOTS = 1 << BITS
STATE = 1 << 15
SCALES = 64
# Scales beyond which the neighbours' word is kept: where a row begins there are none.
LOCAL = 8
# Integers below this are symbols of their own; then there are four to an octave.
DIRECT = 32
MANTISSAS = 32
FLOAT_BIAS = 47
_RECIPROCAL = 43


@inline
def _blend(s1: int, mix: int, fast: int, over: int, corner: int, beside: int) -> int:
    """The context of an element: its promised scale and its neighbours' levels."""
    if mix == 0:
        return s1
    seen = fast if fast >= 0 else 16 * s1
    near = seen >> 4 if over < 0 else (7 * seen + 16 * (3 * over + corner + beside) + 96) // 192
    return min(((8 - mix) * s1 + mix * near + 4) >> 3, SCALES - 1)


@inline
def _follow(fast: int, level: int) -> int:
    """The running mean of levels along a row, times 16."""
    return 16 * level if fast < 0 else fast + ((16 * level - fast) >> 2)


@inline
def _integer_level(size: int) -> int:
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
            word = np.int64(bits[at]) >> dropped
            cls = ((word >> mantissa) & ((1 << exponent) - 1)) - lowest
            if cls < 0 or cls > 63:
                cls = 0
            s1 = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = _blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
                level = 4 * (cls - FLOAT_BIAS) + (((word << 2) >> mantissa) & 3)
                level = min(max(level, 0), SCALES - 1)
                corner = above[c]
                above[c] = level
                fast = _follow(fast, level)
            context[at] = e
            symbol[at] = cls
            if coded:
                second[at] = (word >> (mantissa - coded)) & ((1 << coded) - 1)
                near[at] = min(max(4 * (cls - FLOAT_BIAS) - e + 20, 0), MANTISSAS - 1)


@njit
def integer_contexts(
    words: I64, kind: int, rows: int, cols: int, row_scale: I64, column_scale: I64, above: I64,
    mix: int, context: U8, symbol: U8,
) -> None:  # fmt: skip
    """Contexts (scale, then parity as lowest bit on a trellis) and symbols (n,) of integers."""
    for r in range(rows):
        fast, corner = -1, above[0]
        for c in range(cols):
            at = r * cols + c
            k = abs(words[at])
            size = k >> kind
            s1 = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = _blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
                level = _integer_level(size)
                corner = above[c]
                above[c] = level
                fast = _follow(fast, level)
            context[at] = (e << kind) | (k & kind)
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
    top, together = 0, np.int64(0)
    for i in range(bits.size):
        word = np.int64(bits[i])
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
            word = np.int64(bits[r * cols + c]) >> dropped
            cls = ((word >> mantissa) & ((1 << exponent) - 1)) - lowest
            level = 4 * (cls - FLOAT_BIAS) + (((word << 2) >> mantissa) & 3)
            level = min(max(level, 0), SCALES - 1)
            total += level
            column_sum[c] += level
        row_sum[r] += total


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
def count_pairs(context: U8, symbol: U8, table: I64, width: int) -> None:
    """Add each pair of context and symbol to ``table`` (contexts * width,)."""
    for i in range(context.size):
        table[np.int64(context[i]) * width + np.int64(symbol[i])] += 1


@njit
def encode_symbols(
    context: U8, symbol: U8, second: U8, near: U8, pairs: int, width: int, table: I64,
    reciprocal: I64, seconds: I64, second_reciprocal: I64, out: U16,
) -> int:  # fmt: skip
    """Words from the end of ``out``; returns where they start, four states of two words first.

    ``table`` (contexts * width,) is frequency << 12 | start; ``seconds`` the same of mantissas, of
    8 symbols. An element of ``pairs`` 2 has both symbols.
    """
    x0, x1, x2, x3 = STATE, STATE, STATE, STATE
    pos = out.size
    for i in range(context.size - 1, -1, -1):
        if pairs == 2:
            j = np.int64(near[i]) * 8 + np.int64(second[i])
            entry = seconds[j]
            f = entry >> BITS
            x = x3
            more = 1 if x >= f << 19 else 0
            out[pos - 1] = x & 65535
            pos -= more
            x >>= 16 * more
            q = (x * second_reciprocal[j]) >> _RECIPROCAL
            x0, x1, x2, x3 = (q << BITS) + (x - q * f) + (entry & (SLOTS - 1)), x0, x1, x2
        j = np.int64(context[i]) * width + np.int64(symbol[i])
        entry = table[j]
        f = entry >> BITS
        x = x3
        # Without a jump, which would be mispredicted one time in seven.
        more = 1 if x >= f << 19 else 0
        out[pos - 1] = x & 65535
        pos -= more
        x >>= 16 * more
        q = (x * reciprocal[j]) >> _RECIPROCAL
        x0, x1, x2, x3 = (q << BITS) + (x - q * f) + (entry & (SLOTS - 1)), x0, x1, x2
    pos -= 8
    for lane in range(4):
        x = x0 if lane == 0 else x1 if lane == 1 else x2 if lane == 2 else x3
        out[pos + 2 * lane] = x >> 16
        out[pos + 2 * lane + 1] = x & 65535
    return pos


@njit
def pack_floats(bits: Any, symbol: U8, shape: I64, out: U32) -> int:
    """What the symbols leave of floating-point bits, as 32-bit words; returns how many.

    Below the coded mantissa bits: the others, then the sign, then an exponent out of range.
    """
    mantissa, exponent, dropped, coded, signs = shape[1], shape[3], shape[4], shape[5], shape[6]
    rest = mantissa - coded
    held, count, pos = 0, 0, 0
    for i in range(symbol.size):
        word = np.int64(bits[i]) >> dropped
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
def pack_integers(words: I64, kind: int, out: U32) -> int:
    """What the symbols leave of integers, as 32-bit words: the sign, then bits of large ones."""
    held, count, pos = 0, 0, 0
    for i in range(words.size):
        k = words[i]
        if k != 0:
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


@njit
def pack_bytes(bits: Any, mantissa: int, sign: int, out: U8) -> None:
    """What the symbols leave of floating-point bits where that is 8 bits of each, without jumps:
    the same bytes as of ``pack_floats``. ``sign`` is the place of the sign, 63 for none.
    """
    for i in range(bits.size):
        word = np.int64(bits[i])
        out[i] = (word & ((1 << mantissa) - 1)) | (((word >> sign) & 1) << mantissa)


@njit
def decode_symbols(
    symbol: U8, rows: int, cols: int, words: U16, row_scale: I64, column_scale: I64, group: I64,
    slots: U32,
) -> int:  # fmt: skip
    """Symbols (n,) whose contexts are promised scales alone, as ``decode_floats``."""
    x0 = (np.int64(words[0]) << 16) | np.int64(words[1])
    x1 = (np.int64(words[2]) << 16) | np.int64(words[3])
    x2 = (np.int64(words[4]) << 16) | np.int64(words[5])
    x3 = (np.int64(words[6]) << 16) | np.int64(words[7])
    pos = 8
    for r in range(rows):
        scale = row_scale[r]
        for c in range(cols):
            s1 = min(max(scale + column_scale[c], 0), SCALES - 1)
            slot = np.int64(slots[group[s1] + (x0 & (SLOTS - 1))])
            symbol[r * cols + c] = slot & 255
            x = (((slot >> 8) & (SLOTS - 1)) + 1) * (x0 >> BITS) + (slot >> 20)
            more = 1 if x < STATE else 0
            x = (x << (16 * more)) | (np.int64(words[pos]) & -more)
            pos += more
            x0, x1, x2, x3 = x1, x2, x3, x
    return 0 if x0 == STATE and x1 == STATE and x2 == STATE and x3 == STATE else 1


@njit
def join_bytes(
    symbol: U8, raw: U8, mantissa: int, sign: int, lowest: int, exponent: int, out: Any
) -> None:
    """Bits (n,) out of symbols and of what ``pack_bytes`` left."""
    body = (1 << mantissa) - 1
    for i in range(symbol.size):
        low = np.int64(raw[i])
        field = (np.int64(symbol[i]) + lowest) & ((1 << exponent) - 1)
        out[i] = (low & body) | (field << mantissa) | (((low >> mantissa) & 1) << sign)


@inline
def _refill(raw: U32, held: int, count: int, at: int) -> tuple[int, int, int]:
    """At least 31 bits; beyond the end there are zeros."""
    if count <= 30:
        held |= (np.int64(raw[at]) if at < raw.size else 0) << count
        count += 32
        at += 1
    return held, count, at


@njit
def decode_floats(
    out: Any, rows: int, cols: int, words: U16, raw: U32, row_scale: I64, column_scale: I64,
    above: I64, shape: I64, group: I64, slots: U32, second_group: I64, second_slots: U32,
) -> int:  # fmt: skip
    """Fill ``out`` (n,) with bits; returns 0, or 1 when the coders do not end as they began.

    ``group`` (64,) is the first slot of a context's table; a slot is symbol, (frequency - 1) << 8,
    (slot - start) << 20. ``words`` has one for every symbol, beyond the
    stream's they are zero.
    """
    mix, mantissa, lowest, exponent = shape[0], shape[1], shape[2], shape[3]
    dropped, coded, signs = shape[4], shape[5], shape[6]
    rest = mantissa - coded
    x0 = (np.int64(words[0]) << 16) | np.int64(words[1])
    x1 = (np.int64(words[2]) << 16) | np.int64(words[3])
    x2 = (np.int64(words[4]) << 16) | np.int64(words[5])
    x3 = (np.int64(words[6]) << 16) | np.int64(words[7])
    pos, held, count, at = 8, 0, 0, 0
    for r in range(rows):
        fast, corner = -1, above[0]
        scale = row_scale[r]
        for c in range(cols):
            s1 = min(max(scale + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = _blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
            slot = np.int64(slots[group[e] + (x0 & (SLOTS - 1))])
            cls = slot & 255
            x = (((slot >> 8) & (SLOTS - 1)) + 1) * (x0 >> BITS) + (slot >> 20)
            more = 1 if x < STATE else 0
            x = (x << (16 * more)) | (np.int64(words[pos]) & -more)
            pos += more
            x0, x1, x2, x3 = x1, x2, x3, x
            body = 0
            if coded:
                near = min(max(4 * (cls - FLOAT_BIAS) - e + 20, 0), MANTISSAS - 1)
                slot = np.int64(second_slots[second_group[near] + (x0 & (SLOTS - 1))])
                x = (((slot >> 8) & (SLOTS - 1)) + 1) * (x0 >> BITS) + (slot >> 20)
                body = (slot & 255) << rest
                more = 1 if x < STATE else 0
                x = (x << (16 * more)) | (np.int64(words[pos]) & -more)
                pos += more
                x0, x1, x2, x3 = x1, x2, x3, x
            held, count, at = _refill(raw, held, count, at)
            body |= held & ((1 << rest) - 1)
            word = ((held >> rest) & signs) << (mantissa + exponent)
            held >>= rest + signs
            count -= rest + signs
            field = cls + lowest
            if cls == 0:
                held, count, at = _refill(raw, held, count, at)
                field = held & ((1 << exponent) - 1)
                held >>= exponent
                count -= exponent
            field &= (1 << exponent) - 1
            out[r * cols + c] = (word | (field << mantissa) | body) << dropped
            if mix:
                level = 4 * (cls - FLOAT_BIAS) + ((body << 2) >> mantissa)
                level = min(max(level, 0), SCALES - 1)
                corner = above[c]
                above[c] = level
                fast = _follow(fast, level)
    return 0 if x0 == STATE and x1 == STATE and x2 == STATE and x3 == STATE else 1


@njit
def decode_integers(
    out: I64, kind: int, rows: int, cols: int, words: U16, raw: U32, row_scale: I64,
    column_scale: I64, above: I64, mix: int, group: I64, slots: U32, next_state: I64,
) -> int:  # fmt: skip
    """Fill ``out`` (n,) with integers; ``group`` (64 << kind,), else as ``decode_floats``."""
    x0 = (np.int64(words[0]) << 16) | np.int64(words[1])
    x1 = (np.int64(words[2]) << 16) | np.int64(words[3])
    x2 = (np.int64(words[4]) << 16) | np.int64(words[5])
    x3 = (np.int64(words[6]) << 16) | np.int64(words[7])
    pos, held, count, at, state = 8, 0, 0, 0, 0
    for r in range(rows):
        fast, corner = -1, above[0]
        scale = row_scale[r]
        for c in range(cols):
            s1 = min(max(scale + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = _blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
            parity = state & kind
            slot = np.int64(slots[group[(e << kind) | parity] + (x0 & (SLOTS - 1))])
            size = slot & 255
            x = (((slot >> 8) & (SLOTS - 1)) + 1) * (x0 >> BITS) + (slot >> 20)
            more = 1 if x < STATE else 0
            x = (x << (16 * more)) | (np.int64(words[pos]) & -more)
            pos += more
            x0, x1, x2, x3 = x1, x2, x3, x
            held, count, at = _refill(raw, held, count, at)
            sign = held & 1
            if size | parity:
                held >>= 1
                count -= 1
            else:
                sign = 0
            if size >= DIRECT:
                below = 3 + ((size - DIRECT) >> 2)
                size = (4 | ((size - DIRECT) & 3)) << below
                part = min(below, 20)
                size |= held & ((1 << part) - 1)
                held >>= part
                count -= part
                held, count, at = _refill(raw, held, count, at)
                size |= (held & ((1 << (below - part)) - 1)) << part
                held >>= below - part
                count -= below - part
            k = (size << kind) | parity
            k = -k if sign else k
            out[r * cols + c] = k
            if kind:
                state = next_state[state, (k >> 1) & 1]
            if mix:
                level = _integer_level(size)
                corner = above[c]
                above[c] = level
                fast = _follow(fast, level)
    return 0 if x0 == STATE and x1 == STATE and x2 == STATE and x3 == STATE else 1
