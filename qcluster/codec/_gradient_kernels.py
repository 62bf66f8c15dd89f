"""Coding of small integers that are mostly zero: a bit for zero, a sign, and a short unary rest.

The contexts are how large the two neighbours to the left and the one above are. They start afresh
with every blob, so a blob needs nothing but itself to be read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._coder_kernels import SPAN, code_plain, code_raw, finish, first_code
from qcluster.codec.jit import njit

__all__ = ["LARGEST", "LEVEL_CONTEXTS", "code_levels"]

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

LARGEST = (1 << 24) - 1
AROUND = 11
UNARY = 14
LEVEL_CONTEXTS = 2 * AROUND + UNARY
# Contexts forget after so many bits, as gradients differ from layer to layer.
LIMIT = 500
# An element takes at most so many words: the bits above, each at most one word.
ROOM = 24


@njit
def code_levels(k: I32, tables: I64, enc: int, buf: U16, T: U32, rates: I64) -> int:
    """Code (``enc`` 1) or read (0) all levels; the words used, or -1 where ``buf`` is too short.

    ``tables`` (n, 3): for each tensor its elements, its row length and its set of contexts.
    """
    low, span, pos = 0, SPAN, 0
    if enc == 0:
        low, pos = first_code(buf), 3
    start = 0
    for n in range(tables.shape[0]):
        size, columns, base = tables[n, 0], tables[n, 1], tables[n, 2] * LEVEL_CONTEXTS
        for i in range(start, start + size):
            if enc and pos + ROOM > buf.size:
                return -1
            one = min(abs(int(np.int64(k[i - 1]))), 2) if i > start else 0
            two = min(abs(int(np.int64(k[i - 2]))), 2) if i > start + 1 else 0
            up = min(abs(int(np.int64(k[i - columns]))), 2) if i - columns >= start else 0
            near = base + 2 * one + two + 2 * up
            value = int(np.int64(k[i])) if enc else 0
            size_of = abs(value)
            low, span, pos, bit = code_plain(
                low, span, pos, enc, buf, T, near, 1 if size_of else 0, LIMIT, rates
            )
            if bit == 0:
                k[i] = 0
                continue
            low, span, pos, sign = code_raw(low, span, pos, enc, buf, 1 if value < 0 else 0, 1)
            found = 1
            at = near + AROUND
            more = 1
            while more and found <= UNARY:
                low, span, pos, more = code_plain(
                    low, span, pos, enc, buf, T, at, 1 if size_of > found else 0, LIMIT, rates
                )
                found += more
                at = base + 2 * AROUND + min(found, UNARY) - 1
            if found > UNARY:
                rest = size_of - found
                low, span, pos, rest = code_raw(low, span, pos, enc, buf, rest, 24)
                found += rest
            k[i] = -found if sign else found
        start += size
    if enc:
        return int(finish(low, span, pos, buf))
    return pos
