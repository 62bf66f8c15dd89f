"""The study host: ask and tell by name, on disk, the same after any end of its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.studies import StudyHost
from qcluster.errors import InputError, NotFound, Refused

SPACE: dict[str, Any] = {"x": {"type": "uniform", "low": 0, "high": 1}}


def rounds(host: StudyHost, name: str, n: int) -> list[float]:
    asked = []
    for _ in range(n):
        (trial,) = host.ask(name)
        asked.append(trial["config"]["x"])
        host.tell(name, trial["id"], (asked[-1] - 0.3) ** 2)
    return asked


def test_a_study_is_asked_and_told_by_name(tmp_path: Path) -> None:
    host = StudyHost(str(tmp_path))
    made = host.create("mine", SPACE, {"seed": 1})
    assert made["trials"] == 0
    rounds(host, "mine", 9)
    shown = host.show("mine")
    assert shown["statuses"] == {"ok": 9}
    assert shown["best"][0]["value"] < 0.01
    assert [t["number"] for t in host.history("mine")] == list(range(9))
    assert host.list() == ["mine"]
    host.close()


@pytest.mark.parametrize("at", [0, 3, 8])
def test_a_host_that_died_goes_on_with_the_same_suggestions(tmp_path: Path, at: int) -> None:
    whole = StudyHost(str(tmp_path / "a"))
    whole.create("s", SPACE, {"seed": 1})
    expected = rounds(whole, "s", 11)
    host = StudyHost(str(tmp_path / "b"))
    host.create("s", SPACE, {"seed": 1})
    first = rounds(host, "s", at)
    pending = host.ask("s")[0]
    host.close()  # the lock goes with the process; nothing else is written at the end
    again = StudyHost(str(tmp_path / "b"))
    assert again.show("s")["running"] == [pending]
    again.tell("s", pending["id"], (pending["config"]["x"] - 0.3) ** 2)
    assert [*first, pending["config"]["x"], *rounds(again, "s", 10 - at)] == expected


def test_requests_sent_again_change_nothing(tmp_path: Path) -> None:
    host = StudyHost(str(tmp_path))
    assert host.create("s", SPACE, {}) == host.create("s", SPACE, {})
    assert host.ask("s", 3, "r1") == host.ask("s", 3, "r1")
    trial = host.ask("s", 3, "r1")[0]["id"]
    assert host.tell("s", trial, 1.0) == host.tell("s", trial, 1.0)
    assert host.show("s")["trials"] == 3
    with pytest.raises(Refused):
        host.create("s", SPACE, {"seed": 2})


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    host = StudyHost(str(tmp_path), limit=1)
    for name in ("", "../up", "a/b", "x" * 65, ".hidden"):
        with pytest.raises(InputError):
            host.create(name, SPACE, {})
        with pytest.raises(NotFound):
            host.show(name)
    for options in ({"nope": 1}, {"seed": -1}, {"journal": "/tmp/x"}):
        with pytest.raises(InputError):
            host.create("s", SPACE, options)
    assert host.list() == []
    host.create("s", SPACE, {})
    with pytest.raises(Refused, match="1 studies"):
        host.create("t", SPACE, {})
    for n in (0, 257, True):
        with pytest.raises(InputError):
            host.ask("s", n)
    with pytest.raises(InputError):
        host.ask("s", 1, "bad id!")


def test_more_studies_than_may_be_open_are_asked_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each open study holds a file: those not used for long are closed, and opened again."""
    monkeypatch.setattr("actors.studies._MOST_OPEN", 2)
    host, whole = StudyHost(str(tmp_path / "a")), StudyHost(str(tmp_path / "b"))
    whole.create("s", SPACE, {"seed": 1})
    for name in "stuv":
        host.create(name, SPACE, {"seed": 1})
    asked: dict[str, list[float]] = {name: [] for name in "stuv"}
    for _ in range(8):
        for name in asked:
            asked[name] += rounds(host, name, 1)
    expected = rounds(whole, "s", 8)
    assert all(found == expected for found in asked.values())
