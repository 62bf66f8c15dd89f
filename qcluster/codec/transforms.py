"""Orthonormal transforms of blocks along rows, undone with integers only.

A basis is rounded to 14 bits after the point. Coefficients are integers (256 to a step), so every
sum of the inverse is an integer below 2^53: matrix products in double precision are then exact in
whatever order they are added up, and every machine decodes the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.circuit import CircuitBasis
from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctFormatError, QctUnsupportedError
from qcluster.codec.floats import to_float_bits
from qcluster.codec.lossless import unzstd
from qcluster.codec.plane import decode_plane
from qcluster.codec.quantised import Trellis, read_lattice, split_chunk

__all__ = ["ONE", "SIZES", "Transform", "fixed_basis", "pack_basis", "read_transform"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

ONE = 1 << 14
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
KINDS = ("dct", "hadamard", "fourier", "sent", "circuit")
LARGEST_K = 1 << 20


@lru_cache(maxsize=32)
def fixed_basis(kind: str, size: int) -> F64:
    """Basis (size, size) of a kind that needs not be sent, rows are basis vectors, times 2^14.

    ``dct`` is the second cosine transform (Ahmed, Natarajan and Rao, 1974), ``hadamard`` Walsh's,
    ``fourier`` the real form of the unitary Fourier transform.
    """
    if kind == "hadamard":
        matrix = np.ones((1, 1))
        while len(matrix) < size:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        exact = matrix / np.sqrt(size)
    else:
        n = np.arange(size)
        if kind == "dct":
            exact = np.cos(np.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * size))
        else:
            wave = 2 * np.pi * ((n[:, None] + 1) // 2) * n[None, :] / size
            exact = np.where(n[:, None] % 2 == 0, np.cos(wave), np.sin(wave))
            exact[-1] = np.cos(np.pi * n) if size % 2 == 0 else exact[-1]
        exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(np.rint(exact * ONE))


@dataclass(frozen=True)
class Transform:
    """Blocks of ``size`` along the flattened tensor, times a basis."""

    kind: str
    size: int
    circuit: CircuitBasis | None = None

    def parameters(self) -> dict[str, Any]:
        """As the header has them."""
        out: dict[str, Any] = {"kind": self.kind, "size": self.size}
        if self.circuit is not None:
            out["turns"] = [list(row) for row in self.circuit.turns]
        return out

    def decode(
        self, name: str, parameters: Mapping[str, Any], data: memoryview, dtype: DType, out: Bits
    ) -> None:
        """Fill ``out`` (elements,) with the chunk's bits. Raises QctFormatError."""
        lattice = read_lattice(name, parameters)
        if not isinstance(lattice, Trellis) or not dtype.is_float or out.size % self.size:
            raise QctFormatError("cannot be transformed", field="ops")
        basis, data = self._basis(data)
        plane, places, bits = split_chunk(data, out.size, out.dtype.itemsize)
        k, layout = decode_plane(plane, out.size)
        if layout.kind != lattice.kind or layout.states != lattice.states:
            raise QctFormatError("is a plane of another kind", field="chunk")
        k = np.clip(k, -LARGEST_K, LARGEST_K)
        out[:] = to_float_bits(self.inverse(k, lattice, basis), dtype)
        out[places] = bits

    def inverse(self, k: NDArray[np.int64], lattice: Trellis, basis: F64) -> F64:
        """Values (n,) of coefficients k (n,)."""
        unit = Trellis(256.0, lattice.states, lattice.shift)
        sums = unit.values(k).reshape(-1, self.size) @ basis
        with np.errstate(over="ignore"):
            return np.asarray(sums.reshape(-1) * (lattice.step / 256 / ONE))

    def fixed(self) -> F64:
        """The basis times 2^14 of a kind that is not sent."""
        if self.circuit is not None:
            return np.asarray(np.rint(self.circuit.matrix() * ONE))
        return fixed_basis(self.kind, self.size)

    def _basis(self, data: memoryview) -> tuple[F64, memoryview]:
        if self.kind != "sent":
            return self.fixed(), data
        if len(data) < 4:
            raise QctFormatError("has no basis", field="chunk")
        (length,) = struct.unpack_from("<I", data)
        raw = unzstd(data[4 : 4 + length], 2 * self.size**2)
        if len(raw) != 2 * self.size**2:
            raise QctFormatError("has a basis of another size", field="chunk")
        basis = np.frombuffer(raw, "<i2").reshape(self.size, self.size)
        return basis.astype(np.float64), data[4 + length :]


def pack_basis(basis: F64) -> bytes:
    """A basis times 2^14 to the bytes that a chunk begins with."""
    import zstandard

    raw = np.clip(basis, -32768, 32767).astype("<i2").tobytes()
    packed = zstandard.ZstdCompressor(level=9, write_content_size=False).compress(raw)
    return struct.pack("<I", len(packed)) + packed


def read_transform(name: str, parameters: Mapping[str, Any]) -> Transform:
    """From the header. Raises QctUnsupportedError or QctFormatError."""
    if name != "rotate" or parameters.get("kind") not in KINDS:
        raise QctUnsupportedError(f"no operation {name} {parameters.get('kind')}", field="ops")
    size = parameters.get("size")
    if size not in SIZES or type(size) is not int:
        raise QctFormatError(f"wants one of {SIZES}, got {size!r}", field="size")
    if parameters["kind"] != "circuit":
        return Transform(parameters["kind"], size)
    circuit = CircuitBasis.read(parameters.get("turns"))
    if 2 ** len(circuit.turns[0]) != size:
        raise QctFormatError(f"{len(circuit.turns[0])} qubits are no block of {size}", field="size")
    return Transform("circuit", size, circuit)
