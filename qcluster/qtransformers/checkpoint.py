"""Checkpoints that a run goes on from bit for bit, and that a kill at any moment cannot spoil.

A checkpoint is a directory ``step-<n>``: ``model.safetensors``, ``optimizer.safetensors``,
``average.safetensors`` where weights are averaged, ``gradients.safetensors`` where gradients are
coded between workers, and ``state.json``. It is written under another
name, flushed to disk and renamed, so a directory of that name is whole. Nothing is pickled.

No random state is stored: every step seeds its draws from run, step and worker.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from qcluster.errors import FormatError

__all__ = [
    "Checkpoint",
    "full",
    "latest",
    "like",
    "optimizer_tensors",
    "read",
    "restore_model",
    "restore_optimizer",
    "write",
]

NAME = re.compile(r"step-(\d{8})")
FILES = ("model", "optimizer", "average", "gradients")


class Checkpoint:
    """What is stored: tensors by part and name, and ``state``, plain JSON."""

    def __init__(self, state: Mapping[str, Any], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.state, self.parts = dict(state), {k: dict(v) for k, v in parts.items()}


def write(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Store a checkpoint below ``directory``; older ones beyond ``keep`` are removed.

    Returns the directory ``step-<n>`` with n from ``state["step"]``.
    """
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"step-{checkpoint.state['step']:08d}"
    partial = directory / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for part, tensors in checkpoint.parts.items():
        whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        save_file(whole, partial / f"{part}.safetensors")
    (partial / "state.json").write_text(json.dumps(checkpoint.state))
    for path in partial.iterdir():
        _flush(path)
    _flush(partial)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _flush(directory)
    for old in _found(directory)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(directory: Path) -> Path | None:
    """The newest whole checkpoint below ``directory``, or None."""
    found = _found(directory)
    return found[-1] if found else None


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path`` (``step-<n>``, or a directory of such: its newest).

    Raises FormatError naming the file that is absent or broken.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (path / "state.json").exists():
        newest = latest(path)
        if newest is None:
            raise FormatError("holds no checkpoint", file=path)
        path = newest
    parts: dict[str, Mapping[str, Tensor]] = {}
    file = path / "state.json"
    try:
        state = json.loads(file.read_text())
        for part in FILES:
            file = path / f"{part}.safetensors"
            if file.exists():
                parts[part] = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"cannot be read: {error}", file=file) from None
    if not isinstance(state, dict) or not {"step", "samples"} <= set(state):
        raise FormatError("is not the state of a training run", file=path / "state.json")
    return Checkpoint(state, parts)


def _found(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if NAME.fullmatch(p.name) and p.is_dir())


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def full(value: Tensor) -> Tensor:
    """The whole of a sharded tensor; a collective call where it is one."""
    whole = getattr(value, "full_tensor", None)
    return value.detach() if whole is None else cast(Tensor, whole().detach())


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by the name of their weight, e.g. ``token.weight/exp_avg``."""
    return {
        f"{name}/{key}": full(value)
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` gave; sharded weights get their shard."""
    weights = dict(model.named_parameters())
    for place, value in stored.items():
        name, _, key = place.rpartition("/")
        if name in weights:
            optimizer.state[weights[name]][key] = like(weights[name], value)


def restore_model(model: nn.Module, stored: Mapping[str, Tensor], file: Path) -> None:
    """Copy stored weights and buffers into the model, in place.

    Raises FormatError naming the weight that is missing or of another shape.
    """
    for name, live in model.state_dict().items():
        if name not in stored:
            raise FormatError("the weight is missing", file=file, field=name)
        if live.shape != stored[name].shape:
            came, want = tuple(stored[name].shape), tuple(live.shape)
            raise FormatError(f"shape {came} where {want} is wanted", file=file, field=name)
        live.copy_(like(live, stored[name]))


def like(weight: Tensor, value: Tensor) -> Tensor:
    """A stored tensor on the device of ``weight``, sharded as it is."""
    if value.shape != weight.shape:
        return value.to(weight.device)
    if hasattr(weight, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        sharded = cast(DTensor, weight)
        value = value.to(sharded.to_local().device)
        return distribute_tensor(value, sharded.device_mesh, sharded.placements)
    return value.to(weight.device)
