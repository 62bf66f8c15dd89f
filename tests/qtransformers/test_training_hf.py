"""Weights of Hugging Face models in and out: the same logits on both sides."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qcluster.errors import FormatError
from qcluster.qtransformers import zoo
from qcluster.qtransformers.hf import export_hf, from_state, load_model, save_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

TINY_BERT = {
    "vocab_size": 97, "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2,
    "intermediate_size": 40, "max_position_embeddings": 32, "initializer_range": 0.4,
}  # fmt: skip
TINY_GPT = {
    "vocab_size": 97, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 32,
    "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.4,
}  # fmt: skip


def bert_config(**changes: Any) -> Any:
    return transformers.BertConfig(**{**TINY_BERT, **changes})


def gpt_config(**changes: Any) -> Any:
    return transformers.GPT2Config(**{**TINY_GPT, **changes})


def theirs(kind: str, config: Any) -> Any:
    torch.manual_seed(3)
    return getattr(transformers, kind)(config).eval()


def ours(model: Any) -> Any:
    return from_state(model.config.to_dict(), model.state_dict()).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 97, (4, 13), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_masked_language_model_gives_the_same_logits(activation: str, ids: torch.Tensor) -> None:
    model = theirs("BertForMaskedLM", bert_config(hidden_act=activation))
    keep = torch.ones_like(ids)
    keep[1, 9:] = 0
    types = (torch.arange(13) > 5).long().expand_as(ids)
    with torch.no_grad():
        want = model(ids, attention_mask=keep, token_type_ids=types).logits
        got = ours(model)(ids, keep, types).logits
    assert (want - got)[keep.bool()].abs().max() < 1e-4
    assert want.abs().max() > 1


def test_classifier_gives_the_same_logits_and_loss(ids: torch.Tensor) -> None:
    model = theirs("BertForSequenceClassification", bert_config(num_labels=5))
    labels = torch.tensor([0, 4, 2, 1])
    with torch.no_grad():
        want, got = model(ids, labels=labels), ours(model)(ids, labels=labels)
    assert torch.allclose(want.logits, got.logits, atol=1e-4)
    assert torch.allclose(want.loss, got.loss, atol=1e-5)


def test_bare_encoder_gives_the_same_hidden_states(ids: torch.Tensor) -> None:
    model = theirs("BertModel", bert_config())
    with torch.no_grad():
        want = model(ids).last_hidden_state
        got = ours(model)(ids).hidden
    assert (want - got).abs().max() < 1e-4


@pytest.mark.parametrize("inner", [None, 56])
def test_gpt2_gives_the_same_logits_and_loss(inner: int | None, ids: torch.Tensor) -> None:
    model = theirs("GPT2LMHeadModel", gpt_config(n_inner=inner))
    with torch.no_grad():
        want, got = model(ids, labels=ids), ours(model)(ids, labels=ids)
    assert (want.logits - got.logits).abs().max() < 1e-4
    assert torch.allclose(want.loss, got.loss, atol=1e-5)
    assert want.logits.abs().max() > 1


def test_gpt2_generates_the_same_text(ids: torch.Tensor) -> None:
    model = theirs("GPT2LMHeadModel", gpt_config())
    mine = ours(model)
    want = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12,
                          do_sample=False, pad_token_id=0)  # fmt: skip
    assert torch.equal(mine.generate(ids, max_new_tokens=12)[:, : want.shape[1]], want)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: zoo.gpt("nano", vocab_size=97, dropout=0.0), "GPT2LMHeadModel"),
        (lambda: zoo.bert("tiny", vocab_size=97, dropout=0.0), "BertForMaskedLM"),
        (lambda: zoo.bert("tiny", vocab_size=97, head="none"), "BertModel"),
        (
            lambda: zoo.bert("tiny", vocab_size=97, head="classifier", num_labels=3),
            "BertForSequenceClassification",
        ),
    ],
)
def test_exported_models_are_read_by_transformers(
    build: Any, kind: str, ids: torch.Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    mine = build().eval()
    export_hf(mine, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        out = model(ids)
    want = out.last_hidden_state if kind == "BertModel" else out.logits
    with torch.no_grad():
        got = mine(ids)
    assert (want - (got.hidden if kind == "BertModel" else got.logits)).abs().max() < 1e-4
    again = load_model(tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, got.logits, atol=1e-6)


def test_directories_written_by_transformers_are_read(ids: torch.Tensor, tmp_path: Path) -> None:
    model = theirs("GPT2LMHeadModel", gpt_config())
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert (zoo.load(tmp_path).eval()(ids).logits - model(ids).logits).abs().max() < 1e-4


def test_sharded_directories_are_read(ids: torch.Tensor, tmp_path: Path) -> None:
    model = theirs("BertForMaskedLM", bert_config())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with torch.no_grad():
        assert (load_model(tmp_path).eval()(ids).logits - model(ids).logits).abs().max() < 1e-4


def test_own_format_comes_back_bit_for_bit(ids: torch.Tensor, tmp_path: Path) -> None:
    model = zoo.custom(
        vocab_size=97, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1,
        position="sinusoidal",
    )  # fmt: skip
    again = load_model(save_model(model, tmp_path))
    assert again.config == model.config
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True)
    )


def _gpt_directory(path: Path) -> Path:
    return export_hf(zoo.gpt("nano", vocab_size=11, num_decoder_layers=1), path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    _gpt_directory(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["transformer.h.0.mlp.c_fc.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"h\.0\.mlp\.c_fc\.bias.*missing"):
        load_model(tmp_path)


def test_wrong_shapes_are_named(tmp_path: Path) -> None:
    _gpt_directory(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 7}))
    with pytest.raises(FormatError, match=r"position\.weight.*shape"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "llama.*not read"),
        ({"activation_function": "mish"}, "mish"),
        ({"n_head": 5}, "divisible"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
    ],
)
def test_configurations_that_are_not_ours_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    _gpt_directory(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(FormatError if "n_head" not in change else ValueError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_broken_configuration_names_the_file(text: str, tmp_path: Path) -> None:
    _gpt_directory(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match=r"config\.json"):
        load_model(tmp_path)


def test_cut_weights_name_the_file(tmp_path: Path) -> None:
    _gpt_directory(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_an_index_cannot_lead_out_of_its_directory(tmp_path: Path) -> None:
    _gpt_directory(tmp_path)
    index = {"weight_map": {"x": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="outside"):
        load_model(tmp_path)


def test_models_of_no_family_are_not_exported(tmp_path: Path) -> None:
    model = zoo.custom(vocab_size=9, d_model=8, nhead=2, num_encoder_layers=1)
    with pytest.raises(FormatError, match="GPT-2 or a BERT"):
        export_hf(model, tmp_path)
