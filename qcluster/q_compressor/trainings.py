"""``kind: denoiser``, ``vqc`` and ``enhancer`` of ``qcluster train``: tensor files to what the
compressor and the decompressor can use instead of their defaults.

The denoiser and the enhancer learn what quantisation took from tensors coded at ``rel_l2``; the
autoencoder learns the tensors' blocks. The end of every tensor is kept apart to measure on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qcluster.codec.chain import decode_entry
from qcluster.codec.container import build, parse
from qcluster.codec.denoise import Denoiser
from qcluster.codec.dtypes import to_bits
from qcluster.codec.files import read_tensors, write_atomically
from qcluster.codec.floats import to_values
from qcluster.config import Config
from qcluster.errors import FormatError, InputError
from qcluster.q_compressor.autoencoder import Autoencoder, fit_autoencoder, kept_energy
from qcluster.q_compressor.compress import code_tensor, columns_of
from qcluster.q_compressor.denoiser import fit_denoiser

__all__ = ["load_model", "pairs", "save_model", "train_denoiser", "train_vqc"]

F64 = NDArray[np.float64]
Note = Callable[[str], None]
# A tensor must have so many elements to be learnt from.
LEAST = 1024


class PairsConfig(Config):
    """What all kinds take."""

    data: str | list[str]
    """Files of tensors: .npy, .npz, .safetensors, .pt, .bin or a DCP directory."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share at the end of each tensor that is measured on."""
    limit: int = Field(default=65_536, ge=LEAST)
    """Elements of a tensor that are taken."""
    seed: int = Field(default=0, ge=0)


class DenoiserConfig(PairsConfig):
    """The file of ``kind: denoiser``."""

    rel_l2: float = Field(default=0.1, gt=0, lt=1)
    """The error that tensors are coded with."""
    steps: int = Field(default=300, gt=0)
    """Training steps."""


class AutoencoderConfig(PairsConfig):
    """The file of ``kind: vqc``."""

    qubits: int = Field(default=4, ge=1, le=8)
    """Blocks have 2^qubits elements."""
    keep: int | None = Field(default=None, gt=0)
    """Latents that keep as much energy as possible; None is a quarter of the block."""
    layers: int = Field(default=12, ge=1, le=32)
    steps: int = Field(default=150, gt=0)


def train_denoiser(
    config: Mapping[str, Any], *, out: Path, resume: bool = False, note: Note
) -> dict[str, Any]:
    """A denoiser for ``compress(..., config={"denoiser": True}, model=...)``.

    Returns ``model``, its file, and mean square errors on what was held out, in squared steps.
    Raises InputError and FormatError naming what is wrong.
    """
    settings = _read(DenoiserConfig, config, resume, note)
    learnt, measured = [], []
    for decoded, original in pairs(settings, settings.rel_l2):
        cut = round(len(decoded) * (1 - settings.held_out)) * decoded.shape[1]
        learnt.append((decoded.ravel()[:cut], original.ravel()[:cut]))
        measured.append((decoded.ravel()[cut:], original.ravel()[cut:]))
    model = fit_denoiser(
        *(np.concatenate(side) for side in zip(*learnt, strict=True)),
        steps=settings.steps, seed=settings.seed,
    )  # fmt: skip
    before = _mean(((o - d) ** 2 for d, o in measured))
    after = _mean(((o - model.correct(np.rint(256 * d)) / 256) ** 2 for d, o in measured))
    path = save_model(model, out / "denoiser.json")
    return {"model": str(path), "tensors": len(learnt), "error_before": before,
            "error_after": after}  # fmt: skip


def train_vqc(
    config: Mapping[str, Any], *, out: Path, resume: bool = False, note: Note
) -> dict[str, Any]:
    """An autoencoder for ``compress(..., config={"vqc": True}, model=...)``.

    Returns ``model``, its file, and the shares of energy kept on what was held out: its own and
    that of the learnt tensors' principal components.
    """
    settings = _read(AutoencoderConfig, config, resume, note)
    size = 2**settings.qubits
    keep = settings.keep or max(1, size // 4)
    learnt, measured = [], []
    for _, rows in _matrices(settings):
        blocks = rows[:, : rows.shape[1] // size * size].reshape(-1, size)
        cut = round(len(blocks) * (1 - settings.held_out))
        learnt.append(blocks[:cut])
        measured.append(blocks[cut:])
    blocks, rest = np.concatenate(learnt), np.concatenate(measured)
    if not len(blocks) or not len(rest):
        raise InputError(f"no rows of {size} elements or more", field="data")
    model = fit_autoencoder(blocks, keep=keep, layers=settings.layers, steps=settings.steps,
                            seed=settings.seed)  # fmt: skip
    ours, best = kept_energy(model, rest, keep)
    path = save_model(model, out / "vqc.json")
    return {"model": str(path), "tensors": len(learnt), "keep": keep, "energy": ours,
            "principal_components": best}  # fmt: skip


def save_model(model: Denoiser | Autoencoder, path: Path) -> Path:
    """Write a denoiser or an autoencoder as JSON; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(model, Denoiser):
        told: dict[str, Any] = {"kind": "denoiser", **model.parameters()}
    else:
        told = {"kind": "vqc", "angles": model.angles.tolist(), "keep": model.keep}
    text = json.dumps(told) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def load_model(path: str | Path) -> Denoiser | Autoencoder:
    """What ``save_model`` wrote. Raises FormatError naming the file."""
    try:
        told = json.loads(Path(path).read_text())
        kind = told.pop("kind")
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        raise FormatError("is no model of the compressor", file=path) from None
    if kind == "denoiser":
        try:
            return Denoiser.read(told)
        except FormatError as error:
            raise error.at(file=path) from None
    try:
        angles = np.array(told["angles"], dtype=np.float64)
        keep = int(told["keep"])
    except (KeyError, TypeError, ValueError):
        raise FormatError("is no model of the compressor", file=path) from None
    if kind != "vqc" or angles.ndim != 2 or not angles.size or not np.isfinite(angles).all():
        raise FormatError("wants a denoiser, or angles (layers, qubits)", file=path)
    return Autoencoder(angles, keep)


def pairs(settings: PairsConfig, rel_l2: float) -> Iterator[tuple[F64, F64]]:
    """``(decoded, original)`` (rows, columns) of each tensor, in steps of its quantiser."""
    for tensor, rows in _matrices(settings):
        piece = code_tensor("", tensor, mode="rel_l2", value=rel_l2,
                            config={"transform": "none"})  # fmt: skip
        step = piece.entry.ops[0][1].get("step")
        if step is None:
            continue  # Coded without loss: there is nothing to learn.
        [entry], payload = parse(build([(piece.entry, piece.whole, piece.chunks)]))
        decoded = to_values(decode_entry(entry, payload), entry.dtype).reshape(rows.shape)
        yield decoded / step, rows / step


def _matrices(settings: PairsConfig) -> Iterator[tuple[Any, F64]]:
    """Tensors of enough finite floating-point numbers, and their values as rows."""
    files = [settings.data] if isinstance(settings.data, str) else settings.data
    found = 0
    for file in files:
        for _, tensor in read_tensors(file):
            dtype, shape, bits, _ = to_bits(tensor)
            if not dtype.is_float or dtype.parts != 1 or bits.size < LEAST:
                continue
            columns = columns_of(shape, dtype)
            taken = min(bits.size, settings.limit) // columns * columns
            rows = to_values(bits[:taken], dtype).reshape(-1, columns)
            if not taken or not np.isfinite(rows).all() or not rows.any():
                continue
            found += 1
            yield rows.astype(np.float32), rows
    if not found:
        raise InputError(f"holds no tensor of {LEAST} or more finite numbers", field="data")


def _read(kind: type[Any], config: Mapping[str, Any], resume: bool, note: Note) -> Any:
    if resume:
        note("this kind is trained in one go: there is nothing to resume, it starts afresh")
    return kind.read(config)


def _mean(parts: Iterator[F64]) -> float:
    every = np.concatenate([part.ravel() for part in parts])
    return float(every.mean()) if every.size else float("nan")
