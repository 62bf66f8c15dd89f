"""Transformers with sampled attention: models, training, profiling, evaluation.

Names are loaded on first use, so that importing the package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcluster.qtransformers import zoo
    from qcluster.qtransformers.architecture import TransformerConfig
    from qcluster.qtransformers.block import QuantumTransformerBlock
    from qcluster.qtransformers.model import ScalableQuantumTransformer
    from qcluster.qtransformers.profiler import AdvancedMemoryProfiler
    from qcluster.qtransformers.train_config import TrainingConfig
    from qcluster.qtransformers.trainer import QuantumTrainer

__all__ = [
    "AdvancedMemoryProfiler",
    "QuantumTrainer",
    "QuantumTransformerBlock",
    "ScalableQuantumTransformer",
    "TrainingConfig",
    "TransformerConfig",
    "zoo",
]

_HOMES = {
    "AdvancedMemoryProfiler": "profiler",
    "QuantumTrainer": "trainer",
    "QuantumTransformerBlock": "block",
    "ScalableQuantumTransformer": "model",
    "TrainingConfig": "train_config",
    "TransformerConfig": "architecture",
}


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return importlib.import_module(f"{__name__}.zoo")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
