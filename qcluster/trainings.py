"""What ``qcluster train`` can train: names to functions, loaded when they are asked for.

A room registers ``"module:function"`` under a name, so that nothing heavy is imported before it is
used. The function is called as ``function(config, out=..., resume=..., note=...)``: ``config`` the
file's mapping without ``kind``, ``out`` a directory for what it writes, ``resume`` whether to go on
from what is there, ``note`` for progress; it returns a ``Record`` or a mapping of JSON types.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, cast

from qcluster.errors import InputError, QClusterError
from qcluster.registry import Registry

__all__ = ["CLUSTER", "KINDS", "Training", "training"]

Training = Callable[..., Any]

CLUSTER: ContextVar[Callable[[], AbstractContextManager[None]] | None] = ContextVar(
    "cluster", default=None
)
"""Starts Ray, as whoever asked for a training wants it; called once there is nothing to refuse."""

KINDS: Registry[str] = Registry("kind of training", "qcluster.trainings")
KINDS.register("transformer", "qcluster.qtransformers.language:train")
KINDS.register("nvlink-classifier", "qcluster.q_nvlink.train:train_classifier")
KINDS.register("nvlink-rl", "qcluster.q_nvlink.train:train_rl")
KINDS.register("energy-gnn", "qcluster.q_energy.training:train_gnn")
KINDS.register("energy-meta", "qcluster.q_energy.training:train_meta")
KINDS.register("denoiser", "qcluster.q_compressor.trainings:train_denoiser")
KINDS.register("vqc", "qcluster.q_compressor.trainings:train_vqc")
KINDS.register("enhancer", "qcluster.q_decompressor.trainings:train_enhancer")


def training(config: Mapping[str, Any]) -> tuple[Training, dict[str, Any]]:
    """The function for ``config["kind"]``, and the rest of the configuration.

    Raises InputError where there is no ``kind``, NotFound where it has no function.
    """
    rest = dict(config)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str):
        known = ", ".join(KINDS.names())
        raise InputError(f"wanted one of {known}, came {kind!r}", field="kind")
    module, _, name = KINDS.get(kind).partition(":")
    try:
        return cast(Training, getattr(importlib.import_module(module), name)), rest
    except AttributeError:
        raise QClusterError(f"'{kind}' is registered as {module}:{name}, which is absent") from None
