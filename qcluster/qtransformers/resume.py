"""What of a run goes into a checkpoint, and how a run goes on from one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qcluster.errors import InputError
from qcluster.qtransformers import checkpoint as store

if TYPE_CHECKING:
    from qcluster.qtransformers.loop import TrainingLoop

__all__ = ["put_back", "snapshot"]


def snapshot(loop: TrainingLoop) -> store.Checkpoint:
    """Everything that the steps to come depend on; every worker calls it, as shards are joined."""
    parts = {
        "model": {name: store.full(v) for name, v in loop.model.state_dict().items()},
        "optimizer": store.optimizer_tensors(loop.model, loop.optimizer),
    }
    parts["optimizer"]["losses"] = torch.tensor(loop.losses, dtype=torch.float64)
    if loop.average is not None:
        parts["average"] = {n: store.full(v) for n, v in loop.average.shadow.items()}
    state = _state(loop)
    if loop.coder is not None:
        parts["gradients"], state["gradients"] = loop.coder.snapshot(loop.workers.everybody)
    return store.Checkpoint(state, parts)


def _state(loop: TrainingLoop) -> dict[str, Any]:
    return {
        "step": loop.step, "samples": loop.samples, "workers": loop.workers.world,
        "evaluations": loop.evaluations, "memory": loop.memory,
        "averaged": 0 if loop.average is None else loop.average.updates,
        "scaler": None if loop.scaler is None else loop.scaler.state_dict(),
        "config": loop.config.model_dump(mode="json"),
    }  # fmt: skip


def put_back(loop: TrainingLoop, path: Path) -> int:
    """Set a loop to where the checkpoint at ``path`` was stored; returns its step.

    Raises InputError where the checkpoint is of another seed, and FormatError where it cannot be
    read or is of another model.
    """
    held = store.read(path)
    state = held.state
    if state.get("config", {}).get("seed") != loop.config.seed:
        raise InputError(
            f"the checkpoint is of a run with seed {state['config']['seed']}", field="seed"
        )
    store.restore_model(loop.model, held.parts.get("model", {}), path)
    tensors = held.parts.get("optimizer", {})
    loop.losses = tensors.pop("losses", torch.empty(0)).tolist()
    store.restore_optimizer(loop.model, loop.optimizer, tensors)
    if loop.average is not None and "average" in held.parts:
        loop.average.restore(held.parts["average"], state["averaged"])
    if loop.scaler is not None and state.get("scaler"):
        loop.scaler.load_state_dict(state["scaler"])
    if loop.coder is not None and "gradients" in state:
        loop.coder.put_back(
            held.parts.get("gradients", {}), state["gradients"], loop.workers.rank,
            loop.workers.world,
        )  # fmt: skip
    loop.step, loop.samples = state["step"], state["samples"]
    loop.evaluations, loop.memory = state["evaluations"], state["memory"]
    return loop.step
