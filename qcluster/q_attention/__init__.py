"""Attention from part of its keys and values, with a bound on every row's error."""

from __future__ import annotations

import importlib
from typing import Any

from qcluster.q_attention.config import AttentionConfig
from qcluster.q_attention.module_config import QuantumConfig
from qcluster.q_attention.recommend import recommend

_HOME = {
    "AttentionOutput": "functional",
    "ContrastiveTrainer": "contrastive",
    "DecodeCache": "decode",
    "QAOASparseAttention": "qaoa_pages",
    "QPEPositionEncoder": "positions",
    "QSVDHeadPruner": "pruner",
    "SAMPLERS": "samplers",
    "TwoLevelCache": "hf_cache",
    "attend": "attend",
    "attention": "functional",
    "register_hf": "hf",
}

__all__ = [
    "SAMPLERS",
    "AttentionConfig",
    "AttentionOutput",
    "ContrastiveTrainer",
    "DecodeCache",
    "QAOASparseAttention",
    "QPEPositionEncoder",
    "QSVDHeadPruner",
    "QuantumConfig",
    "TwoLevelCache",
    "attend",
    "attention",
    "recommend",
    "register_hf",
]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: nothing of it before somebody calls.
    if name not in _HOME:
        raise AttributeError(f"module 'qcluster.q_attention' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    # A submodule of the same name must not come in the function's place.
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
