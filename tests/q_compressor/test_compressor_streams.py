"""Streams and rows: the same bytes as in one go, bounded memory, hostile files."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcluster.codec import container
from qcluster.codec.container import DIGEST, digest, parse, read_chunks
from qcluster.codec.errors import QctCorruptError, QctFormatError, QctLimitError
from qcluster.codec.files import map_tensors, read_tensors, write_tensors
from qcluster.errors import FormatError, InputError, NotFound
from qcluster.q_compressor import compress, compress_state_dict, compress_stream
from qcluster.q_decompressor import (
    decompress,
    decompress_rows,
    decompress_stream,
    inspect,
    open_blob,
)

LIMIT = 1 << 28
KINDS = [np.dtype(t) for t in (np.float32, np.float64, np.int16, np.bool_, np.complex64,
                               ml_dtypes.bfloat16)]  # fmt: skip


def matrix(kind: Any = np.float32, rows: int = 300, columns: int = 4096) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, columns)).astype(kind)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("shape", [(300, 2048), (7,), (), (0, 4), (2, 0)])
def test_files_go_through_and_come_back(kind: Any, shape: Any, tmp_path: Path) -> None:
    x = np.asarray(matrix()[:300, :2048], order="C").reshape(-1)[: int(np.prod(shape))]
    x = x.reshape(shape).astype(kind)
    source, blob, back = (tmp_path / n for n in ("a.safetensors", "a.qct", "b.safetensors"))
    write_tensors(source, {"x": x})
    size = compress_stream(source, blob)
    assert size == blob.stat().st_size
    assert decompress_stream(blob, back, max_output_bytes=LIMIT) == ["x"]
    [(name, y)] = read_tensors(back)
    assert (name, y.dtype, y.shape) == ("x", x.dtype, x.shape)
    assert y.tobytes() == x.tobytes()
    whole = decompress(blob.read_bytes(), max_output_bytes=LIMIT)["x"]
    assert whole.tobytes() == x.tobytes()


def test_a_bound_holds_across_parts_with_one_step(tmp_path: Path) -> None:
    x = matrix(rows=400) + np.float32(9)
    x[3, 5], x[399, 7] = np.nan, -np.inf
    np.save(tmp_path / "a.npy", x)
    compress_stream(tmp_path / "a.npy", tmp_path / "a.qct", mode="max_abs", value=0.01)
    info = inspect((tmp_path / "a.qct").read_bytes()).tensors[0]
    assert info.guarantee == {"max_abs": 0.01}
    decompress_stream(tmp_path / "a.qct", tmp_path / "b.npy", max_output_bytes=LIMIT)
    y = np.load(tmp_path / "b.npy")
    finite = np.isfinite(x)
    assert np.abs(x[finite].astype(np.float64) - y[finite]).max() <= 0.01
    assert x[~finite].tobytes() == y[~finite].tobytes()
    assert (tmp_path / "a.qct").stat().st_size < 0.3 * x.nbytes


def test_several_tensors_of_several_types(tmp_path: Path) -> None:
    tensors = {"a": matrix(rows=20), "b": np.arange(7), "c": np.float64(3.5) * np.ones(()),
               "d": matrix(ml_dtypes.bfloat16, 5, 9)}  # fmt: skip
    seen: list[tuple[int, int, str]] = []
    compress_stream(tensors, tmp_path / "a.qct", progress=lambda *a: seen.append(a))
    assert seen == [(i + 1, 4, name) for i, name in enumerate(tensors)]
    found = decompress((tmp_path / "a.qct").read_bytes(), max_output_bytes=LIMIT)
    assert all(found[n].tobytes() == t.tobytes() for n, t in tensors.items())


def test_memory_is_a_few_chunks_whatever_the_size(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (1 << 13, 1 << 10))
    for first in range(0, 1 << 13, 512):
        x[first : first + 512] = matrix(rows=512, columns=1 << 10)
    x.flush()
    size = x.nbytes
    del x
    compress_stream({"w": matrix(rows=4)}, tmp_path / "warm.qct", config={"effort": "fast"})
    tracemalloc.start()
    try:
        compress_stream(tmp_path / "a.npy", tmp_path / "a.qct", config={"effort": "fast"})
        packing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        decompress_stream(tmp_path / "a.qct", tmp_path / "b.npy", max_output_bytes=LIMIT)
        unpacking = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 32 << 20
    assert packing < size / 1.5
    assert unpacking < size / 1.5
    assert np.array_equal(np.load(tmp_path / "a.npy", "r"), np.load(tmp_path / "b.npy", "r"))


@pytest.mark.parametrize("rows", [(0, 1), (0, 300), (127, 129), (299, 300), (5, 5), (-2, 300)])
def test_rows_are_those_of_the_whole(rows: tuple[int, int]) -> None:
    x = matrix()
    blob = compress_state_dict({"x": x, "twin": x, "y": np.arange(12).reshape(3, 4)})
    part = decompress_rows(blob, *rows, max_output_bytes=x.nbytes, name="twin")
    assert np.array_equal(part, x[slice(*rows)])
    assert np.array_equal(decompress_rows(blob, 1, 9, max_output_bytes=99, name="y"),
                          np.arange(12).reshape(3, 4)[1:])  # fmt: skip


@pytest.mark.parametrize(
    "how", [{"mode": "max_abs", "value": 0.1}, {"mode": "rel_l2", "value": 0.1}, {"mode": "int8"}]
)
def test_rows_of_lossy_tensors(how: dict[str, Any]) -> None:
    x = matrix()
    blob = compress(x, **how, config={"effort": "fast", "transform": "none"})
    whole = decompress(blob, max_output_bytes=LIMIT)
    part = decompress_rows(blob, 100, 260, max_output_bytes=LIMIT)
    assert np.array_equal(part, whole[100:260])


def test_rows_of_a_delta_and_as_torch() -> None:
    torch = pytest.importorskip("torch")
    x = matrix()
    new = x.copy()
    new[200] += 1
    blob = compress(new, parent=x)
    part = decompress_rows(blob, 199, 202, max_output_bytes=LIMIT, parent=x, framework="torch")
    assert torch.equal(part, torch.from_numpy(new[199:202]))


def test_only_the_chunks_that_hold_the_rows_are_read(tmp_path: Path) -> None:
    x = matrix()
    blob = bytearray(compress(x))
    entries, payload = parse(bytes(blob))
    chunks = list(read_chunks(entries[0], payload))
    assert len(chunks) > 2
    # A bit of the last chunk: rows before it do not notice, rows in it are refused.
    blob[-9] ^= 1
    assert np.array_equal(decompress_rows(bytes(blob), 0, 9, max_output_bytes=LIMIT), x[:9])
    with pytest.raises(QctCorruptError):
        decompress_rows(bytes(blob), 298, 300, max_output_bytes=LIMIT)
    (tmp_path / "a.qct").write_bytes(bytes(blob))
    with open_blob(tmp_path / "a.qct") as mapped:
        assert np.array_equal(decompress_rows(mapped, 3, 4, max_output_bytes=LIMIT), x[3:4])


def test_rows_that_cannot_be_are_named() -> None:
    blob = compress(matrix(rows=3))
    with pytest.raises(QctLimitError):
        decompress_rows(blob, 0, 3, max_output_bytes=100)
    with pytest.raises(NotFound):
        decompress_rows(blob, 0, 1, max_output_bytes=LIMIT, name="other")
    with pytest.raises(InputError, match="rows"):
        decompress_rows(compress(np.float32(1)), 0, 1, max_output_bytes=LIMIT)
    with pytest.raises(InputError, match="whole"):
        decompress_rows(blob, 0, True, max_output_bytes=LIMIT)
    with pytest.raises(InputError, match="framework"):
        decompress_rows(blob, 0, 1, max_output_bytes=LIMIT, framework="jax")


@pytest.mark.parametrize("mode", ["rel_l2", "bits", "point_rel", "int8", "other"])
def test_modes_that_want_the_whole_are_refused_by_name(mode: str, tmp_path: Path) -> None:
    value = None if mode == "int8" else 0.5
    with pytest.raises(InputError, match=mode):
        compress_stream({"x": matrix(rows=2)}, tmp_path / "a.qct", mode=mode, value=value)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tensor_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="x"):
        compress_stream({"x": np.array(["a"])}, tmp_path / "a.qct")
    with pytest.raises(FormatError, match="parts"):
        compress_stream(tmp_path / "a.npz", tmp_path / "a.qct")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\1\0nothing")
    with pytest.raises(FormatError, match=r"bad\.npy"):
        compress_stream(tmp_path / "bad.npy", tmp_path / "a.qct")
    assert not (tmp_path / "a.qct").exists()


def test_maps_are_what_files_hold(tmp_path: Path) -> None:
    tensors = {"a": matrix(rows=3), "b": np.zeros((0, 2)), "c": np.array(7)}
    write_tensors(tmp_path / "a.safetensors", tensors)
    for (name, x), (other, y) in zip(map_tensors(tmp_path / "a.safetensors"), tensors.items(),
                                     strict=True):  # fmt: skip
        assert (name, x.dtype, x.shape) == (other, y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()


def mutations(good: bytes) -> list[bytes]:
    """Files that must be refused: cut, lengthened, flipped, with another chunk table or header."""
    rng = np.random.default_rng(0)
    out = [good[: int(at)] for at in rng.integers(0, len(good), 40)]
    out.append(good + b"\0")
    for _ in range(120):
        bad = bytearray(good)
        bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        out.append(bytes(bad))
    (length,) = struct.unpack_from("<Q", good)
    text = good[8 : 8 + length].replace(b'"shape":[40,', b'"shape":[41,')
    head = struct.pack("<Q", len(text)) + text
    out.append(head + digest(head) + good[8 + length + DIGEST :])
    return out


@pytest.mark.parametrize("how", [{}, {"mode": "max_abs", "value": 0.1}])
def test_hostile_files_leave_nothing_behind(how: dict[str, Any], tmp_path: Path) -> None:
    x = matrix(rows=40, columns=128)
    compress_stream({"x": x}, tmp_path / "a.qct", **how)
    good = (tmp_path / "a.qct").read_bytes()
    out = tmp_path / "b.npy"
    for bad in mutations(good):
        (tmp_path / "bad.qct").write_bytes(bad)
        with pytest.raises(FormatError):
            decompress_stream(tmp_path / "bad.qct", out, max_output_bytes=1 << 20)
        assert not out.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"a.qct", "bad.qct"}


def test_streams_refuse_what_they_cannot_write(tmp_path: Path) -> None:
    compress_stream({"x": matrix(ml_dtypes.bfloat16, 2, 3), "y": np.ones(2)}, tmp_path / "a.qct")
    with pytest.raises(FormatError, match="one tensor"):
        decompress_stream(tmp_path / "a.qct", tmp_path / "b.npy", max_output_bytes=LIMIT)
    with pytest.raises(FormatError, match="ending"):
        decompress_stream(tmp_path / "a.qct", tmp_path / "b.txt", max_output_bytes=LIMIT)
    compress_stream({"x": matrix(ml_dtypes.bfloat16, 2, 3)}, tmp_path / "c.qct")
    with pytest.raises(FormatError, match="BF16"):
        decompress_stream(tmp_path / "c.qct", tmp_path / "b.npy", max_output_bytes=LIMIT)
    with pytest.raises(QctLimitError):
        decompress_stream(tmp_path / "c.qct", tmp_path / "b.safetensors", max_output_bytes=11)
    for path in (tmp_path / "none.qct", tmp_path):
        with pytest.raises(FormatError):
            decompress_stream(path, tmp_path / "b.safetensors", max_output_bytes=LIMIT)
    (tmp_path / "empty.qct").write_bytes(b"")
    with pytest.raises(FormatError, match=r"empty\.qct"):
        decompress_stream(tmp_path / "empty.qct", tmp_path / "b.safetensors", max_output_bytes=9)


def test_heads_have_room_for_the_largest_ranges() -> None:
    entry = container.parse(compress(matrix(rows=1)))[0][0]
    room = container.head_room([entry], 80)
    from dataclasses import replace

    wide = replace(entry, start=10**18, stop=10**18, ops=(("uniform", {"step": 1 / 3,
                   "center": -1e-301 / 3, "predict": 3}),))  # fmt: skip
    assert len(container.build_head([wide], room)) == room


def test_parents_of_earlier_blobs_are_read_too() -> None:
    x = matrix(rows=4)
    blob = compress(x, parent=x)
    (length,) = struct.unpack_from("<Q", blob)
    short = parse(blob)[0][0].parent
    assert short is not None
    text = blob[8 : 8 + length]
    start = text.index(b'"parent":"') + 10
    assert text[start + 22 : start + 23] == b'"'
    long = text[:start] + short.encode() + text[start + 22 :]
    head = struct.pack("<Q", len(long)) + long
    old = head + digest(head) + blob[8 + length + DIGEST :]
    assert parse(old)[0][0].parent == short
    assert np.array_equal(decompress(old, max_output_bytes=LIMIT, parent=x), x)
    with pytest.raises(QctFormatError):
        decompress(old, max_output_bytes=LIMIT, parent=x + 1)


def test_streams_over_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from qcluster.cli import main

    x = matrix(rows=30)
    np.save(tmp_path / "a.npy", x)
    a, blob, b = (str(tmp_path / n) for n in ("a.npy", "a.qct", "b.npy"))
    assert main(["compress", a, "-o", blob, "--stream", "--effort", "fast", "--json"]) == 0
    assert '"lossless"' in capsys.readouterr().out
    assert main(["inspect", blob]) == 0
    assert main(["decompress", blob, "-o", b, "--stream"]) == 0
    assert np.array_equal(np.load(b), x)
    for wrong in (["compress", a, "-o", blob, "--stream", "--mode", "bits", "--value", "2"],
                  ["compress", a, "-o", blob, "--stream", "--side-file"],
                  ["decompress", blob, "-o", b, "--stream", "--qsvt"]):  # fmt: skip
        assert main(wrong) == 2
        assert "qcluster: field" in capsys.readouterr().err
