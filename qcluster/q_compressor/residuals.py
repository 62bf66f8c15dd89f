"""Paths that make errors under modes that forbid them: a coarse version, and what it leaves.

Coding in two stages takes what coding in one takes, or more (Equitz and Cover, 1991: equal only
where the coarse version asks nothing that the fine one does not). It can pay where the coarse path
knows something that the direct one does not, such as a transform; so it is measured, and taken
where it is shorter.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.delta import encode_delta
from qcluster.codec.dtypes import DType
from qcluster.codec.floats import to_values
from qcluster.codec.residual import join_residual
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.lattices import Coded, encode_max_abs, encode_point_rel
from qcluster.q_compressor.paths import encode_lossy

__all__ = ["with_residual"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

# Errors of the coarse version that are tried, in bounds; and without a bound, of the tensor.
COARSE = (1.0, 4.0)
COARSE_LOSSLESS = (0.02, 0.1)
LEAST = 64
SMALLEST = 1e-100


def _asked(config: CompressorConfig, dtype: DType, elements: int) -> bool:
    """Whether a toggle, or a transform that is named, asks for paths that make errors."""
    toggled = config.vqc or config.denoiser or config.dropout
    named = config.transform not in ("auto", "none")
    return (toggled or named) and dtype.is_float and elements >= LEAST


def with_residual(
    plain: Coded, bits: Bits, dtype: DType, columns: int, chunk: int, mode: str, value: float,
    config: CompressorConfig, model: Any,
) -> tuple[Coded, dict[str, Any]]:  # fmt: skip
    """The shorter of ``plain`` and a coarse version with its residual, and what each took; only
    ``plain`` where the configuration asks for no path.
    """
    if not _asked(config, dtype, bits.size):
        return plain, {}
    values = to_values(bits, dtype)
    finite = np.isfinite(values)
    clean = np.where(finite, bits, np.zeros((), bits.dtype))
    largest = float(np.abs(values[finite]).max()) if finite.any() else 0.0
    # Beyond these, squares and sums of a transform leave double precision.
    if not SMALLEST < largest < 1 / SMALLEST:
        return plain, {}
    rms = float(np.sqrt(np.mean(np.square(np.where(finite, values, 0.0)))))
    best, report = plain, {}
    taken: dict[str, Any] = {"bytes": _cost(plain), "taken": False}
    for target in _targets(mode, value, rms):
        found = encode_lossy(clean, dtype, columns, chunk, "rel_l2", target, 0, config, model)
        if found is None:
            continue
        coarse, said = found
        whole = _joined(coarse, bits, dtype, columns, chunk, mode, value, config.effort)
        size = _cost(whole)
        if size < taken.get("with residual", size + 1):
            taken["with residual"] = size
            report = said | {"residual": taken}
        if size < _cost(best):
            best, taken["taken"] = whole, True
    return best, report


def _targets(mode: str, value: float, rms: float) -> list[float]:
    if mode == "lossless":
        return list(COARSE_LOSSLESS)
    scale = value if mode == "point_rel" else value / rms
    return [scale * c for c in COARSE if 1e-6 < scale * c < 0.7]


def _joined(
    coarse: Coded, bits: Bits, dtype: DType, columns: int, chunk: int, mode: str, value: float,
    effort: str,
) -> Coded:  # fmt: skip
    """The coarse chain and what it leaves under the mode's promise."""
    more: dict[str, Any]
    if mode == "lossless":
        parts = range(0, bits.size, chunk)
        rest = [encode_delta(bits[i : i + chunk], coarse.decoded[i : i + chunk], dtype, columns)
                for i in parts]  # fmt: skip
        more, decoded = {"as": "lossless"}, bits
    else:
        known = to_values(coarse.decoded, dtype)
        encode: Callable[..., Coded] = encode_max_abs if mode == "max_abs" else encode_point_rel
        fine = encode(bits, dtype, columns, chunk, value, effort, coarse=known)
        [(name, parameters)] = fine.ops
        more, decoded = {"as": name, **parameters}, fine.decoded
        rest = list(fine.chunks)
    chunks = [join_residual(a, b) for a, b in zip(coarse.chunks, rest, strict=True)]
    return Coded((*coarse.ops, ("residual", more)), chunks, decoded)


def _cost(coded: Coded) -> int:
    return coded.size + len(json.dumps(coded.ops))
