"""Where others plug the codec in: numcodecs, DistributedDataParallel, files, command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcluster.cli import main
from qcluster.codec.files import read_tensors, write_tensors
from qcluster.errors import FormatError

WORKER = Path(__file__).with_name("ddp_worker.py")
ROOT = Path(__file__).resolve().parents[2]


def test_numcodecs_round_trips() -> None:
    numcodecs = pytest.importorskip("numcodecs")
    from qcluster.q_compressor.numcodec import QctCodec

    numcodecs.register_codec(QctCodec)
    codec = numcodecs.get_codec({"id": "qct", "effort": "fast"})
    for dtype in ("f4", "f8", "i2", "?"):
        for order in "CF":
            x = np.asarray(np.arange(60).reshape(5, 12) % 7, dtype=dtype, order=order)
            blob = codec.encode(x)
            assert np.array_equal(codec.decode(blob), x)
            out = np.empty((5, 12), dtype)
            codec.decode(blob, out=out)
            assert np.array_equal(out, x)
    again = numcodecs.get_codec(codec.get_config())
    assert again == codec
    assert codec.decode(codec.encode(b"some bytes")).tobytes() == b"some bytes"
    lossy = QctCodec(mode="max_abs", value=0.5)
    x = np.random.default_rng(0).normal(size=100)
    assert np.abs(lossy.decode(lossy.encode(x)) - x).max() <= 0.5


def trained(tmp_path: Path, hook: str) -> list[dict[str, Any]]:
    file = tmp_path / f"meet-{hook}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, str(WORKER), str(r), "2", str(file), hook],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        for r in range(2)
    ]  # fmt: skip
    out = []
    for rank in ranks:
        try:
            text, _ = rank.communicate(timeout=120)
        finally:
            rank.kill()
        assert rank.returncode == 0
        out.append(json.loads(text.decode().strip().splitlines()[-1]))
    return out


def test_training_with_coded_gradients_ends_as_well(tmp_path: Path) -> None:
    plain = trained(tmp_path, "plain")
    coded = trained(tmp_path, "coded")
    assert coded[0]["sum"] == coded[1]["sum"]  # all ranks stay alike
    assert coded[0]["loss"] < 1.1 * plain[0]["loss"]
    assert coded[0]["sent"] < coded[0]["plain"] / 4


X = np.random.default_rng(1).normal(size=(20, 30)).astype(np.float32)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
def test_files_come_back_over_the_command_line(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, blob, back = (tmp_path / n for n in (f"a{ending}", "a.qct", f"b{ending}"))
    write_tensors(source, {"" if ending == ".npy" else "x": X})
    assert main(["compress", str(source), "-o", str(blob), "--side-file"]) == 0
    assert main(["inspect", str(blob)]) == 0
    assert "F32" in capsys.readouterr().out
    assert main(["decompress", str(blob), "-o", str(back), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(back)
    [(_, y)] = read_tensors(back)
    assert np.array_equal(X, y)


def test_torch_files_load_by_weights_only(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(3).bfloat16(), "inner": {"b": torch.zeros(2)}, "lr": 0.1}, path)
    found = dict(read_tensors(path))
    assert sorted(found) == ["a", "inner.b", "lr"]
    torch.save({"a": Path("x")}, path)
    with pytest.raises(FormatError, match="weights-only") as refused:
        list(read_tensors(path))
    assert str(refused.value).isprintable()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoints_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.distributed.checkpoint import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    save({"w": torch.arange(12.0).reshape(3, 4)}, storage_writer=FileSystemWriter(tmp_path / "c"),
         no_dist=True)  # fmt: skip
    [(name, w)] = read_tensors(tmp_path / "c")
    assert name == "w"
    assert torch.equal(w, torch.arange(12.0).reshape(3, 4))


def test_deltas_over_the_command_line(tmp_path: Path) -> None:
    old, new = tmp_path / "old.npy", tmp_path / "new.npy"
    np.save(old, X)
    np.save(new, X + np.float32(1e-7))
    blob, back = str(tmp_path / "d.qct"), str(tmp_path / "back.npy")
    assert main(["compress", str(new), "-o", blob, "--parent", str(old)]) == 0
    assert main(["decompress", blob, "-o", back, "--parent", str(old)]) == 0
    assert np.array_equal(np.load(back), np.load(new))
    assert main(["decompress", blob, "-o", back, "--parent", str(new)]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "{missing}.npy", "-o", "{out}"],
        ["compress", "{text}", "-o", "{out}"],
        ["compress", "{npy}", "-o", "{out}", "--mode", "best"],
        ["compress", "{npy}", "-o", "{out}", "--mode", "max_abs"],
        ["compress", "{npy}", "-o", "{out}", "--states", "9"],
        ["compress", "{npy}", "-o", "{folder}/no/where"],
        ["decompress", "{npy}", "-o", "{out}.npy"],
        ["decompress", "{blob}", "-o", "{out}.csv"],
        ["decompress", "{blob}", "-o", "{out}.npy", "--max-output-bytes", "10"],
        ["inspect", "{text}"],
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY garbage")
    assert main(["compress", str(tmp_path / "x.npy"), "-o", str(tmp_path / "x.qct")]) == 0
    capsys.readouterr()
    places = {"missing": tmp_path / "none", "text": tmp_path / "a.txt", "npy": tmp_path / "x.npy",
              "out": tmp_path / "o", "folder": tmp_path, "blob": tmp_path / "x.qct"}  # fmt: skip
    assert main([a.format(**places) for a in arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_side_file_of_another_blob_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    blob = tmp_path / "x.qct"
    assert main(["compress", str(tmp_path / "x.npy"), "-o", str(blob)]) == 0
    Path(f"{blob}.json").write_text(json.dumps({"blake3": "00"}))
    assert main(["decompress", str(blob), "-o", str(tmp_path / "y.npy")]) == 2
    Path(f"{blob}.json").write_text("[]")
    assert main(["decompress", str(blob), "-o", str(tmp_path / "y.npy")]) == 2


@pytest.mark.parametrize("raw", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", bytes(100)])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".pt"])
def test_broken_files_are_refused_by_name(raw: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"broken{ending}"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="broken"):
        list(read_tensors(path))


def test_bfloat16_goes_through_safetensors_only(tmp_path: Path) -> None:
    x = X.astype(ml_dtypes.bfloat16)
    write_tensors(tmp_path / "a.safetensors", {"x": x})
    [(_, y)] = read_tensors(tmp_path / "a.safetensors")
    assert y.dtype == x.dtype
    assert np.array_equal(x.view(np.uint16), y.view(np.uint16))
    with pytest.raises(FormatError, match="BF16"):
        write_tensors(tmp_path / "a.npz", {"x": x})
