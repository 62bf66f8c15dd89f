"""qcluster train's kinds of the codec: from tensor files to models that blobs are made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")

from qcluster.cli import main
from qcluster.codec.files import write_tensors
from qcluster.errors import FormatError
from qcluster.q_compressor import compress
from qcluster.q_compressor.trainings import load_model
from qcluster.q_decompressor import decompress
from qcluster.q_decompressor.enhancer import Enhancer


def smooth(rows: int, columns: int, seed: int) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(rows, columns))
    return np.cumsum(steps, axis=1).astype(np.float32)


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    path = tmp_path / "tensors.safetensors"
    write_tensors(path, {"a": smooth(80, 64, 0), "b": smooth(60, 64, 1),
                         "few": np.ones(5, np.float32), "whole": np.arange(2000)})  # fmt: skip
    return path


def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str], **fields: Any) -> dict[str, Any]:
    config = tmp_path / f"{fields['kind']}.yaml"
    config.write_text(yaml.safe_dump(fields))
    assert main(["train", str(config), "--out", str(tmp_path / "out"), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_denoisers_are_trained_saved_and_used(
    tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(tmp_path, capsys, kind="denoiser", data=str(tensors), rel_l2=0.2, steps=120)
    assert found["tensors"] == 2
    assert found["error_after"] < found["error_before"]
    model = load_model(found["model"])
    x = smooth(50, 64, 7)
    blob = compress(x, mode="rel_l2", value=0.2, config={"denoiser": True, "transform": "none"},
                    model=model)  # fmt: skip
    y, report = decompress(blob, max_output_bytes=x.nbytes, return_report=True)
    assert np.linalg.norm(y - x) <= 0.2 * np.linalg.norm(x)
    assert report.guarantee == {"rel_l2": 0.2}


def test_autoencoders_are_trained_saved_and_used(
    tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(tmp_path, capsys, kind="vqc", data=[str(tensors)], qubits=3, steps=60)
    assert found["keep"] == 2
    assert 0.97 * found["principal_components"] <= found["energy"] <= 1.0
    model = load_model(found["model"])
    assert model.qubits == 3
    x = smooth(50, 64, 8)
    blob = compress(x, mode="rel_l2", value=0.1, config={"vqc": True, "transform": "none"},
                    model=model)  # fmt: skip
    y = decompress(blob, max_output_bytes=x.nbytes)
    assert np.linalg.norm(y - x) <= 0.1 * np.linalg.norm(x)


def test_enhancers_are_trained_saved_and_used(
    tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = trained(tmp_path, capsys, kind="enhancer", data=str(tensors), epochs=8)
    assert found["error_after"] < found["error_before"]
    model = Enhancer.load(found["model"])
    x = smooth(50, 48, 9)
    blob = compress(x, mode="rel_l2", value=0.1, config={"transform": "none"})
    plain = decompress(blob, max_output_bytes=x.nbytes)
    other = decompress(blob, max_output_bytes=x.nbytes, config={"lstm": True}, model=model)
    shipped = decompress(blob, max_output_bytes=x.nbytes, config={"lstm": True})
    assert not np.array_equal(other, plain)
    assert not np.array_equal(other, shipped)


def test_models_are_given_on_the_command_line(
    tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        kind: trained(tmp_path, capsys, kind=kind, data=str(tensors), **few)["model"]
        for kind, few in (("denoiser", {"steps": 20}), ("vqc", {"qubits": 3, "steps": 10}),
                          ("enhancer", {"epochs": 2}))
    }  # fmt: skip
    a, blob, b = (str(tmp_path / n) for n in ("a.npy", "a.qct", "b.npy"))
    np.save(a, smooth(50, 64, 7))
    for kind in ("denoiser", "vqc"):
        line = ["compress", a, "-o", blob, "--mode", "rel_l2", "--value", "0.2", "--json",
                "--transform", "none", "--model", files[kind]]  # fmt: skip
        assert main(line) == 0
        assert kind in json.loads(capsys.readouterr().out)["tensors"][0]["report"]["bytes"]
    assert main(["decompress", blob, "-o", b, "--model", files["enhancer"], "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["tensors"][""]["steps"]
    assert list(steps) == ["lstm"]
    for wrong in (
        ["compress", a, "-o", blob, "--model", files["enhancer"]],
        ["compress", a, "-o", blob, "--model", "/nowhere.json"],
        ["compress", a, "-o", blob, "--model", files["vqc"], "--stream"],
        ["decompress", blob, "-o", b, "--model", files["vqc"]],
        ["decompress", blob, "-o", b, "--model", files["enhancer"], "--stream"],
    ):
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "/nowhere.npy"}, "/nowhere.npy"),
        ({"data": None}, "data"),
        ({"seed": "x"}, "seed"),
        ({"held_out": 1.5}, "held_out"),
        ({"step": 4}, "step"),
    ],
)
@pytest.mark.parametrize("kind", ["denoiser", "vqc", "enhancer"])
def test_bad_files_give_one_line(
    kind: str, changes: dict[str, Any], message: str, tensors: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump({"kind": kind, "data": str(tensors), **changes}))
    assert main(["train", str(config), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["denoiser", "vqc", "enhancer"])
def test_files_without_tensors_to_learn_from_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.full(3000, np.nan, dtype=np.float32))
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump({"kind": kind, "data": str(tmp_path / "x.npy")}))
    assert main(["train", str(config), "--out", str(tmp_path / "out")]) == 2
    assert "holds no tensor" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "x"}', '{"kind": "denoiser"}',
                                  '{"kind": "vqc", "angles": [], "keep": 1}'])  # fmt: skip
def test_broken_models_name_their_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"model\.json"):
        load_model(path)
    with pytest.raises(FormatError, match="none"):
        load_model(tmp_path / "none.json")
