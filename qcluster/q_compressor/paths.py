"""The ways to reach a mean-square target, and the choice between them by bytes on disk."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.denoise import Denoiser
from qcluster.codec.dtypes import DType
from qcluster.codec.floats import to_values
from qcluster.codec.transforms import ONE, Transform, fixed_basis
from qcluster.q_compressor.autoencoder import Autoencoder, fit_autoencoder, kept_energy
from qcluster.q_compressor.config import CompressorConfig
from qcluster.q_compressor.denoiser import fit_denoiser
from qcluster.q_compressor.dropout import measure_channels
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

    def tried(
        transform: Transform | Denoiser | None = None,
        basis: F64 | None = None,
        source: Bits = bits,
        keep: F64 | None = None,
    ) -> Coded | None:
        return encode_trellis(
            source, dtype, columns, chunk, target, states=config.states,
            effort=config.effort, transform=transform, basis=basis, original=bits, keep=keep,
        )  # fmt: skip

    found: dict[str, Coded | None] = {}
    compared: dict[str, Coded | None] = {}
    if config.transform in ("auto", "none"):
        found["none"] = tried()
    for name, (transform, basis) in _candidates(bits, dtype, columns, mode, value, config).items():
        found[name] = tried(transform, basis)
    report: dict[str, Any] = {}
    if config.vqc:
        known = model if isinstance(model, Autoencoder) else None
        circuit, keep, report["vqc"] = _autoencoder(bits, dtype, columns, config, known)
        if circuit is not None:
            found["vqc"] = tried(circuit, keep=keep)
            beside = _principal(bits, dtype, columns, circuit.size)
            name = f"klt{circuit.size}"
            if name not in found:
                # For the report: what the proven optimum of the same blocks takes.
                compared[name] = tried(*beside)
    if config.dropout:
        pruned, report["dropout"] = _pruned(bits, dtype, columns, mode, value, config)
        if pruned is not None:
            found["dropout"] = tried(source=pruned)
    plain = found.get("none")
    if config.denoiser and plain is not None and bits.size >= 64:
        known_one = model if isinstance(model, Denoiser) else None
        found["denoiser"] = tried(known_one or _denoiser(bits, plain, dtype, config))
    usable = {name: coded for name, coded in found.items() if coded is not None}
    if not usable:
        return None
    if report or config.denoiser:
        # What every path took, so that a toggle that lost is seen to have lost.
        report["bytes"] = {
            name: _cost(coded) for name, coded in (found | compared).items() if coded is not None
        }
    best = min(usable, key=lambda name: _cost(usable[name]))
    return usable[best], report | ({"taken": best} if "bytes" in report else {})


def _cost(coded: Coded) -> int:
    return coded.size + len(json.dumps(coded.ops))


def _values(bits: Bits, dtype: DType) -> F64:
    x = to_values(bits, dtype)
    return np.where(np.isfinite(x), x, 0.0)


def _autoencoder(
    bits: Bits, dtype: DType, columns: int, config: CompressorConfig, model: Any
) -> tuple[Transform | None, F64 | None, dict[str, Any]]:
    """The circuit as a transform, the latents above the variance threshold where some are below,
    and how near the latents come to principal components'.
    """
    size = 2**config.qubits if model is None else 2**model.qubits
    if columns % size:
        return None, None, {"left out": f"rows of {columns} hold no whole blocks of {size}"}
    blocks = _values(bits[: SAMPLE // columns * columns or columns], dtype).reshape(-1, size)
    keep = max(1, size // 4)
    fitted = model or fit_autoencoder(
        blocks, keep=keep, layers=config.layers, steps=config.steps, seed=config.seed, starts=2,
        gradient=config.gradient,
    )  # fmt: skip
    ours, best = kept_energy(fitted, blocks, keep)
    basis = fitted.basis()
    share = np.square(blocks @ basis.matrix().T).sum(axis=0)
    kept = share >= config.variance_threshold * share.sum()
    transform = Transform("circuit", size, basis)
    return (
        transform,
        None if kept.all() else kept.astype(np.float64),
        {
            "energy": round(ours, 6),
            "principal components": round(best, 6),
            "retained": "".join("1" if k else "0" for k in kept),
        },
    )


def _principal(bits: Bits, dtype: DType, columns: int, size: int) -> tuple[Transform, F64]:
    """Principal components of blocks, sent: what an autoencoder of them can come near to."""
    blocks = _values(bits[: SAMPLE // columns * columns or columns], dtype).reshape(-1, size)
    return Transform("sent", size), karhunen_loeve(blocks)


def _denoiser(bits: Bits, plain: Coded, dtype: DType, config: CompressorConfig) -> Denoiser:
    """Fitted on what the plain path made of the first values."""
    step = float(plain.ops[0][1]["step"])
    x, y = (_values(b[: 4 * 4096], dtype) / step for b in (bits, plain.decoded))
    return fit_denoiser(y, x, seed=config.seed)


def _pruned(
    bits: Bits, dtype: DType, columns: int, mode: str, value: float, config: CompressorConfig
) -> tuple[Bits | None, dict[str, Any]]:
    """The tensor without the columns that a Monte Carlo study finds dispensable."""
    x = _values(bits, dtype).reshape(-1, columns)
    budget = 0.02 * _noise(x, mode, value) * columns
    study = measure_channels(x, trials=config.trials, seed=config.seed)
    order = np.argsort(study.sensitivity)
    dropped = order[np.cumsum(np.maximum(study.sensitivity[order], 0)) <= budget]
    report = {
        "trials": study.trials,
        "columns": columns,
        "dropped": int(dropped.size),
        "kept": np.packbits(~np.isin(np.arange(columns), dropped)).tobytes().hex(),
    }
    if not dropped.size:
        return None, report
    pruned = bits.reshape(-1, columns).copy()
    pruned[:, dropped] = 0
    return pruned.reshape(-1), report


def _candidates(
    bits: Bits, dtype: DType, columns: int, mode: str, value: float, config: CompressorConfig
) -> dict[str, tuple[Transform, F64 | None]]:
    """Transforms that promise a gain, with their bases where these have to be sent."""
    if config.transform == "none":
        return {}
    sizes = [s for s in (16, 64, 256) if columns % s == 0]
    if not sizes:
        return {}
    x = _values(bits[: SAMPLE // columns * columns or columns], dtype)
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
    # Divided first, as the product of two powers may overflow.
    both = power.mean(axis=1, keepdims=True) / whole * power.mean(axis=0, keepdims=True)
    return float(np.maximum(0.5 * np.log2(np.maximum(both / noise, 1.0)), 0).mean())
