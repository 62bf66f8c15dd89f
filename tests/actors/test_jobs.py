"""The job desk: order, progress, cancelling a stuck solver, taking up again after its death."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.jobs import JobDesk
from qcluster.errors import NotFound

QUESTIONS = "tests.actors.fake_questions:answer"
Make = Callable[..., JobDesk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[JobDesk] = []

    def desk(**options: Any) -> JobDesk:
        made.append(
            JobDesk(str(tmp_path), answer=QUESTIONS, warm_up=("builtins:bool", ()), **options)
        )
        return made[-1]

    yield desk
    for one in made:
        one.close()


def ended(desk: JobDesk, job_id: str, timeout_s: float = 90.0) -> dict[str, Any]:
    return until(
        lambda: (j := desk.show(job_id))["state"] not in ("queued", "running") and j, timeout_s
    )


def until(condition: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    ends = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come to pass"
        time.sleep(0.01)
    return found


def test_a_job_answers_each_question_for_itself(make: Make) -> None:
    desk = make()
    taken = desk.submit(
        "j", [("a", {"x": 1}, 5.0), ("bad", {}, 5.0), ("dies", {}, 5.0), ("b", {}, 5.0)]
    )
    assert taken is not None
    assert taken["state"] in ("queued", "running")
    assert "answers" not in taken
    job = ended(desk, "j")
    assert job["state"] == "done"
    assert job["progress"]["done"] == job["progress"]["total"] == 4
    first, bad, died, last = job["answers"]
    assert first == {"result": {"kind": "a", "x": 1}}
    assert bad["error"]["field"] == "x"
    assert "died" in died["error"]["detail"]
    assert last == {"result": {"kind": "b"}}


def test_submitting_again_changes_nothing(make: Make) -> None:
    desk = make()
    desk.submit("j", [("a", {}, 5.0)])
    done = ended(desk, "j")
    again = desk.submit("j", [("other", {}, 5.0)])
    assert again is not None
    assert again["state"] == "done"
    assert desk.show("j") == done
    assert [j["id"] for j in desk.list()] == ["j"]


def dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_cancel_kills_the_stuck_process(make: Make, tmp_path: Path) -> None:
    desk, pid_file = make(), tmp_path / "pid"
    desk.submit("j", [("stuck", {"pid_file": str(pid_file)}, 100.0), ("a", {}, 5.0)])
    desk.submit("next", [("a", {}, 5.0)])
    pid = int(until(lambda: pid_file.exists() and pid_file.read_text()))
    assert desk.show("j")["state"] == "running"
    assert desk.cancel("j")["state"] == "cancelled"
    until(lambda: dead(pid))
    assert ended(desk, "next")["state"] == "done"
    first = desk.cancel("next")
    assert first["state"] == "done"
    for gone in ("j", "next"):
        with pytest.raises(NotFound, match=f"no job '{gone}'"):
            desk.show(gone)
    assert desk.list() == []
    # Asked again, because the first answer was lost: the same, and still gone.
    assert desk.cancel("next") == first
    assert desk.cancel("j")["state"] == "cancelled"
    assert desk.list() == []
    with pytest.raises(NotFound, match="no job 'never'"):
        desk.cancel("never")


def test_a_queued_job_is_cancelled_before_it_starts(make: Make, tmp_path: Path) -> None:
    desk, pid_file = make(), tmp_path / "pid"
    desk.submit("first", [("stuck", {"pid_file": str(pid_file)}, 100.0)])
    desk.submit("second", [("a", {}, 5.0)])
    assert desk.cancel("second")["state"] == "cancelled"
    assert desk.cancel("first")["state"] == "cancelled"
    desk.submit("third", [("a", {}, 5.0)])
    assert ended(desk, "third")["state"] == "done"
    again = desk.submit("second", [("a", {}, 5.0)])
    assert again is not None
    assert (again["state"], again["started_at"]) == ("cancelled", None)


def test_a_question_that_is_stuck_ends_at_its_budget(make: Make, tmp_path: Path) -> None:
    desk = make()
    desk.submit("j", [("stuck", {"pid_file": str(tmp_path / "pid")}, 0.3), ("a", {}, 5.0)])
    job = ended(desk, "j")
    assert "killed" in job["answers"][0]["error"]["detail"]
    assert "result" in job["answers"][1]


def test_a_desk_that_died_takes_its_jobs_up_again(make: Make, tmp_path: Path) -> None:
    desk, pid_file = make(), tmp_path / "pid"
    questions = [("a", {}, 5.0), ("stuck", {"pid_file": str(pid_file)}, 1.0), ("b", {}, 5.0)]
    desk.submit("j", questions)
    until(lambda: desk.show("j")["progress"]["done"] >= 1)
    desk.close()
    job = ended(make(), "j")
    assert job["state"] == "done"
    assert job["progress"]["done"] == 3


def test_a_job_that_takes_the_desk_down_is_given_up(make: Make, tmp_path: Path) -> None:
    make().close()
    db = sqlite3.connect(tmp_path / "jobs.sqlite")
    db.execute(
        "INSERT INTO jobs (id, state, created_at, starts, total, questions)"
        " VALUES ('j', 'running', 1.0, 3, 1, '[]')"
    )
    db.commit()
    db.close()
    job = ended(make(), "j")
    assert job["state"] == "failed"
    assert "died 3 times" in job["reason"]


def test_queue_and_memory_are_bounded(make: Make, tmp_path: Path) -> None:
    desk = make(queue_limit=2, keep=2)
    stuck = [("stuck", {"pid_file": str(tmp_path / "pid")}, 100.0)]
    desk.submit("stuck", stuck)
    until(lambda: desk.show("stuck")["state"] == "running")
    assert desk.submit("a", [("a", {}, 5.0)])
    assert desk.submit("b", [("a", {}, 5.0)])
    assert desk.submit("c", [("a", {}, 5.0)]) is None
    desk.cancel("stuck")
    ended(desk, "b")
    assert desk.submit("d", [("a", {}, 5.0)])
    ended(desk, "d")
    until(lambda: [j["id"] for j in desk.list()] == ["d", "b"])
    with pytest.raises(NotFound, match="no job 'stuck'"):
        desk.show("stuck")
