"""The fine-tuning recipe: a classifier on the encoder, all weights trained (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcluster.errors import InputError
from qcluster.qtransformers.evaluation.tasks import Example
from qcluster.qtransformers.evaluation.wordpiece import WordPiece
from qcluster.qtransformers.head_attention import reseed
from qcluster.qtransformers.model import ScalableQuantumTransformer
from qcluster.qtransformers.trainer import QuantumTrainer

__all__ = ["RECIPE", "classifier_from", "finetune", "predict"]

RECIPE: Mapping[str, Any] = {
    "epochs": 3, "batch_size": 32, "learning_rate": 5e-5, "schedule": "linear", "final_lr": 0.0,
    "weight_decay": 0.01, "beta2": 0.999, "clip_norm": 1.0,
}  # fmt: skip
"""BERT's own recipe; fields of ``TrainingConfig``."""


def classifier_from(
    encoder: ScalableQuantumTransformer,
    classes: int,
    *,
    seed: int = 0,
    quantum_config: Mapping[str, Any] | None = None,
) -> ScalableQuantumTransformer:
    """A classifier with the encoder's weights and a fresh head."""
    torch.manual_seed(seed)
    fields = {
        **encoder.config.model_dump(), "head": "classifier", "num_labels": classes,
        "lm_transform": False, "quantum_config": quantum_config,
    }  # fmt: skip
    model = ScalableQuantumTransformer(fields)
    known = model.state_dict()
    shared = {
        k: v
        for k, v in encoder.state_dict().items()
        if k in known and (encoder.config.head == "classifier" or not k.startswith("head."))
        and known[k].shape == v.shape
    }  # fmt: skip
    model.load_state_dict(shared, strict=False)
    return model


def finetune(
    encoder: ScalableQuantumTransformer,
    tokenizer: WordPiece,
    examples: Sequence[Example],
    classes: int,
    *,
    max_length: int = 128,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> ScalableQuantumTransformer:
    """Train a classifier on examples; ``options`` go to ``QuantumTrainer``.

    Raises InputError for tasks of choices, which this head does not read.
    """
    if any(len(example.texts) != 1 for example in examples):
        raise InputError("tasks of choices are evaluated with the probe", field="method")
    model = classifier_from(encoder, classes, seed=seed)

    def collate(items: list[Example]) -> dict[str, Tensor]:
        batch = tokenizer.batch([item.texts[0] for item in items], max_length)
        return {**batch, "labels": torch.tensor([item.label for item in items])}

    config = {**RECIPE, "seed": seed, **(recipe or {})}
    QuantumTrainer(model, list(examples), config=config, collate=collate, **options).train()
    return model


@torch.no_grad()
def predict(
    model: ScalableQuantumTransformer,
    tokenizer: WordPiece,
    examples: Sequence[Example],
    *,
    max_length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Labels (examples,) of a classifier."""
    model.eval()
    out = np.zeros(len(examples), dtype=np.int64)
    order = sorted(range(len(examples)), key=lambda i: sum(map(len, examples[i].texts[0])))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.batch([examples[i].texts[0] for i in rows], max_length)
        reseed(model, seed + start)
        out[rows] = model(**batch).logits.argmax(1).numpy()
    return out
