"""``kind: enhancer`` of ``qcluster train``: pairs of tensors to an LSTM for the decompressor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qcluster.codec.dtypes import to_bits
from qcluster.codec.files import read_tensors
from qcluster.codec.floats import to_values
from qcluster.config import Config
from qcluster.errors import InputError
from qcluster.q_decompressor.enhancer import Enhancer

__all__ = ["train_enhancer"]

F64 = NDArray[np.float64]
LEAST = 1024


class EnhancerConfig(Config):
    """The file of ``kind: enhancer``."""

    data: str | list[str]
    """Files of tensors: .npy, .npz, .safetensors, .pt, .bin or a DCP directory."""
    rel_l2: float = Field(default=0.1, gt=0, lt=1)
    """Error relative to the norm that rounding to steps makes, as the compressor would."""
    columns: int = Field(default=48, gt=1)
    """Length of the rows that it learns on."""
    rows: int = Field(default=64, gt=0)
    """Rows that are taken of a tensor."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of a tensor's rows that is measured on."""
    hidden: int = Field(default=8, gt=0, le=64)
    epochs: int = Field(default=40, gt=0)
    seed: int = Field(default=0, ge=0)


def train_enhancer(
    config: Mapping[str, Any], *, out: Path, resume: bool = False, note: Callable[[str], None]
) -> dict[str, Any]:
    """An enhancer for ``decompress(..., config={"lstm": True}, model=Enhancer.load(...))``.

    Returns ``model``, its file, and mean square errors on what was held out, in squared steps.
    Raises InputError and FormatError naming what is wrong.
    """
    if resume:
        note("this kind is trained in one go: there is nothing to resume, it starts afresh")
    settings = EnhancerConfig.read(config)
    learnt, measured = [], []
    for decoded, original in _pairs(settings):
        cut = max(1, round(len(decoded) * (1 - settings.held_out)))
        learnt.append((decoded[:cut], original[:cut]))
        measured.append((decoded[cut:], original[cut:]))
    if not learnt:
        raise InputError(f"holds no tensor of {LEAST} or more finite numbers", field="data")
    model = Enhancer.fit(learnt, hidden=settings.hidden, epochs=settings.epochs,
                         seed=settings.seed)  # fmt: skip
    before, after = [], []
    for decoded, original in measured:
        change = np.clip(model.correction(np.clip(decoded, -64, 64)), -0.5, 0.5)
        before.append(np.square(original - decoded).ravel())
        after.append(np.square(original - decoded - change).ravel())
    out.mkdir(parents=True, exist_ok=True)
    path = out / "enhancer.safetensors"
    model.save(path)
    errors = [float(np.concatenate(side).mean()) for side in (before, after)]
    return {"model": str(path), "tensors": len(learnt), "error_before": errors[0],
            "error_after": errors[1]}  # fmt: skip


def _pairs(settings: EnhancerConfig) -> list[tuple[F64, F64]]:
    """``(decoded, original)`` rows in steps: a step's mean square error is a twelfth of it."""
    files = [settings.data] if isinstance(settings.data, str) else settings.data
    found = []
    for file in files:
        for _, tensor in read_tensors(file):
            dtype, shape, bits, _ = to_bits(tensor)
            width = min(settings.columns, shape[-1] if shape else 1)
            if not dtype.is_float or dtype.parts != 1 or bits.size < LEAST or width < 2:
                continue
            every = to_values(bits, dtype).reshape(-1, shape[-1])
            rows = every[: settings.rows, :width]
            scale = float(np.sqrt(np.square(every).mean()))
            if len(rows) < 2 or not np.isfinite(scale) or scale == 0:
                continue
            step = scale * settings.rel_l2 * np.sqrt(12)
            found.append((np.rint(rows / step), rows / step))
    return found
