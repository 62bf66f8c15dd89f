"""The decoders of planes coded by tables; see ``_table_kernels``, whose encoder they mirror."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcluster.codec._table_kernels import (
    BITS,
    DIRECT,
    FLOAT_BIAS,
    I64,
    MANTISSAS,
    SCALES,
    SLOTS,
    STATE,
    U8,
    U16,
    U32,
    blend,
    follow,
    integer_level,
)
from qcluster.codec.jit import inline, njit

# Numbers without a sign: see ``_put`` of the encoder.
_NONE, _ONE, _FOUR = np.uint64(0), np.uint64(1), np.uint64(4)
_BITS, _SLOT, _STATE = np.uint64(BITS), np.uint64(SLOTS - 1), np.uint64(STATE)
# Of a slot: its symbol's bits, where its frequency starts and where its place does; of a word.
_BYTE, _SYMBOL, _START, _WORD = np.uint64(255), np.uint64(8), np.uint64(20), np.uint64(16)

__all__ = ["decode_floats", "decode_integers", "decode_symbols", "first_state", "join_bytes",
           "take_symbol"]  # fmt: skip


@inline
def take_symbol(x: Any, base: Any, slots: U32, words: U16, pos: Any) -> tuple[Any, Any, Any]:
    """The next state, the symbol and where the next word is; unsigned, as ``_put``."""
    slot = np.uint64(slots[base + (x & _SLOT)])
    x = (((slot >> _SYMBOL) & _SLOT) + _ONE) * (x >> _BITS) + (slot >> _START)
    more = _ONE if x < _STATE else _NONE
    x = (x << (more << _FOUR)) | (np.uint64(words[pos]) & ((more << _WORD) - more))
    return x, slot & _BYTE, pos + more


@inline
def first_state(words: U16, lane: int) -> Any:
    """The state that a coder begins to decode with."""
    return (np.uint64(words[2 * lane]) << _WORD) | np.uint64(words[2 * lane + 1])


@inline
def _base(scale: int, column: int, group: I64) -> Any:
    """Where the slots of an element's promised scale start."""
    return np.uint64(group[min(max(scale + column, 0), SCALES - 1)])


@njit
def decode_symbols(
    symbol: U8, rows: int, cols: int, words: U16, row_scale: I64, column_scale: I64, group: I64,
    slots: U32,
) -> int:  # fmt: skip
    """Symbols (n,) whose contexts are promised scales alone, as ``decode_floats``."""
    x0, x1 = first_state(words, 0), first_state(words, 1)
    x2, x3 = first_state(words, 2), first_state(words, 3)
    pos = np.uint64(8)
    whole = cols // 4 * 4
    for r in range(rows):
        scale, at = row_scale[r], r * cols
        for c in range(0, whole, 4):
            base = _base(scale, column_scale[c], group)
            x0, symbol[at + c], pos = take_symbol(x0, base, slots, words, pos)
            base = _base(scale, column_scale[c + 1], group)
            x1, symbol[at + c + 1], pos = take_symbol(x1, base, slots, words, pos)
            base = _base(scale, column_scale[c + 2], group)
            x2, symbol[at + c + 2], pos = take_symbol(x2, base, slots, words, pos)
            base = _base(scale, column_scale[c + 3], group)
            x3, symbol[at + c + 3], pos = take_symbol(x3, base, slots, words, pos)
        for c in range(whole, cols):
            base = _base(scale, column_scale[c], group)
            x0, symbol[at + c], pos = take_symbol(x0, base, slots, words, pos)
            x0, x1, x2, x3 = x1, x2, x3, x0
    return 0 if x0 == _STATE and x1 == _STATE and x2 == _STATE and x3 == _STATE else 1


@njit
def join_bytes(
    symbol: U8, raw: U8, mantissa: int, sign: int, lowest: int, exponent: int, out: Any
) -> None:
    """Bits (n,) out of symbols and of the 8 bits that they left of each, the sign highest."""
    body = (1 << mantissa) - 1
    for i in range(symbol.size):
        low = int(np.int64(raw[i]))
        field = (int(np.int64(symbol[i])) + lowest) & ((1 << exponent) - 1)
        out[i] = (low & body) | (field << mantissa) | (((low >> mantissa) & 1) << sign)


@inline
def _refill(raw: U32, held: int, count: int, at: int) -> tuple[int, int, int]:
    """At least 31 bits; beyond the end there are zeros."""
    if count <= 30:
        held |= (int(np.int64(raw[at])) if at < raw.size else 0) << count
        count += 32
        at += 1
    return held, count, at


@inline
def _first(words: U16, lane: int) -> int:
    """``first_state`` as a number with a sign."""
    return (int(np.int64(words[2 * lane])) << 16) | int(np.int64(words[2 * lane + 1]))


@inline
def _take(x: int, base: int, slots: U32, words: U16, pos: int) -> tuple[int, int, int]:
    """``take_symbol`` in numbers with a sign."""
    slot = int(np.int64(slots[base + (x & (SLOTS - 1))]))
    x = (((slot >> 8) & (SLOTS - 1)) + 1) * (x >> BITS) + (slot >> 20)
    more = 1 if x < STATE else 0
    x = (x << (16 * more)) | (int(np.int64(words[pos])) & -more)
    return x, slot & 255, pos + more


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
    x0, x1, x2, x3 = _first(words, 0), _first(words, 1), _first(words, 2), _first(words, 3)
    pos, held, count, at = 8, 0, 0, 0
    for r in range(rows):
        fast, corner = -1, above[0]
        scale = row_scale[r]
        for c in range(cols):
            s1 = min(max(scale + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
            x0, cls, pos = _take(x0, group[e], slots, words, pos)
            x0, x1, x2, x3 = x1, x2, x3, x0
            body = 0
            if coded:
                near = min(max(4 * (cls - FLOAT_BIAS) - e + 20, 0), MANTISSAS - 1)
                x0, body, pos = _take(x0, second_group[near], second_slots, words, pos)
                x0, x1, x2, x3 = x1, x2, x3, x0
                body <<= rest
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
                fast = follow(fast, level)
    return 0 if x0 == STATE and x1 == STATE and x2 == STATE and x3 == STATE else 1


@inline
def _large(size: int, raw: U32, held: int, count: int, at: int) -> tuple[int, int, int, int]:
    """An integer of which ``size`` says the bit length and the first bits, out of the others."""
    below = 3 + ((size - DIRECT) >> 2)
    size = (4 | ((size - DIRECT) & 3)) << below
    part = min(20, below)
    size |= held & ((1 << part) - 1)
    held, count, at = _refill(raw, held >> part, count - part, at)
    size |= (held & ((1 << (below - part)) - 1)) << part
    return size, held >> (below - part), count - (below - part), at


@njit
def decode_integers(
    out: I64, kind: int, rows: int, cols: int, words: U16, raw: U32, row_scale: I64,
    column_scale: I64, above: I64, mix: int, group: I64, slots: U32, next_state: I64,
    signs: int, second_group: I64, second_slots: U32,
) -> int:  # fmt: skip
    """Fill ``out`` (n,) with integers; ``group`` (64 << kind,), else as ``decode_floats``.

    With ``signs`` 0 they are coded by tables.
    """
    x0, x1, x2, x3 = _first(words, 0), _first(words, 1), _first(words, 2), _first(words, 3)
    pos, held, count, at, state = 8, 0, 0, 0, 0
    for r in range(rows):
        fast, corner = -1, above[0]
        scale = row_scale[r]
        for c in range(cols):
            s1 = min(max(scale + column_scale[c], 0), SCALES - 1)
            e = s1
            if mix:
                e = blend(s1, mix, fast, above[c], corner, above[c + 1 if c + 1 < cols else c])
            parity = state & kind
            x0, size, pos = _take(x0, group[(e << kind) | parity], slots, words, pos)
            x0, x1, x2, x3 = x1, x2, x3, x0
            held, count, at = _refill(raw, held, count, at)
            sign = held & signs
            if signs == 0:
                near = 2 * min(size, 3) + parity
                x0, sign, pos = _take(x0, second_group[near], second_slots, words, pos)
                x0, x1, x2, x3 = x1, x2, x3, x0
                sign &= 1
            elif size | parity:
                held >>= 1
                count -= 1
            else:
                sign = 0
            if size >= DIRECT:
                size, held, count, at = _large(size, raw, held, count, at)
            k = (size << kind) | parity
            k = -k if sign else k
            out[r * cols + c] = k
            if kind:
                state = next_state[state, (k >> 1) & 1]
            if mix:
                level = integer_level(size)
                corner = above[c]
                above[c] = level
                fast = follow(fast, level)
    return 0 if x0 == STATE and x1 == STATE and x2 == STATE and x3 == STATE else 1
