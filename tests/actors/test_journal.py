from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.journal import Journal
from qcluster.errors import NotFound, NotReady
from qcluster.plan import Plan, SolverRef

ROOT = Path(__file__).resolve().parents[2]


def plan(planner: str = "routing", **more: Any) -> dict[str, Any]:
    made = Plan(
        planner=planner,
        config={},
        seed=0,
        solver=SolverRef(requested="a", used="a"),
        objective=1.0,
        **more,
    )
    return made.to_dict()


def test_what_is_appended_comes_back_after_reopening(tmp_path: Path) -> None:
    first = plan()
    journal = Journal(tmp_path)
    assert journal.append(first, "g") == 1
    journal.close()
    again = Journal(tmp_path)
    assert again.newest("routing") == first
    assert again.get(first["plan_id"]) == first
    assert (again.count(), again.last_seq()) == (1, 1)


def test_the_same_plan_twice_is_one_plan(tmp_path: Path) -> None:
    journal, first = Journal(tmp_path), plan()
    assert journal.append(first, "g") == journal.append(first, "g")
    assert journal.count() == 1


def test_newest_is_by_planner_and_by_gpus(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    old, new, other = plan(), plan(), plan("energy")
    for item, gpus in ((old, "72"), (new, "71"), (other, "72")):
        journal.append(item, gpus)
    assert journal.newest("routing") == new
    assert journal.newest("routing", gpus="72") == old
    assert journal.newest("routing", gpus="none") is None
    assert [p["plan_id"] for p in journal.history(None, 10)] == [
        p["plan_id"] for p in (other, new, old)
    ]
    assert [p["planner"] for p in journal.history("energy", 10)] == ["energy"]
    assert len(journal.history(None, 2)) == 2


def test_unknown_plans_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no plan 'x'"):
        Journal(tmp_path).get("x")


def test_memory_is_bounded_by_planner(tmp_path: Path) -> None:
    journal = Journal(tmp_path, keep=3)
    journal.append(plan("energy"), "g")
    kept = [plan() for _ in range(7)]
    for item in kept:
        journal.append(item, "g")
    assert journal.count() == 4
    assert [p["plan_id"] for p in journal.history("routing", 10)] == [
        p["plan_id"] for p in reversed(kept[-3:])
    ]
    assert journal.last_seq() == 8


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "plans.sqlite").write_bytes(b"no database at all, but long enough to be one")
    with pytest.raises(NotReady, match=r"plans\.sqlite"):
        Journal(tmp_path)


def test_acknowledged_plans_survive_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from actors.journal import Journal\n"
        "from tests_plan import plan\n"
        "j = Journal(Path(sys.argv[1]))\n"
        "while True:\n"
        "    p = plan(); j.append(p, 'g'); print(p['plan_id'], flush=True)\n"
    )
    (tmp_path / "tests_plan.py").write_text(
        "from qcluster.plan import Plan, SolverRef\n"
        "def plan():\n"
        "    return Plan(planner='routing', config={}, seed=0, objective=1.0,\n"
        "                solver=SolverRef(requested='a', used='a')).to_dict()\n"
    )
    state = tmp_path / "state"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(state)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""},
    )
    assert process.stdout is not None
    with process:
        acknowledged = [process.stdout.readline().strip() for _ in range(50)]
        process.kill()
        # Lines that were still in the pipe were acknowledged too; the last may be cut short.
        rest = process.stdout.read().splitlines()
        acknowledged += [line for line in rest if len(line) == len(acknowledged[0])]
    journal = Journal(state)
    stored = {p["plan_id"] for p in journal.history(None, 1000)}
    assert set(acknowledged) <= stored
    with sqlite3.connect(state / "plans.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
