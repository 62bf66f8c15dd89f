"""Attention from part of its keys and values, with a bound on every row's error."""

from __future__ import annotations

import importlib
from typing import Any

from qcluster.q_attention.module_config import QuantumConfig

_HOME = {
    "AttentionOutput": "qcluster.q_attention.functional",
    "attention": "qcluster.q_attention.functional",
    "SAMPLERS": "qcluster.q_attention.samplers",
    "register_hf": "qcluster.q_attention.hf",
}

__all__ = ["SAMPLERS", "AttentionOutput", "QuantumConfig", "attention", "register_hf"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: nothing of it before somebody calls.
    if name not in _HOME:
        raise AttributeError(f"module 'qcluster.q_attention' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
