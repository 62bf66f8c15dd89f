"""Encoders of quantised modes: chunks that keep a promise, checked on what the decoder will give.

Each returns the chain's operations, its chunks and the decoded bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType
from qcluster.codec.floats import to_float_bits, to_values
from qcluster.codec.lossless import best_plane
from qcluster.codec.plane_head import INTEGER, Layout
from qcluster.codec.quantised import (
    Int8,
    Logarithmic,
    Uniform,
    coarse_integers,
    join_chunk,
    predict,
)

__all__ = ["Coded", "encode_int8", "encode_max_abs", "encode_point_rel"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bits = NDArray[Any]
Ops = tuple[tuple[str, dict[str, Any]], ...]


@dataclass(frozen=True)
class Coded:
    """One way to write a tensor: chain, chunks and the bits that it decodes to."""

    ops: Ops
    chunks: Sequence[bytes]
    decoded: Bits

    @property
    def size(self) -> int:
        """Bytes of the chunks."""
        return sum(map(len, self.chunks))


def encode_max_abs(
    bits: Bits, dtype: DType, columns: int, chunk: int, eps: float, effort: str,
    like: Mapping[str, Any] | None = None, coarse: F64 | None = None,
) -> Coded:  # fmt: skip
    """|x - decoded| <= eps for every finite element, all others bit for bit.

    ``like`` are the parameters that an earlier part of the same tensor was given, ``coarse`` (n,)
    values that the decoder has.
    """
    values = to_values(bits, dtype)
    center = _center(values, eps) if like is None else float(like.get("center", 0.0))
    lattice = Uniform(2 * eps, center)

    def kept(x: F64, y: F64) -> NDArray[np.bool_]:
        return _within(x, y, np.full(x.shape, eps))

    mode = None if like is None else int(like.get("predict", 0))
    return _encode("uniform", lattice, bits, values, dtype, columns, chunk, kept, effort, mode,
                   coarse)  # fmt: skip


def encode_point_rel(
    bits: Bits, dtype: DType, columns: int, chunk: int, eps: float, effort: str,
    coarse: F64 | None = None,
) -> Coded:  # fmt: skip
    """|x - decoded| <= eps |x| for every finite element, all others bit for bit; ``coarse`` as of
    ``encode_max_abs``.
    """
    values = to_values(bits, dtype)
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    largest = float(size.max()) if size.size else 1.0
    # nearest() counts down from the origin: with origin 0 it says how far up the largest is.
    lattice = Logarithmic(eps, 1 - int(Logarithmic(eps, 0).nearest(np.array([largest]))[0]))

    def kept(x: F64, y: F64) -> NDArray[np.bool_]:
        with np.errstate(over="ignore", invalid="ignore"):
            # Near the smallest numbers the bound itself would be rounded, by up to its own size.
            up = np.where(np.abs(x) < 2.0**-700, 2.0**300, 1.0)
            limit = eps * np.abs(x * up) * (1 - 2.0**-52)
            return np.asarray(_within(x * up, y * up, limit) & ((y == 0) == (x == 0)))

    return _encode("log", lattice, bits, values, dtype, columns, chunk, kept, effort, None, coarse)


def encode_int8(bits: Bits, dtype: DType, columns: int, chunk: int, effort: str) -> Coded:
    """The affine 8-bit quantiser: scale = largest |x| / 127, zero point 0; what is not finite is
    kept bit for bit.
    """
    values = to_values(bits, dtype)
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 1.0
    lattice = Int8(largest / 127 or largest or 1.0)

    def kept(x: F64, y: F64) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(x) & np.isfinite(y))

    return _encode("int8", lattice, bits, values, dtype, columns, chunk, kept, effort)


def _center(values: F64, eps: float) -> float:
    """Subtracted first where values lie on one side of zero, e.g. scales of a normalisation."""
    some = values[:: max(1, values.size // 65_536)]
    some = some[np.isfinite(some)]
    if not some.size:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        middle, spread = float(np.median(some)), float(np.std(some))
    # Not worth a number in the header when it moves nothing, nor where it would overflow.
    wide = abs(middle) > max(0.3 * spread, 2 * eps)
    return middle if wide and np.isfinite(spread) and abs(middle) < 1e300 else 0.0


def _within(x: F64, y: F64, eps: F64) -> NDArray[np.bool_]:
    """Whether |x - y| <= eps in exact arithmetic: the rounding error of the difference is known
    exactly too (Knuth's two-sum), and decides where the difference equals eps.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        d = x - y
        back = d - x
        error = (x - (d - back)) - (y + back)
        near = np.abs(d)
        return np.asarray((near < eps) | ((near == eps) & (np.sign(d) * error <= 0)))


def _encode(
    name: str, lattice: Uniform | Logarithmic, bits: Bits, values: F64, dtype: DType,
    columns: int, chunk: int, kept: Any, effort: str, mode: int | None = None,
    coarse: F64 | None = None,
) -> Coded:  # fmt: skip
    """All chunks of a lattice without memory."""
    known = None if coarse is None else coarse_integers(lattice, coarse)
    decoded = np.empty_like(bits)
    chunks = []
    parameters = lattice.parameters()
    for first in range(0, bits.size, chunk):
        part = slice(first, min(first + chunk, bits.size))
        x = values[part]
        finite = np.isfinite(x)
        k = np.where(finite, lattice.nearest(np.where(finite, x, 0.0)), 0)
        with np.errstate(over="ignore", invalid="ignore"):
            out = to_float_bits(lattice.values(k), dtype)
        missed = ~(finite & kept(x, to_values(out, dtype)))
        # A missed element costs its bits anyway: nothing is gained by a far-off integer.
        k[missed] = 0 if known is None else known[part][missed]
        out[missed] = bits[part][missed]
        decoded[part] = out
        if known is not None:
            k, mode = k - known[part], 0
        if mode is None:
            mode = _prediction(k, columns)
        words = predict(k, columns, mode)
        layout = Layout(kind=INTEGER, columns=columns)
        plane = best_plane(words, layout, effort)
        chunks.append(join_chunk(plane, np.flatnonzero(missed), bits[part]))
    parameters |= {"predict": mode} if mode else {}
    return Coded(((name, parameters),), chunks, decoded)


def _prediction(k: I64, columns: int) -> int:
    """Which differences are shortest, on the first rows, by a margin that noise does not reach."""
    rows = min(k.size // columns, max(2, 65_536 // columns))
    some = k[: rows * columns]

    def length(mode: int) -> float:
        return float(np.log2(1 + 2 * np.abs(predict(some, columns, mode))).mean())

    lengths = {mode: length(mode) for mode in ((0, 1, 2, 3) if rows > 1 else (0, 1))}
    best = min(lengths, key=lambda mode: lengths[mode])
    return best if lengths[best] < lengths[0] - 0.1 else 0
