"""Coding of a matrix of words: class, leading mantissa bits and sign by context, the rest as bits.

A word is an integer k (``kind`` 0), an integer whose parity a trellis fixes (1), or the bits of a
floating-point number (2). Its class is the bit length of |k|, or the exponent; so both have about
constant density in a class. Contexts are scales in quarter octaves: what row and column promise
(sent ahead), what the neighbours show, what row and column have shown so far.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import (
    SPAN,
    Coder,
    code_mixed,
    code_plain,
    code_raw,
    finish,
    first_code,
)
from qcluster.codec.jit import inline, njit

__all__ = ["CLASSES", "PLANE_CONTEXTS", "WEIGHT_SETS", "code_plane"]

I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

CLASSES = 64
SCALES = 64
# Bytes of context table for one kind of scale: scale x step x parity.
_ONE = SCALES * 32 * 2
_MANTISSA = CLASSES * 32 * 8
PLANE_CONTEXTS = 4 * _ONE + 2 * _MANTISSA + 16
WEIGHT_SETS = 64 + 8
MAX_CLASS = 63
# Scale 0 of floating-point words is this class: the scales are the 16 octaves from there on.
FLOAT_BIAS = 47
INTEGER_BIAS = -3


@inline
def _code_class(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, W: I64, cls: int, bias: int,
    s1: int, s2: int, s3: int, parity: int, dense: int, limit: int, rates: I64, squash: I64,
    stretch: I64,
) -> Coder:  # fmt: skip
    """The class, by asking "at least t?" from where the scale points up or down."""
    start = max((s1 >> 2) + bias, 1)
    t = start
    up = 0
    base = parity * (SCALES * 32)
    while True:
        bit = 1 if cls >= t else 0
        step = min(max(t - start + 8, 0), 15) * 2 + up
        a = base + s1 * 32 + step
        if dense:
            there = min(max(t - (s2 >> 2) - bias + 8, 0), 15) * 2 + up
            slow = min(max(t - (s3 >> 2) - bias + 8, 0), 15) * 2 + up
            both = min(max(s2 - s1 + 16, 0), 31) * 2 + (1 if s3 > s2 else 0)
            low, span, pos, bit = code_mixed(
                low, span, pos, enc, buf, T, a, _ONE + base + s2 * 32 + there,
                2 * _ONE + base + s3 * 32 + slow, 3 * _ONE + base + both * 32 + step, W,
                parity * 32 + step, bit, limit, rates, squash, stretch,
            )  # fmt: skip
        else:
            low, span, pos, bit = code_plain(low, span, pos, enc, buf, T, a, bit, limit, rates)
        if bit:
            if t < start or t >= MAX_CLASS:
                break
            t += 1
            up = 1
        else:
            t -= 1
            if up or t <= 0:
                break
    return low, span, pos, t


@inline
def _code_mantissa(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, cls: int, s: int, value: int,
    bits: int, limit: int, rates: I64,
) -> Coder:  # fmt: skip
    """The three leading of ``bits`` mantissa bits by context, the others as they are."""
    near = 4 * _ONE + (cls * 32 + min(max(4 * cls - s + 16, 0), 31)) * 8
    modelled = min(bits, 3)
    node = 1
    for i in range(modelled):
        bit = (value >> (bits - 1 - i)) & 1
        low, span, pos, bit = code_plain(
            low, span, pos, enc, buf, T, near + node, bit, limit, rates
        )
        node = 2 * node + bit
    rest = bits - modelled
    head = node - (1 << modelled)
    low, span, pos, tail = code_raw(low, span, pos, enc, buf, value, rest)
    return low, span, pos, (head << rest) | tail


@inline
def _local_scales(
    s1: int, first_row: bool, fast: int, slow: int, over: int, corner: int, beside: int, column: int
) -> tuple[int, int]:
    """What the neighbours show, and what row and column have shown so far."""
    seen = fast if fast >= 0 else 16 * s1
    s2 = seen >> 4 if first_row else (7 * seen + 16 * (3 * over + corner + beside) + 96) // 192
    seen = slow if slow >= 0 else 16 * s1
    s3 = (seen + (seen if first_row else column)) >> 5
    return min(s2, SCALES - 1), min(s3, SCALES - 1)


@inline
def _float_word(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, word: int, cls: int, s1: int,
    mantissa: int, lowest: int, exponent: int, signs: int, limit: int, rates: I64,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """What follows the class of a floating-point word; the state, the word and its level."""
    field = cls + lowest
    if cls == 0:
        low, span, pos, field = code_raw(low, span, pos, enc, buf, word >> mantissa, exponent)
    low, span, pos, body = _code_mantissa(
        low, span, pos, enc, buf, T, cls, s1 + 4 * FLOAT_BIAS, word & ((1 << mantissa) - 1),
        mantissa, limit, rates,
    )  # fmt: skip
    sign = word >> (mantissa + exponent)
    low, span, pos, sign = code_raw(low, span, pos, enc, buf, sign, signs)
    level = max(4 * (cls - FLOAT_BIAS) + ((body << 2) >> mantissa), 0)
    return low, span, pos, (((sign << exponent) | field) << mantissa) | body, level


@inline
def _integer_word(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, word: int, value: int, cls: int,
    s1: int, kind: int, parity: int, limit: int, rates: I64,
) -> tuple[int, int, int, int, int]:  # fmt: skip
    """What follows the class of an integer; the state, the integer and its level."""
    level = 4 * cls + 8
    if cls > 1:
        top = 1 << (cls - 1)
        low, span, pos, body = _code_mantissa(
            low, span, pos, enc, buf, T, cls, s1 + 4 * INTEGER_BIAS, value & (top - 1), cls - 1,
            limit, rates,
        )  # fmt: skip
        value = top | body
        level += (body << 2) >> (cls - 1)
    else:
        value = cls
    if kind == 1:
        value = 2 * value + parity
    sign = 1 if word < 0 else 0
    if value > 0:
        low, span, pos, sign = code_plain(
            low, span, pos, enc, buf, T, 4 * _ONE + 2 * _MANTISSA + parity, sign, limit, rates
        )
    return low, span, pos, -value if sign else value, level


@inline
def _class_of(word: int, kind: int, mantissa: int, lowest: int, exponent: int) -> int:
    """The class of a word that is to be encoded; 0 for an exponent out of the common range."""
    if kind == 2:
        cls = ((word >> mantissa) & ((1 << exponent) - 1)) - lowest
        return cls if 0 < cls < MAX_CLASS else 0
    value = abs(word) >> (1 if kind == 1 else 0)
    cls = 0
    while (value >> cls) > 0:
        cls += 1
    return cls


@njit
def code_plane(
    enc: int, words: I64, rows: int, cols: int, buf: U16, T: U32, W: I64, row_scale: I64,
    column_scale: I64, above: I64, column: I64, shape: I64, next_state: I64, rates: I64,
    squash: I64, stretch: I64,
) -> int:  # fmt: skip
    """Encode or decode ``words`` (rows * cols,) in place; returns the words of ``buf`` used, or,
    where it had too few, how many it should have had.

    ``shape`` is kind, dense, limit, mantissa bits, lowest exponent, exponent bits, 1 where floating
    point has signs. ``next_state``
    (states, 2) is the trellis: where bit 1 of k leads. ``above`` and ``column`` (cols,) are room.
    """
    kind, dense, limit = shape[0], shape[1], shape[2]
    mantissa, lowest, exponent, signs = shape[3], shape[4], shape[5], shape[6]
    low = 0 if enc else first_code(buf)
    span = SPAN
    pos = 0 if enc else 3
    state, parity = 0, 0
    bias = FLOAT_BIAS if kind == 2 else INTEGER_BIAS
    for r in range(rows):
        fast, slow, corner = -1, -1, above[0]
        for c in range(cols):
            at = r * cols + c
            s1 = min(max(row_scale[r] + column_scale[c], 0), SCALES - 1)
            s2, s3 = s1, s1
            if dense:
                s2, s3 = _local_scales(
                    s1, r == 0, fast, slow, above[c], corner if c else above[c],
                    above[c + 1 if c + 1 < cols else c], column[c],
                )  # fmt: skip
            word = words[at]
            if kind == 1:
                parity = state & 1
            cls = _class_of(word, kind, mantissa, lowest, exponent) if enc else 0
            low, span, pos, cls = _code_class(
                low, span, pos, enc, buf, T, W, cls, bias, s1, s2, s3, parity, dense, limit,
                rates, squash, stretch,
            )  # fmt: skip
            if kind == 2:
                low, span, pos, word, level = _float_word(
                    low, span, pos, enc, buf, T, word, cls, s1, mantissa, lowest, exponent,
                    signs, limit, rates,
                )  # fmt: skip
            else:
                low, span, pos, word, level = _integer_word(
                    low, span, pos, enc, buf, T, word, abs(word) >> (kind & 1), cls, s1, kind,
                    parity, limit, rates,
                )  # fmt: skip
            words[at] = word
            if kind == 1:
                state = next_state[state, (word >> 1) & 1]
            if dense:
                corner = above[c]
                above[c] = level
                level *= 16
                column[c] = level if column[c] < 0 else column[c] + ((level - column[c]) >> 3)
                fast = level if fast < 0 else fast + ((level - fast) >> 2)
                slow = level if slow < 0 else slow + ((level - slow) >> 4)
    return finish(low, span, pos, buf) if enc else pos
