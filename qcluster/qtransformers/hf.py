"""Weights in and out: Hugging Face directories (BERT, GPT-2) and our own, safetensors both.

Nothing is unpickled: ``model.safetensors`` (or the shards that its index names) and ``config.json``
are all that is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from qcluster.errors import FormatError, InputError
from qcluster.qtransformers.architecture import HeadKind
from qcluster.qtransformers.hf_names import Family, from_hf_config, to_hf_config, weights
from qcluster.qtransformers.model import ScalableQuantumTransformer

__all__ = ["export_hf", "from_state", "load_model", "read_weights", "save_model"]

FORMAT = "qcluster-transformer"


def save_model(model: ScalableQuantumTransformer, directory: str | Path) -> Path:
    """Write ``model.safetensors`` and ``config.json`` of our own form; returns the directory."""
    config = {"format": FORMAT, **model.config.model_dump(mode="json")}
    return _write(directory, dict(model.state_dict()), config)


def export_hf(model: ScalableQuantumTransformer, directory: str | Path) -> Path:
    """Write the model so that ``transformers`` reads it.

    Raises FormatError for a model that is neither a GPT-2 nor a BERT.
    """
    config = to_hf_config(model.config)
    family = cast(Family, config["model_type"])
    prefix = "transformer." if family == "gpt2" else "bert."
    state = model.state_dict()
    layers = model.config.num_encoder_layers or model.config.num_decoder_layers
    out: dict[str, Tensor] = {}
    for ours, theirs, flip in weights(family, layers, model.config.head):
        value = state[ours].T if flip else state[ours]
        for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            bare = name.startswith(("cls.", "classifier.")) or model.config.head == "none"
            out[name if bare else prefix + name] = part.contiguous()
    return _write(directory, out, config)


def load_model(
    directory: str | Path,
    *,
    head: HeadKind | None = None,
    quantum_config: Mapping[str, Any] | None = None,
) -> ScalableQuantumTransformer:
    """A model from a directory of ours or of Hugging Face's.

    ``head`` chooses what a BERT ends in (``lm``, ``classifier``, ``none``; None takes what its
    weights are for); ``quantum_config`` replaces the attention of the stored model.

    Raises FormatError naming the file and the field or weight that is wrong or missing.
    """
    directory = Path(directory)
    path = directory / "config.json"
    config = _read_json(path)
    state = read_weights(directory)
    try:
        if config.pop("format", None) == FORMAT:
            fields = {**config, **({} if head is None else {"head": head})}
            if quantum_config is not None:
                fields["quantum_config"] = dict(quantum_config)
            model = ScalableQuantumTransformer(fields)
            _fill(model, state, directory)
            return model
        return from_state(config, state, head=head, quantum_config=quantum_config)
    except InputError as error:
        raise error.at(file=path) from None
    except KeyError as error:
        raise FormatError("is missing", file=path, field=str(error.args[0])) from None


def from_state(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    head: HeadKind | None = None,
    quantum_config: Mapping[str, Any] | None = None,
) -> ScalableQuantumTransformer:
    """A model from Hugging Face's configuration and weights, e.g. ``config.to_dict()`` and
    ``state_dict()`` of a model in memory.

    Raises FormatError for a weight that is missing or of another shape, and for other families.
    """
    head = head or _head(config, state)
    fields = from_hf_config(config, head)
    model = ScalableQuantumTransformer(
        fields, quantum_config=None if quantum_config is None else dict(quantum_config)
    )
    family = cast(Family, config["model_type"])
    layers = model.config.num_encoder_layers or model.config.num_decoder_layers
    plain = {_bare(name): value for name, value in state.items()}
    found: dict[str, Tensor] = {}
    for ours, theirs, flip in weights(family, layers, model.config.head):
        parts = [_get(plain, name) for name in theirs]
        joined = torch.cat([part.T if flip else part for part in parts])
        found[ours] = joined
    if "head.out.weight" in model.state_dict() and model.config.head == "lm":
        found["head.out.weight"] = found["token.weight"]
    _fill(model, found, None)
    return model


def read_weights(directory: str | Path) -> dict[str, Tensor]:
    """All tensors of ``model.safetensors`` or of the shards of its index, by name.

    Raises FormatError for files that are absent, cut short or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        names = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise FormatError("names a file outside its directory", file=index)
    state: dict[str, Tensor] = {}
    for name in names:
        try:
            state.update(load_file(directory / name))
        except (OSError, SafetensorError) as error:
            raise FormatError(f"cannot be read: {error}", file=directory / name) from None
    return state


def _head(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> HeadKind:
    if "classifier.weight" in state:
        return "classifier"
    has_logits = "cls.predictions.bias" in state or config.get("model_type") == "gpt2"
    return "lm" if has_logits else "none"


def _bare(name: str) -> str:
    for prefix in ("bert.", "transformer."):
        name = name.removeprefix(prefix)
    # What files of older versions call the layer norms.
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _get(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise FormatError("the weight is missing", field=name)
    return state[name].float()


def _fill(model: ScalableQuantumTransformer, state: Mapping[str, Tensor], at: Path | None) -> None:
    wanted = model.state_dict()
    file = None if at is None else at / "model.safetensors"
    for name, value in wanted.items():
        if name not in state:
            raise FormatError("the weight is missing", file=file, field=name)
        if state[name].shape != value.shape:
            came, want = tuple(state[name].shape), tuple(value.shape)
            raise FormatError(f"shape {came} where {want} is wanted", file=file, field=name)
    model.load_state_dict({name: state[name] for name in wanted})


def _write(directory: str | Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / ".model.safetensors.partial"
    # Tied weights are written twice: safetensors refuses tensors that share memory.
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, partial,
              metadata={"format": "pt"})  # fmt: skip
    partial.replace(directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return directory


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"is not JSON: {error}", file=path) from None
    if not isinstance(data, dict):
        raise FormatError("is not a JSON object", file=path)
    return data
