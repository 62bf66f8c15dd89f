from __future__ import annotations

from pathlib import Path

import pytest

from actors.answers import AnswerBook
from qcluster.errors import Refused

JSON = "application/json"


def test_the_first_answer_counts(tmp_path: Path) -> None:
    book = AnswerBook(tmp_path)
    assert book.find("k", "q") is None
    assert book.keep("k", "q", (200, JSON, b"first")) == (200, JSON, b"first")
    assert book.keep("k", "q", (200, JSON, b"second")) == (200, JSON, b"first")
    assert book.find("k", "q") == (200, JSON, b"first")


def test_another_question_under_the_same_key_is_refused(tmp_path: Path) -> None:
    book = AnswerBook(tmp_path)
    book.keep("k", "q", (200, JSON, b"x"))
    with pytest.raises(Refused, match="another request"):
        book.find("k", "other")
    with pytest.raises(Refused):
        book.keep("k", "other", (200, JSON, b"y"))


def test_answers_survive_a_restart(tmp_path: Path) -> None:
    AnswerBook(tmp_path).keep("k", "q", (201, JSON, b"x" * 1000))
    assert AnswerBook(tmp_path).find("k", "q") == (201, JSON, b"x" * 1000)


def test_it_is_bounded_by_number(tmp_path: Path) -> None:
    book = AnswerBook(tmp_path, keep=3)
    for i in range(10):
        book.keep(f"k{i}", "q", (200, JSON, b"x"))
    assert [i for i in range(10) if book.find(f"k{i}", "q")] == [7, 8, 9]


def test_it_is_bounded_by_bytes(tmp_path: Path) -> None:
    import os

    book = AnswerBook(tmp_path, keep_bytes=2500)
    for i in range(5):
        book.keep(f"k{i}", "q", (200, JSON, os.urandom(1000)))
    assert [i for i in range(5) if book.find(f"k{i}", "q")] == [3, 4]
    book.keep("big", "q", (200, JSON, os.urandom(9000)))
    assert book.find("big", "q") is not None  # the newest stays, whatever its size


def test_old_answers_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    book = AnswerBook(tmp_path, keep_s=100)
    book.keep("old", "q", (200, JSON, b"x"))
    later = time.time() + 200
    monkeypatch.setattr("actors.answers.time.time", lambda: later)
    book.keep("new", "q", (200, JSON, b"x"))
    assert book.find("old", "q") is None
    assert book.find("new", "q") is not None
