"""Transformers whose attention may be sampled, simulated or exact: modules, models, training."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdvancedMemoryProfiler": "qcluster.qtransformers.profiler",
    "MatrixProductStateSimulator": "qcluster.qtransformers.tensor_network",
    "QuantumAttentionSimulator": "qcluster.qtransformers.noisy",
    "QuantumConfig": "qcluster.q_attention.module_config",
    "QuantumMultiheadAttention": "qcluster.qtransformers.attention",
    "QuantumTrainer": "qcluster.qtransformers.trainer",
    "QuantumTransformerBlock": "qcluster.qtransformers.block",
    "ScalableQuantumTransformer": "qcluster.qtransformers.model",
    "TrainingConfig": "qcluster.qtransformers.train_config",
    "TransformerConfig": "qcluster.qtransformers.architecture",
}

__all__ = [
    "AdvancedMemoryProfiler",
    "MatrixProductStateSimulator",
    "QuantumAttentionSimulator",
    "QuantumConfig",
    "QuantumMultiheadAttention",
    "QuantumTrainer",
    "QuantumTransformerBlock",
    "ScalableQuantumTransformer",
    "TrainingConfig",
    "TransformerConfig",
    "zoo",
]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: nothing of it before somebody uses a module.
    if name == "zoo":
        return importlib.import_module("qcluster.qtransformers.zoo")
    if name not in _HOME:
        raise AttributeError(f"module 'qcluster.qtransformers' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
