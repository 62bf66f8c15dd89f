"""Transformers whose attention may be sampled, simulated or exact: modules, blocks, training."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "QuantumAttentionSimulator": "qcluster.qtransformers.noisy",
    "QuantumConfig": "qcluster.q_attention.module_config",
    "QuantumMultiheadAttention": "qcluster.qtransformers.attention",
    "MatrixProductStateSimulator": "qcluster.qtransformers.tensor_network",
}

__all__ = [
    "MatrixProductStateSimulator",
    "QuantumAttentionSimulator",
    "QuantumConfig",
    "QuantumMultiheadAttention",
]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: nothing of it before somebody uses a module.
    if name not in _HOME:
        raise AttributeError(f"module 'qcluster.qtransformers' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
