"""What holds for every verb: exit status, one-line errors, help with an example."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qcluster.cli import VERBS, main
from qcluster.cli.output import emit_json, emit_table, read_json, read_text, write_atomic
from qcluster.cli.state import default_state_dir, lock_state, running_server
from qcluster.errors import FormatError, InputError, Refused

ROOT = Path(__file__).resolve().parents[2]


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("start", [["-m", "qcluster"], ["qcluster/__main__.py"]])
def test_both_ways_of_starting_show_the_verbs(start: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *start, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    for verb in VERBS:
        assert f"  {verb} " in done.stdout


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "plans"])
def test_every_verb_has_help_with_an_example(capsys: Any, verb: str) -> None:
    status, out, _ = run(capsys, verb, "--help")
    assert status == 0
    text = " ".join(out.split())
    assert f"qcluster {verb}" in text.split("Example: ")[1]


@pytest.mark.parametrize("verb", ["list", "show", "explain", "diff", "apply", "restore"])
def test_every_plans_verb_has_help_with_an_example(capsys: Any, verb: str) -> None:
    status, out, _ = run(capsys, "plans", verb, "--help")
    assert status == 0
    assert f"Example: qcluster plans {verb}" in " ".join(out.split())


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["plans", "nonsense"], ["serve", "--nonsense"], ["doctor", "x"]]
)
def test_wrong_usage_exits_2_with_one_line(capsys: Any, arguments: list[str]) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("qcluster: ")


def test_version(capsys: Any) -> None:
    from qcluster import __version__

    assert run(capsys, "--version")[:2] == (0, f"qcluster {__version__}\n")


def test_json_has_no_nan(capsys: Any) -> None:
    emit_json({"a": float("nan"), "b": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1, 2]}


def test_tables_show_every_cell(capsys: Any) -> None:
    emit_table(("name", "value"), [("x", 1.23456789), ("y", "z")], "title")
    out = capsys.readouterr().out
    for part in ("title", "name", "1.23457", "z"):
        assert part in out


def test_text_files_in_two_encodings_and_stdin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("größe".encode(encoding))
        assert read_text(path) == "größe"
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    assert read_text("-") == "piped"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a":\n', "row 2"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff\xff\xff", "is not UTF-8 text"),
    ],
)
def test_bad_json_files_are_named(tmp_path: Path, content: bytes, wanted: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=wanted) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nothing\.json: No such file"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(FormatError, match="Is a directory"):
        read_text(tmp_path)


def test_written_files_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_atomic(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FormatError, match="No such file"):
        write_atomic(tmp_path / "no" / "plan.json", "text")


def test_the_state_directory_is_owned_by_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert running_server(state) is None
    with lock_state(state, {"url": "http://x"}):
        found = running_server(state)
        assert found is not None
        assert found["url"] == "http://x"
        with (
            pytest.raises(Refused, match="in use by the server at http://x"),
            lock_state(state, {"url": "http://y"}),
        ):
            pass
    assert running_server(state) is None


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/state"), lock_state(tmp_path / "file" / "state", {}):
        pass


def test_default_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCLUSTER_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/var/x")
    assert default_state_dir() == Path("/var/x/qcluster")
    monkeypatch.setenv("QCLUSTER_STATE_DIR", "/elsewhere")
    assert default_state_dir() == Path("/elsewhere")
