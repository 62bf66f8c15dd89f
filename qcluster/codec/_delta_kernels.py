"""Coding of sparse changes: which elements moved, which way and how far, by what is known of them.

``known`` is a class (0..63) of each element that the receiver has as well: its exponent. Whether it
moved is judged by four contexts together: the class alone, and the class with how often its row,
its column and its neighbours moved.
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

__all__ = ["DELTA_CONTEXTS", "code_changes"]

I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

_RATE = 64 * 16
_SIZE = 4 * _RATE
_SIGN = _SIZE + 64 * 64
DELTA_CONTEXTS = _SIGN + 64 * 2 + 64 * 8
MAX_BITS = 40


@inline
def _octave(share: int) -> int:
    """The bits of a rate, a 16-bit share, whose logarithm is what matters; at most 15."""
    bits = 0
    while share > 0:
        share >>= 1
        bits += 1
    return min(bits, 15)


@inline
def _code_size(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, cls: int, value: int, rates: I64
) -> Coder:
    """How far an element moved, from 1 up: its bit length, the bit below the first, the others."""
    bits = 1
    while True:
        more = 1 if (value >> bits) > 0 else 0
        low, span, pos, more = code_plain(
            low, span, pos, enc, buf, T, _SIZE + cls * 64 + bits, more, 1023, rates
        )
        if more == 0 or bits >= MAX_BITS:
            break
        bits += 1
    rest = bits - 1
    head = 1
    if rest > 0:
        top = (value >> (rest - 1)) & 1
        low, span, pos, top = code_plain(
            low, span, pos, enc, buf, T, _SIGN + 128 + min(bits, 63) * 8, top, 1023, rates
        )
        head = 2 + top
        rest -= 1
    low, span, pos, tail = code_raw(low, span, pos, enc, buf, value, rest)
    return low, span, pos, (head << rest) | tail


@njit
def code_changes(
    enc: int, words: I64, known: I64, negative: I64, cols: int, buf: U16, T: U32, W: I64,
    row_rate: I64, column_rate: I64, rates: I64, squash: I64, stretch: I64,
) -> int:  # fmt: skip
    """Encode or decode ``words`` (n,), differences, in place; returns the words of ``buf`` used,
    or, where it had too few, how many it should have had.

    ``row_rate`` (1,) and ``column_rate`` (cols,) are room to work in, zeros at the start;
    ``negative`` (n,) is the sign of what the differences are against.
    """
    low = 0 if enc else first_code(buf)
    span = SPAN
    pos = 0 if enc else 3
    near = 0
    for i in range(words.size):
        c = i % cols
        cls = known[i]
        word = words[i]
        bit = 1 if word != 0 else 0
        of_row, of_column = _octave(row_rate[0]), _octave(column_rate[c])
        low, span, pos, bit = code_mixed(
            low, span, pos, enc, buf, T, cls * 16, _RATE + cls * 16 + of_row,
            2 * _RATE + cls * 16 + of_column, 3 * _RATE + cls * 16 + near, W, 0, bit, 1023,
            rates, squash, stretch,
        )  # fmt: skip
        row_rate[0] += ((65535 * bit - row_rate[0]) * 4) >> 9
        column_rate[c] += (65535 * bit - column_rate[c]) >> 5
        near = ((near << 1) | bit) & 15
        if bit == 0:
            words[i] = 0
            continue
        sign = 1 if word < 0 else 0
        low, span, pos, sign = code_plain(
            low, span, pos, enc, buf, T, _SIGN + cls * 2 + negative[i], sign, 1023, rates
        )
        low, span, pos, value = _code_size(low, span, pos, enc, buf, T, cls, abs(word), rates)
        words[i] = -value if sign else value
    return finish(low, span, pos, buf) if enc else pos
