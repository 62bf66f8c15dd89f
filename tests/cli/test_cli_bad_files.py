"""Every verb that reads a file, fed files that are wrong: status 2, one line, the file named."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.cli import main


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


EVIL: dict[str, bytes] = {
    "empty.json": b"",
    "empty.csv": b"",
    "space.txt": b" \n\n ",
    "null.json": b"null",
    "number.json": b"7",
    "list.json": b"[]",
    "cut.json": b'{"nodes": [{"id": 1}, {"id"',
    "nan.json": b'{"h": [NaN], "nodes": [], "load": [[NaN]]}',
    "huge.json": b'{"h": [1e400], "load": [[1e400, 1]]}',
    "deep.json": b"[" * 200_000,
    "deep_object.json": b'{"a":' * 200_000,
    "binary.bin": bytes(range(256)) * 16,
    "pickle.npz": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07pickled\x94.",
    "not_a_zip.npz": b"PK\x03\x04 but then nothing that a zip has",
    "not_gzip.csv.gz": b"no gzip",
    "cut.csv.gz": gzip.compress(b"node,run,time_ms,power_w\n" * 1000)[:40],
    "header_only.csv": b"node,run,time_ms,power_w\n",
    "ragged.csv": b"1,2,3\n4,5\n",
    "words.csv": b"a,b\nc,d\n",
    "nan.csv": b"1,2\nnan,4\n",
    "negative.csv": b"1,2\n-3,4\n",
    "text.txt": b"the quick brown fox",
    "surrogate.json": b'{"\\ud800": 1}',
    "strings.npz": npz(load=np.array(["a", "b"])),
    "empty.npz": npz(),
    "one_dimension.npz": npz(load=np.arange(4.0)),
    "nan.npz": npz(load=np.array([[1.0, np.nan]])),
    "unknown.yaml": b"nodes: 3\nbogus: [1]\n",
    "utf16_garbage.txt": b"\xff\xfe\x00\xd8",
}

VERBS: dict[str, list[str]] = {
    "place": ["place", "{}", "--gpus", "4", "--slots", "8"],
    "route": ["route", "{}", "--graph", "{graph}"],
    "route-graph": ["route", "{tokens}", "--graph", "{}"],
    "energy": ["energy", "{}"],
    "energy-topology": ["energy", "{power}", "--topology", "{}"],
    "energy-jobs": ["energy", "{power}", "--jobs", "{}"],
    "nvlink": ["nvlink", "{}"],
    "nvlink-jobs": ["nvlink", "{fabric}", "--jobs", "{}"],
    "solve": ["solve", "{}"],
    "serve-config": ["serve", "--config", "{}"],
}

GOOD: dict[str, str] = {
    "graph.json": '{"nodes": [{"id": 0, "capacity": 4}, {"id": 1, "capacity": 4}], "edges": []}',
    "tokens.json": '[{"id": "a"}, {"id": "b"}]',
    "power.csv": "node,run,time_ms,power_w\n"
    + "".join(f"n0,0,{1000 * t},{500 + t}\n" for t in range(8)),
    "fabric.json": '{"nodes": [{"id": "g0", "kind": "gpu"}, {"id": "g1", "kind": "gpu"}], '
    '"edges": [{"source": "g0", "target": "g1", "bandwidth": 50}]}',
}

# Files that are not wrong for a verb: an empty list of jobs is no job, plain CSV numbers are loads.
FINE = {("energy-jobs", "list.json"), ("nvlink-jobs", "list.json")}


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_not_there(verb: str, tmp_path: Path, capsys: Any) -> None:
    check(verb, tmp_path / "missing.json", tmp_path, capsys)
    check(verb, tmp_path, tmp_path, capsys)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_wrong(verb: str, name: str, tmp_path: Path, capsys: Any) -> None:
    if (verb, name) in FINE:
        pytest.skip("a valid file for this verb")
    path = tmp_path / name
    path.write_bytes(EVIL[name])
    check(verb, path, tmp_path, capsys)


def check(verb: str, path: Path, directory: Path, capsys: Any) -> None:
    places = {}
    for name, text in GOOD.items():
        (directory / name).write_text(text)
        places[name.split(".")[0]] = str(directory / name)
    arguments = [part.format(str(path), **places) for part in VERBS[verb]]
    status = main(arguments)
    out, err = capsys.readouterr()
    assert status == 2, f"{status}: {out[:500]} {err[:500]}"
    lines = err.strip().splitlines()
    assert lines[-1].startswith("qcluster: ")
    assert str(path) in lines[-1]
    assert "Traceback" not in err
    assert len(lines[-1]) < 500


def test_the_good_files_are_good(tmp_path: Path, capsys: Any) -> None:
    for name, text in GOOD.items():
        (tmp_path / name).write_text(text)
    at = str(tmp_path)
    for arguments in (
        ["route", f"{at}/tokens.json", "--graph", f"{at}/graph.json"],
        ["energy", f"{at}/power.csv"],
        ["nvlink", f"{at}/fabric.json"],
    ):
        assert main(arguments) == 0, capsys.readouterr().err
