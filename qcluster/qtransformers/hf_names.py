"""Which weight of a Hugging Face BERT or GPT-2 is which of ours, and the configurations' fields.

A table only: names on both sides and how the numbers are laid out. GPT-2 keeps its dense weights
as (in, out), everything else as (out, in); BERT keeps query, key and value apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from qcluster.errors import FormatError
from qcluster.qtransformers.architecture import Activation, HeadKind

__all__ = ["Weight", "from_hf_config", "to_hf_config", "weights"]

Family = Literal["bert", "gpt2"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu",
}  # fmt: skip


class Weight(NamedTuple):
    """One of our tensors and its sources, joined along the first axis; ``flip`` transposes."""

    ours: str
    theirs: tuple[str, ...]
    flip: bool = False


def weights(family: Family, layers: int, head: HeadKind) -> Iterator[Weight]:
    """Every tensor of the model, theirs without the ``bert.`` or ``transformer.`` prefix."""
    return _bert(layers, head) if family == "bert" else _gpt2(layers)


def _gpt2(layers: int) -> Iterator[Weight]:
    yield Weight("token.weight", ("wte.weight",))
    yield Weight("position.weight", ("wpe.weight",))
    for i in range(layers):
        ours, theirs = f"decoder.{i}", f"h.{i}"
        for a, b in (
            ("attention.mha.in_proj_weight", "attn.c_attn.weight"),
            ("attention.mha.out_proj.weight", "attn.c_proj.weight"),
            ("up.weight", "mlp.c_fc.weight"),
            ("down.weight", "mlp.c_proj.weight"),
        ):
            yield Weight(f"{ours}.{a}", (f"{theirs}.{b}",), flip=True)
        for a, b in (
            ("attention.mha.in_proj_bias", "attn.c_attn.bias"),
            ("attention.mha.out_proj.bias", "attn.c_proj.bias"),
            ("up.bias", "mlp.c_fc.bias"),
            ("down.bias", "mlp.c_proj.bias"),
        ):
            yield Weight(f"{ours}.{a}", (f"{theirs}.{b}",))
        yield from _pair(f"{ours}.norm_attention", f"{theirs}.ln_1")
        yield from _pair(f"{ours}.norm_feedforward", f"{theirs}.ln_2")
    yield from _pair("decoder_norm", "ln_f")


def _bert(layers: int, head: HeadKind) -> Iterator[Weight]:
    yield Weight("token.weight", ("embeddings.word_embeddings.weight",))
    yield Weight("position.weight", ("embeddings.position_embeddings.weight",))
    yield Weight("token_type.weight", ("embeddings.token_type_embeddings.weight",))
    yield from _pair("embedding_norm", "embeddings.LayerNorm")
    for i in range(layers):
        ours, theirs = f"encoder.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = (f"{theirs}.attention.self.{p}.{kind}" for p in ("query", "key", "value"))
            yield Weight(f"{ours}.attention.mha.in_proj_{kind}", tuple(parts))
        yield from _pair(f"{ours}.attention.mha.out_proj", f"{theirs}.attention.output.dense")
        yield from _pair(f"{ours}.norm_attention", f"{theirs}.attention.output.LayerNorm")
        yield from _pair(f"{ours}.up", f"{theirs}.intermediate.dense")
        yield from _pair(f"{ours}.down", f"{theirs}.output.dense")
        yield from _pair(f"{ours}.norm_feedforward", f"{theirs}.output.LayerNorm")
    if head == "lm":
        yield from _pair("head.dense", "cls.predictions.transform.dense")
        yield from _pair("head.norm", "cls.predictions.transform.LayerNorm")
        yield Weight("head.out.bias", ("cls.predictions.bias",))
    elif head == "classifier":
        yield from _pair("head.pool", "pooler.dense")
        yield from _pair("head.out", "classifier")


def _pair(ours: str, theirs: str) -> Iterator[Weight]:
    yield Weight(f"{ours}.weight", (f"{theirs}.weight",))
    yield Weight(f"{ours}.bias", (f"{theirs}.bias",))


def from_hf_config(config: Mapping[str, Any], head: HeadKind) -> dict[str, Any]:
    """Fields of ``TransformerConfig`` for a Hugging Face ``config.json``.

    Raises FormatError for another family, or an option that this model does not have.
    """
    family = config.get("model_type")
    if family not in ("bert", "gpt2"):
        raise FormatError(f"'{family}' is not read: bert and gpt2 are", field="model_type")
    refused = {
        "is_decoder": True, "add_cross_attention": True, "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
    }  # fmt: skip
    for name, value in refused.items():
        if config.get(name) is value:
            raise FormatError(f"{value} is not supported", field=name)
    return _from_bert(config, head) if family == "bert" else _from_gpt2(config, head)


def _activation(config: Mapping[str, Any], field: str, default: str) -> Activation:
    name = config.get(field, default)
    if name not in _ACTIVATIONS:
        raise FormatError(f"no activation called '{name}'", field=field)
    return _ACTIVATIONS[name]


def _from_bert(config: Mapping[str, Any], head: HeadKind) -> dict[str, Any]:
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise FormatError(f"'{kind}' positions are not supported", field="position_embedding_type")
    labels = config.get("id2label")
    return {
        "vocab_size": config["vocab_size"], "d_model": config["hidden_size"],
        "nhead": config["num_attention_heads"],
        "num_encoder_layers": config["num_hidden_layers"],
        "dim_feedforward": config["intermediate_size"],
        "dropout": float(config.get("hidden_dropout_prob", 0.1)),
        "activation": _activation(config, "hidden_act", "gelu"), "norm_first": False,
        "layer_norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "max_length": config["max_position_embeddings"],
        "token_types": config.get("type_vocab_size", 2), "embedding_norm": True,
        "head": head, "lm_transform": head == "lm",
        "num_labels": len(labels) if labels else config.get("num_labels", 2),
        "pad_token_id": None,
    }  # fmt: skip


def _from_gpt2(config: Mapping[str, Any], head: HeadKind) -> dict[str, Any]:
    return {
        "vocab_size": config["vocab_size"], "d_model": config["n_embd"],
        "nhead": config["n_head"], "num_decoder_layers": config["n_layer"],
        "dim_feedforward": config.get("n_inner") or 4 * config["n_embd"],
        "dropout": float(config.get("resid_pdrop", 0.1)),
        "activation": _activation(config, "activation_function", "gelu_new"),
        "layer_norm_eps": float(config.get("layer_norm_epsilon", 1e-5)),
        "max_length": config["n_positions"], "head": "lm" if head == "lm" else "none",
        "eos_token_id": _within(config.get("eos_token_id"), config["vocab_size"]),
    }  # fmt: skip


def _within(token: Any, size: int) -> int | None:
    return token if isinstance(token, int) and 0 <= token < size else None


def to_hf_config(c: Any) -> dict[str, Any]:
    """A Hugging Face ``config.json`` for our configuration.

    Raises FormatError for a model that is neither a GPT-2 nor a BERT.
    """
    theirs = {ours: name for name, ours in reversed(list(_ACTIVATIONS.items()))}
    if c.position != "learned" or not c.tie_weights:
        raise FormatError("Hugging Face's families need learned positions and tied weights")
    if c.kind == "decoder" and c.norm_first and not c.embedding_norm and not c.lm_transform:
        return {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
            "vocab_size": c.vocab_size, "n_embd": c.d_model, "n_head": c.nhead,
            "n_layer": c.num_decoder_layers, "n_inner": c.inner, "n_positions": c.max_length,
            "activation_function": theirs[c.activation], "layer_norm_epsilon": c.layer_norm_eps,
            "resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": c.dropout,
            "eos_token_id": c.eos_token_id, "bos_token_id": c.eos_token_id,
        }  # fmt: skip
    if c.kind == "encoder" and not c.norm_first and c.embedding_norm and c.token_types:
        kind = "BertForMaskedLM" if c.head == "lm" else "BertForSequenceClassification"
        return {
            "model_type": "bert",
            "architectures": ["BertModel" if c.head == "none" else kind],
            "vocab_size": c.vocab_size, "hidden_size": c.d_model,
            "num_attention_heads": c.nhead, "num_hidden_layers": c.num_encoder_layers,
            "intermediate_size": c.inner, "hidden_act": theirs[c.activation],
            "layer_norm_eps": c.layer_norm_eps, "max_position_embeddings": c.max_length,
            "type_vocab_size": c.token_types, "hidden_dropout_prob": c.dropout,
            "attention_probs_dropout_prob": c.dropout,
            "id2label": {str(i): f"LABEL_{i}" for i in range(c.num_labels)},
        }  # fmt: skip
    raise FormatError("only a GPT-2 or a BERT can be written for Hugging Face")
