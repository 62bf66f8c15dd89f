"""Tasks on a frozen encoder: mean-pooled states, a logistic head on top.

The head is fitted once, on exact attention; another attention is then judged with the same head,
so that what differs is the attention alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from qcluster.qtransformers.evaluation.tasks import Example
from qcluster.qtransformers.evaluation.wordpiece import WordPiece
from qcluster.qtransformers.head_attention import reseed
from qcluster.qtransformers.model import ScalableQuantumTransformer

__all__ = ["Head", "embed", "features"]

Floats = NDArray[np.float32]


@torch.no_grad()
def embed(
    model: ScalableQuantumTransformer,
    tokenizer: WordPiece,
    texts: Sequence[tuple[str, ...]],
    *,
    max_length: int = 256,
    batch_size: int = 32,
    seed: int = 0,
) -> Floats:
    """Unit vectors (texts, d_model): states averaged over tokens (Reimers and Gurevych 2019).

    Texts are taken in order of length; sampled attention draws from ``seed`` and the batch.
    """
    model.eval()
    out = np.zeros((len(texts), model.config.d_model), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
    limit = min(max_length, model.config.max_length)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.batch([texts[i] for i in rows], limit)
        reseed(model, seed + start)
        hidden = model(**batch).hidden
        weight = batch["attention_mask"][:, :, None].float()
        mean = (hidden * weight).sum(1) / weight.sum(1)
        out[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return out


def features(
    model: ScalableQuantumTransformer,
    tokenizer: WordPiece,
    examples: Sequence[Example],
    **options: Any,
) -> Floats:
    """What the head sees of each example, (examples, features).

    A sentence: its vector. A pair: the vectors of both together, of each, their distance and
    product. A choice: the second choice's features minus the first's.
    """
    flat: list[tuple[str, ...]] = []
    for example in examples:
        for texts in example.texts:
            flat += [texts] if len(texts) == 1 else [texts, *((part,) for part in texts)]
    vectors = iter(embed(model, tokenizer, flat, **options))
    rows = []
    for example in examples:
        found = []
        for texts in example.texts:
            if len(texts) == 1:
                found.append(next(vectors))
                continue
            joint, u, v = next(vectors), next(vectors), next(vectors)
            found.append(np.concatenate([joint, u, v, np.abs(u - v), u * v]))
        rows.append(found[0] if len(found) == 1 else found[1] - found[0])
    return np.stack(rows)


class Head:
    """Logistic regression on features; without an intercept where choices are compared."""

    def __init__(self, *, choices: bool = False, strength: float = 10.0) -> None:
        from sklearn.linear_model import LogisticRegression

        self._model: Any = LogisticRegression(
            C=strength, max_iter=500, fit_intercept=not choices, tol=1e-3
        )

    def fit(self, x: Floats, labels: NDArray[np.int64]) -> Head:
        """Fit to features (n, f) and labels (n,)."""
        self._model.fit(x, labels)
        return self

    def predict(self, x: Floats) -> NDArray[np.int64]:
        """Labels (n,)."""
        return cast("NDArray[np.int64]", self._model.predict(x).astype(np.int64))
