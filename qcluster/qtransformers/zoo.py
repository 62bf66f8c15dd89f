"""Ready-made architectures: ``gpt``, ``bert``, ``custom``, and ``load`` for stored weights.

Sizes are those of the papers (Radford et al. 2019; Devlin et al. 2019) and smaller ones that train
on a CPU. All weights are random until they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import NotFound
from qcluster.qtransformers.hf import load_model
from qcluster.qtransformers.model import ScalableQuantumTransformer

__all__ = ["BERT_SIZES", "GPT_SIZES", "SHIPPED", "bert", "custom", "gpt", "load"]

SHIPPED = ("python-stdlib",)
"""Models that come with the package: a byte-level decoder on Python's standard library."""

GPT_SIZES: Mapping[str, Mapping[str, int]] = {
    "nano": {"d_model": 128, "nhead": 4, "num_decoder_layers": 4, "max_length": 256},
    "mini": {"d_model": 384, "nhead": 6, "num_decoder_layers": 6, "max_length": 256},
    "small": {"d_model": 768, "nhead": 12, "num_decoder_layers": 12, "max_length": 1024},
    "medium": {"d_model": 1024, "nhead": 16, "num_decoder_layers": 24, "max_length": 1024},
    "large": {"d_model": 1280, "nhead": 20, "num_decoder_layers": 36, "max_length": 1024},
    "xl": {"d_model": 1600, "nhead": 25, "num_decoder_layers": 48, "max_length": 1024},
}
"""GPT-2's four sizes as small, medium, large, xl."""

BERT_SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"d_model": 128, "nhead": 2, "num_encoder_layers": 2, "max_length": 512},
    "mini": {"d_model": 256, "nhead": 4, "num_encoder_layers": 4, "max_length": 512},
    "base": {"d_model": 768, "nhead": 12, "num_encoder_layers": 12, "max_length": 512},
    "large": {"d_model": 1024, "nhead": 16, "num_encoder_layers": 24, "max_length": 512},
}
"""BERT's two sizes and two of the small ones of Turc et al. 2019."""


def gpt(
    size: str = "small", *, vocab_size: int = 50_257, **changes: Any
) -> ScalableQuantumTransformer:
    """A GPT-2 of a named size; ``changes`` are fields of ``TransformerConfig``.

    Raises NotFound for a size that is not in ``GPT_SIZES``.
    """
    fields = {**_size(GPT_SIZES, size), "vocab_size": vocab_size, "activation": "gelu_tanh"}
    return ScalableQuantumTransformer({**fields, **changes})


def bert(
    size: str = "base", *, vocab_size: int = 30_522, **changes: Any
) -> ScalableQuantumTransformer:
    """A BERT of a named size, ending in token logits; ``head="classifier"`` for labels.

    Raises NotFound for a size that is not in ``BERT_SIZES``.
    """
    head = changes.get("head", "lm")
    fields = {
        **_size(BERT_SIZES, size), "vocab_size": vocab_size, "norm_first": False,
        "layer_norm_eps": 1e-12, "token_types": 2, "embedding_norm": True,
        "lm_transform": head == "lm",
    }  # fmt: skip
    return ScalableQuantumTransformer({**fields, **changes})


def custom(**fields: Any) -> ScalableQuantumTransformer:
    """Any architecture, by the fields of ``TransformerConfig``."""
    return ScalableQuantumTransformer(**fields)


def load(source: str | Path, **options: Any) -> ScalableQuantumTransformer:
    """Stored weights: a directory, or ``python-stdlib``, the model that is shipped.

    ``options`` are those of ``hf.load_model``. Raises FormatError naming the file that is wrong.
    """
    shipped = Path(__file__).parent / "weights" / str(source)
    return load_model(shipped if str(source) in SHIPPED else source, **options)


def _size(sizes: Mapping[str, Mapping[str, int]], name: str) -> dict[str, Any]:
    if name not in sizes:
        raise NotFound(f"no size called '{name}'; there are: {', '.join(sizes)}")
    return dict(sizes[name])
