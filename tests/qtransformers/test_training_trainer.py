"""QuantumTrainer in this process, the seeds' snippet, and the file of ``kind: transformer``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from training_worlds import text, tiny

from qcluster.cli import main
from qcluster.errors import InputError, NotFound
from qcluster.qtransformers import (
    QuantumMultiheadAttention,
    QuantumTrainer,
    QuantumTransformerBlock,
    ScalableQuantumTransformer,
    zoo,
)
from qcluster.qtransformers import text as texts
from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.masking import hide
from qcluster.trainings import KINDS, training

QUANTUM = {"backend": "stratified", "num_samples": 4, "error_mitigation": True}


def test_the_snippet_of_the_documentation(caplog: pytest.LogCaptureFixture) -> None:
    """As written there, but for the sizes and for a run on Ray (see test_training_ray.py)."""
    assert issubclass(QuantumMultiheadAttention, torch.nn.MultiheadAttention)
    model = ScalableQuantumTransformer(
        vocab_size=50, d_model=16, nhead=2, num_encoder_layers=2, quantum_config=QUANTUM
    )
    assert isinstance(model.encoder[0], QuantumTransformerBlock)
    train_data = [torch.randint(0, 50, (9,)) for _ in range(12)]
    val_data = [torch.randint(0, 50, (6,)) for _ in range(4)]
    with caplog.at_level(logging.WARNING):
        trainer = QuantumTrainer(
            model=model, train_dataset=train_data, eval_dataset=val_data, multi_gpu=True,
            mixed_precision=True,
        )  # fmt: skip
    assert "no GPU" in caplog.text
    assert "CPU workers" in trainer.notes[0]
    assert trainer.num_workers in (1, 2)
    assert trainer.config.mixed_precision == "auto"
    trainer.num_workers = None
    report = trainer.train()
    assert report.steps == 1
    assert report.evaluations[0]["loss"] > 0
    assert report.notes == tuple(trainer.notes)


SNIPPET = """
from qcluster.qtransformers import (
    QuantumMultiheadAttention,
    QuantumTransformerBlock,
    ScalableQuantumTransformer,
    QuantumTrainer
)

# Full transformer model
model = ScalableQuantumTransformer(
    vocab_size=50000,
    d_model=768,
    nhead=12,
    num_encoder_layers=12,
    quantum_config={
        "backend": "stratified",
        "num_samples": 32,
        "error_mitigation": True
    }
)

# Training setup
trainer = QuantumTrainer(
    model=model,
    train_dataset=train_data,
    eval_dataset=val_data,
    multi_gpu=True,
    mixed_precision=True
)
trainer.train()
"""


def test_the_snippet_as_it_stands_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred million weights, on the meta device: all but the training itself is done."""
    trained: list[QuantumTrainer] = []

    def train(self: QuantumTrainer) -> None:
        trained.append(self)

    monkeypatch.setattr(QuantumTrainer, "train", train)
    names: dict[str, Any] = {
        "train_data": [torch.randint(0, 50_000, (9,)) for _ in range(4)],
        "val_data": [torch.randint(0, 50_000, (9,)) for _ in range(4)],
    }
    with torch.device("meta"):
        exec(SNIPPET, names)
    model = names["model"]
    assert trained == [names["trainer"]]
    assert sum(p.numel() for p in model.parameters()) > 120e6
    assert len(model.encoder) == 12
    layers = [m for m in model.modules() if isinstance(m, QuantumMultiheadAttention)]
    assert [layer.num_heads for layer in layers] == [12] * 12
    assert names["trainer"].config.mixed_precision == "auto"


def test_a_model_learns_and_is_better_than_before() -> None:
    trainer = QuantumTrainer(tiny(), TokenWindows(text(), 8), TokenWindows(text(), 8),
                             max_steps=60, learning_rate=0.02)  # fmt: skip
    before = trainer.evaluate()["loss"]
    after = trainer.train().evaluations[-1]["loss"]
    assert after < before - 0.02
    assert trainer.evaluate()["loss"] == pytest.approx(after, rel=1e-6)


def test_runs_go_on_from_their_directory(tmp_path: Path) -> None:
    whole = QuantumTrainer(tiny(), TokenWindows(text(), 8), max_steps=8).train()
    QuantumTrainer(tiny(), TokenWindows(text(), 8), max_steps=8, save_every=3, directory=tmp_path,
                   callbacks=[_Stop()]).train()  # fmt: skip
    rest = QuantumTrainer(tiny(), TokenWindows(text(), 8), max_steps=8, directory=tmp_path)
    report = rest.train(resume_from_checkpoint=True)
    assert report.resumed_from == 4
    assert np.array_equal(report.losses, whole.losses)


class _Stop:
    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda loop, *_: loop.stop("enough") if loop.step == 4 else None


def test_sampling_in_training_repeats_itself_after_a_resume(tmp_path: Path) -> None:
    quantum = {**QUANTUM, "sample_in_training": True}
    make = lambda: tiny(quantum_config=quantum)  # noqa: E731
    whole = QuantumTrainer(make(), TokenWindows(text(), 8), max_steps=6).train()
    QuantumTrainer(make(), TokenWindows(text(), 8), max_steps=6, directory=tmp_path,
                   callbacks=[_Stop()]).train()  # fmt: skip
    again = QuantumTrainer(make(), TokenWindows(text(), 8), max_steps=6, directory=tmp_path)
    assert np.array_equal(again.train(resume_from_checkpoint=True).losses, whole.losses)
    exact = QuantumTrainer(tiny(), TokenWindows(text(), 8), max_steps=6).train()
    assert not np.array_equal(exact.losses, whole.losses)


def test_hybrid_layers_sample_some_heads_only() -> None:
    ids = torch.randint(0, 17, (2, 12))
    exact, mixed, sampled = (
        tiny(dropout=0.0, quantum_config={"backend": backend, "num_samples": 3}).eval()
        for backend in ("classical", ["classical", "varopt"], "varopt")
    )
    with torch.no_grad():
        for model in (exact, mixed, sampled):
            for weight in model.parameters():
                weight.mul_(6.0)
        logits = [model(ids).logits for model in (exact, mixed, sampled)]
    distances = [(value - logits[0]).norm().item() for value in logits]
    assert 0 < distances[1] < distances[2]
    none = tiny(dropout=0.0, quantum_config={"backend": ["classical"] * 2}).eval()
    none.load_state_dict(exact.state_dict())
    with torch.no_grad():
        assert torch.allclose(none(ids).logits, logits[0], atol=1e-5)


def test_sampled_models_generate_with_a_cache() -> None:
    model = tiny(quantum_config={"backend": "varopt", "num_samples": 64})
    exact = tiny()
    ids = torch.randint(0, 17, (2, 5))
    # More samples than keys: the sampler keeps every key, so nothing is drawn.
    assert torch.equal(model.generate(ids, max_new_tokens=6), exact.generate(ids, max_new_tokens=6))


def test_hidden_tokens_are_chosen_as_described() -> None:
    config = zoo.bert("tiny", vocab_size=50, mask_token_id=3).config
    torch.manual_seed(0)
    ids = torch.randint(4, 50, (200, 100))
    mask = torch.ones_like(ids)
    mask[:, 50:] = 0
    out, labels = hide(ids, config, 0.15, mask)
    chosen = labels != -100
    assert chosen[:, :50].float().mean() == pytest.approx(0.15, abs=0.01)
    assert not chosen[:, 50:].any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(out[~chosen], ids[~chosen])
    assert (out[chosen] == 3).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (out[chosen] == ids[chosen]).float().mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_workers": 0}, "num_workers"),
        ({"num_workers": (3, 2)}, "least"),
        ({"num_workers": True}, "num_workers"),
        ({"batch_size": "8"}, "batch_size"),
        ({"mixed_precision": "fp8"}, "mixed_precision"),
        ({"eval_dataset": []}, "eval_dataset"),
        ({"loggers": ["csv"]}, "directory"),
        ({"model": "gpt"}, "torch module, came str"),
    ],
)
def test_bad_trainers_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QuantumTrainer(**{"model": tiny(), "train_dataset": TokenWindows(text(), 8), **options})


def test_unknown_loggers_are_refused_before_training() -> None:
    with pytest.raises(NotFound, match="wandb"):
        QuantumTrainer(tiny(), TokenWindows(text(), 8), loggers=["wandb"])


SMALL = {
    "kind": "transformer",
    "model": {"d_model": 16, "nhead": 2, "num_decoder_layers": 1, "max_length": 32},
    "data": {"limit": 20_000, "length": 16},
    "training": {"max_steps": 3, "batch_size": 4},
}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


def test_the_verb_trains_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write(tmp_path / "run.yaml")
    assert main(["train", str(config), "--out", str(tmp_path / "out"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["steps"] == 3
    assert 6 < first["bits_per_byte"] < 9
    model = zoo.load(first["model"])
    assert model.config.vocab_size == 256
    write(config, training={"max_steps": 5, "batch_size": 4})
    assert main(["train", str(config), "--out", str(tmp_path / "out"), "--resume"]) == 0
    assert "5" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["resumed_from"] == 3
    assert report["losses"][:3] == first["losses"]


def test_training_reads_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be " * 40)
    config = write(tmp_path / "run.yaml", data={"text": str(tmp_path / "a.txt"), "length": 16})
    assert main(["train", str(config), "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "magic"}, "no kind of training called 'magic'"),
        ({"kind": None}, "'kind'"),
        ({"model": {"d_model": 15, "nhead": 2, "num_decoder_layers": 1}}, "divisible"),
        ({"model": {"num_encoder_layers": 1}}, "decoder"),
        ({"model": {"vocab_size": 9, "num_decoder_layers": 1}}, "256"),
        ({"data": {"text": "/nowhere.txt"}}, "/nowhere.txt"),
        ({"data": {"length": 64}}, "max_length"),
        ({"data": {"limit": 20, "length": 16}}, "fewer than a window"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"train": {}}, "train"),
        ({"workers": [1, 2, 3]}, "workers"),
        ({"workers": 0}, "workers"),
        ({"workers": "2"}, "workers"),
        ({"workers": [2, 1]}, "workers"),
        ({"training": {"max_step": 3}}, "max_step"),
        ({"training": {"compression": {"bits": "one"}}}, "compression.bits"),
        ({"training": {"epochs": "3"}}, "epochs"),
    ],
)
def test_bad_files_give_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray is not started for any of them."""
    config = write(tmp_path / "run.yaml", **changes)
    status = main(["train", str(config), "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert status in {1, 2}
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "\x00", "1: 2"])
def test_broken_files_name_themselves(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    assert main(["train", str(path)]) == 2
    assert "broken.yaml" in capsys.readouterr().err


def test_kinds_can_be_registered_by_name() -> None:
    KINDS.register("for-a-test", "math:sqrt")
    run, rest = training({"kind": "for-a-test", "x": 1})
    assert run(4) == 2
    assert rest == {"x": 1}
    assert "transformer" in KINDS.names()


def test_bytes_go_in_and_out() -> None:
    assert texts.decode(texts.encode("grüße")) == "grüße"
    assert texts.bits_per_byte(float(np.log(2))) == pytest.approx(1.0)
    head, tail = texts.split(np.arange(100, dtype=np.uint8), 0.1)
    assert (len(head), len(tail)) == (90, 10)
    with pytest.raises(InputError, match="held_out"):
        texts.split(head, 1.0)
    library = texts.standard_library(5000)
    assert len(library) == 5000
    assert np.array_equal(library, texts.standard_library(9000)[:5000])
