"""The ways to reach a mean-square target, and the choice between them by bytes on disk."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType
from qcluster.codec.floats import to_values
from qcluster.codec.transforms import ONE, Transform, fixed_basis
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.lattices import Coded
from qcluster.q_compressor.trellis import Target, encode_trellis

__all__ = ["encode_lossy", "karhunen_loeve"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

# Elements that gains of transforms are estimated on.
SAMPLE = 1 << 17
FIXED = ("dct", "hadamard", "fourier")


def encode_lossy(
    bits: Bits, dtype: DType, columns: int, chunk: int, mode: str, value: float, overhead: int,
    config: CompressorConfig, model: Any,
) -> tuple[Coded, dict[str, Any]] | None:  # fmt: skip
    """The shortest of the paths that the configuration offers, and what each of them took."""
    target = Target(mode, value, overhead)

    def tried(transform: Transform | None, basis: F64 | None = None) -> Coded | None:
        return encode_trellis(
            bits, dtype, columns, chunk, target, states=config.states,
            dense=config.effort == "dense", transform=transform, basis=basis,
        )  # fmt: skip

    found: dict[str, Coded | None] = {}
    candidates = _candidates(bits, dtype, columns, mode, value, config)
    if config.transform in ("auto", "none"):
        found["none"] = tried(None)
    for name, (transform, basis) in candidates.items():
        found[name] = tried(transform, basis)
    usable = {name: coded for name, coded in found.items() if coded is not None}
    if not usable:
        return None
    return min(usable.values(), key=lambda c: c.size + len(json.dumps(c.ops))), {}


def _candidates(
    bits: Bits, dtype: DType, columns: int, mode: str, value: float, config: CompressorConfig
) -> dict[str, tuple[Transform, F64 | None]]:
    """Transforms that promise a gain, with their bases where these have to be sent."""
    if config.transform == "none":
        return {}
    sizes = [s for s in (16, 64, 256) if columns % s == 0]
    if not sizes:
        return {}
    x = to_values(bits[: SAMPLE // columns * columns or columns], dtype)
    x = np.where(np.isfinite(x), x, 0.0)
    noise = _noise(x, mode, value)
    plain = _rate(x.reshape(-1, sizes[0]), noise)
    out: dict[str, tuple[Transform, F64 | None]] = {}
    wanted = FIXED if config.transform == "auto" else (config.transform,)
    for kind in wanted:
        if kind == "klt":
            continue
        size = sizes[-1] if kind != "hadamard" else sizes[min(1, len(sizes) - 1)]
        rotated = x.reshape(-1, size) @ fixed_basis(kind, size).T / ONE
        if config.transform == kind or _rate(rotated, noise) < plain - 0.02:
            out[kind] = (Transform(kind, size), None)
    if config.transform in ("auto", "klt"):
        for size in sizes:
            basis = karhunen_loeve(x.reshape(-1, size))
            gain = plain - _rate(x.reshape(-1, size) @ basis.T / ONE, noise)
            cost = 14 * size**2 / bits.size
            if config.transform == "klt" or gain > cost + 0.02:
                out[f"klt{size}"] = (Transform("sent", size), basis)
    return out


def karhunen_loeve(blocks: F64) -> F64:
    """The basis (size, size) of principal axes of blocks (n, size), times 2^14."""
    _, vectors = np.linalg.eigh(blocks.T @ blocks)
    return np.asarray(np.rint(vectors.T[::-1] * ONE))


def _noise(x: F64, mode: str, value: float) -> float:
    power = float(np.mean(np.square(x))) or 1e-300
    return power * (value**2 if mode == "rel_l2" else 4.0**-value)


def _rate(blocks: F64, noise: float) -> float:
    """Bits an element by reverse water-filling on rows' and columns' variances."""
    power = np.square(blocks)
    whole = float(power.mean()) or 1e-300
    both = power.mean(axis=1, keepdims=True) * power.mean(axis=0, keepdims=True) / whole
    return float(np.maximum(0.5 * np.log2(np.maximum(both / noise, 1.0)), 0).mean())
