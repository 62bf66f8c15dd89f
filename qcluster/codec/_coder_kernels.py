"""Binary arithmetic coding on integers: one walk encodes and decodes (Martin, 1979; Rissanen).

The coder's state is four integers: ``low`` (decoding: code - low), ``span``, ``pos`` (words written
or read), ``enc`` (1 when encoding); every step takes and returns them, because compiled code keeps
them in registers. Words are 16 bits; the span stays in [2^32, 2^48), so a bound of 16-bit
probability fits 63 bits. A decoder that runs out of words reads zeros, as the encoder drops
trailing ones.

A context is one uint32: a probability of 22 bits and a count of 10 bits, whose adaptation slows
as 1 / count down to a limit. Mixing is logistic (Mahoney, 2005), with integer tables.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.jit import inline, njit

__all__ = ["SPAN", "Coder", "code_bit", "code_mixed", "code_plain", "code_raw", "finish",
           "first_code", "logistic", "new_contexts", "new_weights"]  # fmt: skip

I64 = NDArray[np.int64]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
Coder = tuple[int, int, int, int]

TOP = 1 << 48
SPAN = TOP - 1
LOW = 1 << 32
MASK = LOW - 1
START = (1 << 21) << 10
# 2^16 / (n + 1.5): how far a context moves towards a bit it has seen n others before.
RATES = np.array([(2 << 16) // (2 * n + 3) for n in range(1024)], dtype=np.int64)
INPUTS = 4


def new_contexts(count: int) -> U32:
    """``count`` contexts that have seen nothing."""
    return np.full(count, START, dtype=np.uint32)


def new_weights(sets: int, first: int) -> I64:
    """Weights (sets, 5): of four inputs, 65536 is one, and a count; ``first`` is the first's."""
    weights = np.full((sets, INPUTS + 1), 12_000, dtype=np.int64)
    weights[:, 0] = first
    weights[:, INPUTS] = 0
    return weights


@lru_cache(maxsize=1)
def logistic() -> tuple[I64, I64]:
    """``squash`` (4095,): 65536 / (1 + e^(-d / 256)) at d + 2047, and ``stretch`` (4096,), its
    inverse at p / 16. Made by decimal arithmetic, so they are the same everywhere.
    """
    with localcontext() as context:
        context.prec = 20
        values = [65536 / (1 + (Decimal(-d) / 256).exp()) for d in range(-2047, 2048)]
    squash = np.array([min(max(int(v), 16), 65520) for v in values], dtype=np.int64)
    middle = 16 * np.arange(4096) + 8
    stretch = np.searchsorted(squash, middle).astype(np.int64) - 2047
    return squash, np.clip(stretch, -2047, 2047)


@njit
def first_code(buf: U16) -> int:
    """The first three words: what a decoder starts from, at word 3."""
    code = 0
    for i in range(3):
        code = (code << 16) | int(np.int64(buf[i] if i < buf.size else 0))
    return code


@inline
def _shift(low: int, span: int, pos: int, enc: int, buf: U16) -> tuple[int, int, int]:
    """Make room in the span: one word out, or in."""
    if enc and pos >= buf.size:
        # Too little room: what is written is lost, and the caller sees it by the count of words.
        low = (low & MASK) << 16
    elif enc:
        if low >= TOP:
            at = pos - 1
            while at > 0 and buf[at] == 65535:
                buf[at] = 0
                at -= 1
            buf[at] += 1
            low -= TOP
        buf[pos] = low >> 32
        low = (low & MASK) << 16
    else:
        low = (low << 16) | int(np.int64(buf[pos] if pos < buf.size else 0))
    return low, span << 16, pos + 1


@inline
def code_bit(low: int, span: int, pos: int, enc: int, buf: U16, p: int, bit: int) -> Coder:
    """One bit that is 1 with probability p / 65536; returns the state and the bit."""
    bound = ((span >> 1) * p) >> 15
    if enc == 0:
        bit = 1 if low < bound else 0
    if bit:
        span = bound
    else:
        low = low + bound if enc else low - bound
        span -= bound
    if span < LOW:
        low, span, pos = _shift(low, span, pos, enc, buf)
    return low, span, pos, bit


@inline
def code_raw(low: int, span: int, pos: int, enc: int, buf: U16, value: int, count: int) -> Coder:
    """``count`` bits as they are, at most 16 at a time."""
    done = 0
    while count > 0:
        part = min(count, 16)
        count -= part
        span >>= part
        if enc:
            digit = (value >> count) & ((1 << part) - 1)
            low += digit * span
        else:
            digit = min(low // span, (1 << part) - 1)
            low -= digit * span
        if span < LOW:
            low, span, pos = _shift(low, span, pos, enc, buf)
        done = (done << part) | digit
    return low, span, pos, done


@inline
def _adapt(T: U32, i: int, bit: int, limit: int, rates: I64) -> None:
    """Move context ``i`` towards the bit."""
    t = np.int64(T[i])
    n = t & 1023
    p = t >> 10
    p += (((4194303 if bit else 0) - p) * rates[n]) >> 16
    T[i] = (p << 10) | min(n + 1, limit)


@inline
def code_plain(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, i: int, bit: int, limit: int,
    rates: I64,
) -> Coder:  # fmt: skip
    """One bit by context ``i`` alone."""
    p = max(min(int(np.int64(T[i]) >> 16), 65535), 1)
    low, span, pos, bit = code_bit(low, span, pos, enc, buf, p, bit)
    _adapt(T, i, bit, limit, rates)
    return low, span, pos, bit


@inline
def code_mixed(
    low: int, span: int, pos: int, enc: int, buf: U16, T: U32, a: int, b: int, c: int, d: int,
    W: I64, w: int, bit: int, limit: int, rates: I64, squash: I64, stretch: I64,
) -> Coder:  # fmt: skip
    """One bit by four contexts, weighed by set ``w``, which learns from it."""
    sa = stretch[np.int64(T[a]) >> 20]
    sb = stretch[np.int64(T[b]) >> 20]
    sc = stretch[np.int64(T[c]) >> 20]
    sd = stretch[np.int64(T[d]) >> 20]
    mixed = (W[w, 0] * sa + W[w, 1] * sb + W[w, 2] * sc + W[w, 3] * sd) >> 16
    p = squash[min(max(mixed, -2047), 2047) + 2047]
    low, span, pos, bit = code_bit(low, span, pos, enc, buf, p, bit)
    seen = W[w, 4]
    error = ((bit << 16) - p) * (2 + 1024 // (seen + 64))
    W[w, 0] += (sa * error + 524288) >> 20
    W[w, 1] += (sb * error + 524288) >> 20
    W[w, 2] += (sc * error + 524288) >> 20
    W[w, 3] += (sd * error + 524288) >> 20
    W[w, 4] = seen + 1
    _adapt(T, a, bit, limit, rates)
    _adapt(T, b, bit, limit, rates)
    _adapt(T, c, bit, limit, rates)
    _adapt(T, d, bit, limit, rates)
    return low, span, pos, bit


@njit
def finish(low: int, span: int, pos: int, buf: U16) -> int:
    """Write what decides the last bits, as few words as possible; returns the words in all, which
    are more than ``buf`` has where they did not fit.
    """
    high = low + span - 1
    keep = 47
    while keep > 0 and ((high >> keep) << keep) < low:
        keep -= 1
    low = (high >> keep) << keep
    for _ in range(3):
        low, span, pos = _shift(low, 1, pos, 1, buf)
    if pos > buf.size:
        return pos
    while pos > 0 and buf[pos - 1] == 0:
        pos -= 1
    return pos
