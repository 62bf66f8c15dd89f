"""Text files of any origin: encodings and gzip by their first bytes, one named error each."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from qcluster.errors import FormatError
from qcluster.text_file import decoded, read_text

TEXT = "ts_s,node\n0,Zürich\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_text_is_the_same_however_it_was_written(
    tmp_path: Path, encoding: str, ends: str, packed: bool
) -> None:
    data = TEXT.replace("\n", ends).encode(encoding)
    path = tmp_path / "any.name"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert read_text(path) == TEXT
    assert read_text(str(path)) == TEXT


def test_an_empty_file_is_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert read_text(tmp_path / "a") == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff", "is not UTF-8 text"),
        (b"\xff\xfe\x00", "is not UTF-16 text"),
        (TEXT.encode("latin-1"), "is not UTF-8 text"),
        (gzip.compress(b"x" * 1000)[:-9], "is not a whole gzip file"),
        (gzip.compress(b"x" * 1000)[:12] + b"\xff" * 20, "is not a whole gzip file"),
        (gzip.compress(b"\xff\xff"), "is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_said_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(FormatError, match=rf"a\.csv: {message}") as caught:
        read_text(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FormatError, match=path.name):
            read_text(path)


def test_an_open_stream_is_read_as_it_comes_and_stays_open() -> None:
    raw = io.BufferedReader(io.BytesIO(b"one\ntwo\n\xff"))  # type: ignore[arg-type]
    with decoded(raw, "stdin") as text:
        text._CHUNK_SIZE = 4  # type: ignore[attr-defined]
        assert [text.readline(), text.readline()] == ["one\n", "two\n"]
    assert not raw.closed


def test_a_stream_that_turns_out_no_text_is_named() -> None:
    raw = io.BufferedReader(io.BytesIO(b"one\n\xff"))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="stdin: is not UTF-8"), decoded(raw, "stdin") as text:
        text.read()
