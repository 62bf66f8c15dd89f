"""What a coarse version of a tensor leaves, so that any path may serve a mode with a promise.

The chain is the coarse version's (a trellis, alone or with a transform or a denoiser) and then
``residual``. A chunk is the length of the coarse chunk (uint32), that chunk, and the rest: as
``lossless`` a delta against the coarse bits, as ``uniform`` or ``log`` a quantised chunk of what
the integers nearest to the coarse values leave of the tensor's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from qcluster.codec.delta import decode_delta
from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctFormatError
from qcluster.codec.floats import to_values
from qcluster.codec.quantised import decode_quantised

__all__ = ["KINDS", "Residual", "join_residual"]

Bits = NDArray[Any]
Decode = Callable[[memoryview, Bits], None]

KINDS = ("lossless", "uniform", "log")
_LENGTH = struct.Struct("<I")


def join_residual(coarse: bytes, rest: bytes) -> bytes:
    """A chunk's bytes."""
    return _LENGTH.pack(len(coarse)) + coarse + rest


@dataclass(frozen=True)
class Residual:
    """``kind`` one of ``KINDS``; ``parameters`` of its lattice."""

    kind: str
    parameters: Mapping[str, Any]

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Residual:
        """From the header. Raises QctFormatError."""
        kind = parameters.get("as")
        if kind not in KINDS:
            raise QctFormatError(f"wants one of {', '.join(KINDS)}, got {kind!r}", field="residual")
        return cls(kind, parameters)

    def decode(self, coarse: Decode, data: memoryview, dtype: DType, out: Bits) -> None:
        """Fill ``out`` (elements,) with the chunk's bits, ``coarse`` being what decodes the coarse
        chunk. Raises QctFormatError and QctCorruptError.
        """
        if len(data) < _LENGTH.size:
            raise QctFormatError("is shorter than its head", field="chunk")
        (length,) = _LENGTH.unpack_from(data)
        if length > len(data) - _LENGTH.size:
            raise QctFormatError("ends within its coarse part", field="chunk")
        rest = data[_LENGTH.size + length :]
        coarse(data[_LENGTH.size : _LENGTH.size + length], out)
        if self.kind == "lossless":
            decode_delta(rest, dtype, out.copy(), out)
            return
        decode_quantised(self.kind, self.parameters, rest, dtype, out, to_values(out, dtype))
