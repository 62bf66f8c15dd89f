"""A shallow residual convolution on decoded values, in integers (compare ARCNN, Dong and others,
2015): five taps to four channels, one tap to four, three taps to one, added to the input.

Values are integers of 256 to a step, weights integers of 1024 to one. Sums stay below 2^53, so
double precision is exact and every machine denoises alike. The correction is at most half a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType
from qcluster.codec.errors import QctFormatError
from qcluster.codec.floats import to_float_bits
from qcluster.codec.plane import decode_plane
from qcluster.codec.quantised import Trellis, read_lattice, split_chunk

__all__ = ["CHANNELS", "WEIGHTS", "Denoiser"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

CHANNELS = 4
# First layer 4 x 5, second 4 x 4, third 4 x 3.
WEIGHTS = 5 * CHANNELS + CHANNELS**2 + 3 * CHANNELS
UNIT = 1024.0
LARGEST = 1 << 15
CLIP = float(1 << 22)


@dataclass(frozen=True)
class Denoiser:
    """The network; ``weights`` (48,) in 1/1024."""

    weights: tuple[int, ...]

    def fixed(self) -> None:
        """No basis: the values are coded as they are."""

    def parameters(self) -> dict[str, Any]:
        """As the header has them."""
        return {"weights": list(self.weights)}

    @classmethod
    def read(cls, parameters: Mapping[str, Any]) -> Denoiser:
        """From the header. Raises QctFormatError."""
        found = parameters.get("weights")
        if not isinstance(found, list) or len(found) != WEIGHTS or not all(
            type(w) is int and abs(w) <= LARGEST for w in found
        ):  # fmt: skip
            raise QctFormatError(f"wants {WEIGHTS} whole numbers", field="weights")
        return cls(tuple(found))

    def correct(self, x: F64) -> F64:
        """Integers (n,) of 256 to a step, corrected by at most 128."""
        w = np.array(self.weights, dtype=np.float64)
        first = w[: 5 * CHANNELS].reshape(CHANNELS, 5)
        second = w[5 * CHANNELS : -3 * CHANNELS].reshape(CHANNELS, CHANNELS)
        third = w[-3 * CHANNELS :].reshape(CHANNELS, 3)
        hidden = np.maximum(np.floor(first @ _taps(np.clip(x, -CLIP, CLIP), 5) / UNIT), 0)
        hidden = np.minimum(np.maximum(np.floor(second @ hidden / UNIT), 0), CLIP)
        out = sum(third[c] @ _taps(hidden[c], 3) for c in range(CHANNELS))
        return np.asarray(x + np.clip(np.floor(out / UNIT), -128, 128))

    def inverse(self, k: NDArray[np.int64], lattice: Trellis, _: F64 | None = None) -> F64:
        """Values (n,) of integers k (n,)."""
        unit = Trellis(256.0, lattice.states, lattice.shift)
        with np.errstate(over="ignore"):
            return self.correct(unit.values(k)) * (lattice.step / 256)

    def decode(
        self, name: str, parameters: Mapping[str, Any], data: memoryview, dtype: DType, out: Bits
    ) -> None:
        """Fill ``out`` (elements,) with the chunk's bits. Raises QctFormatError."""
        lattice = read_lattice(name, parameters)
        if not isinstance(lattice, Trellis) or not dtype.is_float:
            raise QctFormatError("cannot be denoised", field="ops")
        plane, places, bits = split_chunk(data, out.size, out.dtype.itemsize)
        k, layout = decode_plane(plane, out.size)
        if layout.kind != lattice.kind or layout.states != lattice.states:
            raise QctFormatError("is a plane of another kind", field="chunk")
        out[:] = to_float_bits(self.inverse(k, lattice), dtype)
        out[places] = bits


def _taps(x: F64, count: int) -> F64:
    """Neighbours (count, n) of values (n,), zeros beyond the ends."""
    half = count // 2
    padded = np.pad(x, half)
    return np.stack([padded[i : i + x.size] for i in range(count)])
