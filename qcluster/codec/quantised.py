"""Quantised values: a plane of integers, what an integer stands for, and exceptions.

A chunk is the length of its plane (uint32), the plane, the number of exceptions (uint32), and if
there are any a zstd frame of their gaps (uint32) and their bits. An exception is an element whose
bits are given outright: not a number, infinite, or missed by the promise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctFormatError
from qcluster.codec.floats import to_float_bits
from qcluster.codec.lossless import unzstd
from qcluster.codec.plane import decode_plane
from qcluster.codec.plane_head import INTEGER, TRELLIS

__all__ = [
    "LATTICES",
    "Int8",
    "Lattice",
    "Logarithmic",
    "Trellis",
    "Uniform",
    "coarse_integers",
    "decode_quantised",
    "join_chunk",
    "predict",
    "read_lattice",
    "split_chunk",
]  # fmt: skip

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bits = NDArray[Any]

# Values beyond this many steps are exceptions.
FARTHEST = 1 << 40


def _number(parameters: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise QctFormatError(f"wants a number, got {value!r}", field=name)
    return float(value)


@dataclass(frozen=True)
class Uniform:
    """k stands for ``center + k * step``."""

    step: float
    center: float = 0.0
    kind = INTEGER

    def values(self, k: I64) -> F64:
        """(n,) in double precision."""
        return k.astype(np.float64) * self.step + self.center

    def nearest(self, x: F64) -> I64:
        """The integers (n,) nearest to finite values."""
        with np.errstate(over="ignore"):
            k = np.rint((x - self.center) / self.step)
        return np.clip(k, -FARTHEST, FARTHEST).astype(np.int64)

    def parameters(self) -> dict[str, Any]:
        """As the header has them."""
        return {"step": self.step} | ({"center": self.center} if self.center else {})

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Uniform:
        """From the header."""
        step = _number(parameters, "step")
        if step <= 0:
            raise QctFormatError(f"wants a positive number, got {step}", field="step")
        return cls(step, _number(parameters, "center", 0.0))


@dataclass(frozen=True)
class Int8(Uniform):
    """The affine 8-bit quantiser: zero point ``center``, scale ``step``, k in -127..127."""

    def nearest(self, x: F64) -> I64:
        """The integers (n,) nearest to finite values."""
        return np.clip(super().nearest(x), -127, 127)


@dataclass(frozen=True)
class Trellis:
    """k stands for ``step * (k - sign(k) * shift[min(|k|, last)] / 256)``: values shrink towards
    zero where density falls within a cell.
    """

    step: float
    states: int
    shift: tuple[int, ...] = (0,)
    kind = TRELLIS

    def values(self, k: I64) -> F64:
        """(n,) in double precision."""
        last = len(self.shift) - 1
        # At i and, counted from the end, at -i.
        inward = np.array([*self.shift, *(-s for s in self.shift[:0:-1])], dtype=np.int64)
        inward[0] = 0
        out = 256 * k
        out -= inward[np.clip(k, -last, last)] if last else np.sign(k) * self.shift[0]
        values = out.astype(np.float64)
        values *= self.step / 256
        return values

    def parameters(self) -> dict[str, Any]:
        """As the header has them."""
        out: dict[str, Any] = {"step": self.step, "states": self.states}
        return out | ({"shift": list(self.shift)} if any(self.shift) else {})

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Trellis:
        """From the header."""
        step = Uniform.read(parameters).step
        states, shift = parameters.get("states"), parameters.get("shift", [0])
        whole = isinstance(shift, list) and all(type(s) is int and abs(s) < 256 for s in shift)
        if type(states) is not int or not whole or not 1 <= len(shift) <= 64:
            raise QctFormatError("wants states and a list of shifts", field="trellis")
        return cls(step, states, tuple(shift))


@dataclass(frozen=True)
class Logarithmic:
    """Points in geometric progression within ``eps`` of everything between them, relatively.

    k = 0 is zero; else ``origin`` + 1 - |k| counts the points from 1 up or down, so that the
    largest values have the smallest integers. The points of an octave are made by repeated
    multiplication in double precision, never by a logarithm of the machine's library.
    """

    eps: float
    origin: int
    kind = INTEGER

    @property
    def points(self) -> F64:
        """The points of [1, 2)."""
        return _octave(self.eps)

    def values(self, k: I64) -> F64:
        """(n,) in double precision."""
        points = self.points
        octave, step = np.divmod(self.origin + 1 - np.abs(k), len(points))
        size = np.ldexp(points[step], np.clip(octave, -1200, 1200).astype(np.int32))
        return np.where(k == 0, 0.0, np.sign(k) * size)

    def nearest(self, x: F64) -> I64:
        """The integers (n,) nearest to finite values."""
        points = self.points
        part, octave = np.frexp(np.abs(x))
        step = np.searchsorted((points[1:] + points[:-1]) / 2, 2 * part)
        last = (points[-1] + 2) / 2
        up = 2 * part > last
        index = (octave.astype(np.int64) - 1 + up) * len(points) + np.where(up, 0, step)
        return np.where(x == 0, 0, np.where(x < 0, -1, 1) * (self.origin + 1 - index))

    def parameters(self) -> dict[str, Any]:
        """As the header has them."""
        return {"eps": self.eps, "origin": self.origin}

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Logarithmic:
        """From the header."""
        eps, origin = _number(parameters, "eps"), parameters.get("origin")
        if not 1e-5 <= eps < 1 or type(origin) is not int or abs(origin) > FARTHEST:
            raise QctFormatError("wants eps in [1e-5, 1) and an origin", field="log")
        return cls(eps, origin)


@lru_cache(maxsize=8)
def _octave(eps: float) -> F64:
    """Points of [1, 2) whose ratio is at most (1 + eps) / (1 - eps), evenly spread: the n-th root
    of 2 by bisection on products, so that only IEEE multiplications decide.
    """
    ratio = (1 + eps) / (1 - eps)
    count, product = 1, ratio
    while product < 2:
        product *= ratio
        count += 1
    low, high = 1.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        product = 1.0
        for _ in range(count):
            product *= middle
            if product > 2:
                break
        low, high = (low, middle) if product > 2 else (middle, high)
    points = np.empty(count)
    product = 1.0
    for i in range(count):
        points[i] = product
        product *= low
    return points


Lattice = Uniform | Int8 | Trellis | Logarithmic
LATTICES: dict[str, Any] = {
    "uniform": Uniform, "int8": Int8, "trellis": Trellis, "log": Logarithmic,
}  # fmt: skip


def read_lattice(name: str, parameters: Mapping[str, Any]) -> Lattice:
    """The lattice of an operation. Raises QctFormatError for parameters out of range."""
    lattice: Lattice = LATTICES[name].read(parameters)
    return lattice


def predict(k: I64, columns: int, mode: int, *, undo: bool = False) -> I64:
    """Differences to the left (1), upper (2) or both neighbours (3, Lorenzo), or back."""
    if mode == 0:
        return k
    grid = k.reshape(-1, columns)
    for axis, bit in ((1, 1), (0, 2)):
        if mode & bit:
            grid = np.cumsum(grid, axis=axis) if undo else np.diff(grid, axis=axis, prepend=0)
    return grid.reshape(-1)


def coarse_integers(lattice: Uniform | Logarithmic, coarse: F64) -> I64:
    """The integers (n,) nearest to coarse values, 0 for those that are not finite."""
    finite = np.isfinite(coarse)
    return np.where(finite, lattice.nearest(np.where(finite, coarse, 0.0)), 0)


def join_chunk(plane: bytes, exceptions: I64, bits: Bits) -> bytes:
    """A chunk's bytes; ``bits`` (n,) of which those at ``exceptions`` are kept."""
    parts = [struct.pack("<I", len(plane)), plane, struct.pack("<I", exceptions.size)]
    if exceptions.size:
        import zstandard

        gaps = np.diff(exceptions, prepend=0).astype("<u4").tobytes()
        parts.append(
            zstandard.ZstdCompressor(level=9, write_content_size=False).compress(
                gaps + bits[exceptions].tobytes()
            )
        )
    return b"".join(parts)


def split_chunk(data: memoryview, count: int, size: int) -> tuple[memoryview, I64, Bits]:
    """A chunk's plane, the places of its exceptions and their bits of ``size`` bytes each."""
    if len(data) < 8:
        raise QctFormatError("is shorter than its head", field="chunk")
    (length,) = struct.unpack_from("<I", data)
    if 8 + length > len(data):
        raise QctFormatError("ends within its plane", field="chunk")
    (number,) = struct.unpack_from("<I", data, 4 + length)
    plane, rest = data[4 : 4 + length], data[8 + length :]
    if number > count or (number == 0 and len(rest)):
        raise QctFormatError(f"has {number} exceptions of {count}", field="chunk")
    if not number:
        return plane, np.empty(0, np.int64), np.empty(0, f"<u{size}")
    raw = unzstd(rest, number * (4 + size))
    if len(raw) != number * (4 + size):
        raise QctFormatError("has fewer exceptions than it says", field="chunk")
    places = np.cumsum(np.frombuffer(raw, "<u4", number), dtype=np.int64)
    if places[-1] >= count:
        raise QctFormatError("has an exception beyond its end", field="chunk")
    return plane, places, np.frombuffer(raw, f"<u{size}", number, 4 * number)


def decode_quantised(
    name: str, parameters: Mapping[str, Any], data: memoryview, dtype: DType, out: Bits,
    coarse: F64 | None = None,
) -> None:  # fmt: skip
    """Fill ``out`` (elements,) with the chunk's bits; its integers are added to those nearest to
    ``coarse`` where that is given.

    Raises QctFormatError.
    """
    if not dtype.is_float:
        raise QctFormatError(f"{name} on {dtype.name}", field="ops")
    lattice = read_lattice(name, parameters)
    plane, places, bits = split_chunk(data, out.size, out.dtype.itemsize)
    k, layout = decode_plane(plane, out.size)
    states = getattr(lattice, "states", 1)
    if layout.kind != lattice.kind or layout.states != states:
        raise QctFormatError("is a plane of another kind", field="chunk")
    mode = parameters.get("predict", 0)
    if type(mode) is not int or not 0 <= mode <= 3:
        raise QctFormatError("wants 0 to 3", field="predict")
    with np.errstate(over="ignore", invalid="ignore"):
        k = predict(k, layout.columns, mode, undo=True)
        if coarse is not None and not isinstance(lattice, Trellis):
            k = k + coarse_integers(lattice, coarse)
        out[:] = to_float_bits(lattice.values(k), dtype)
    out[places] = bits
