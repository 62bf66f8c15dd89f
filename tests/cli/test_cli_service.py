"""serve's checks before it starts anything, status, doctor, plans: without a server."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from actors.journal import Journal
from qcluster.cli import main
from qcluster.plan import Plan, SolverRef


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    journal = Journal(tmp_path)
    plans = []
    for planner, objective in (("routing", 1.5), ("energy", 2.5), ("routing", 1.25)):
        plan = Plan(
            planner=planner,
            config={},
            seed=0,
            solver=SolverRef(requested="qaoa", used="lpt", fallback_reason="qaoa: too large"),
            objective=objective,
            lower_bound=1.0,
            gap=0.2,
            created_at=time.time(),
        ).to_dict()
        journal.append(plan, "g")
        plans.append(plan)
    journal.close()
    return tmp_path, plans


def test_plans_list_newest_first(capsys: Any, stored: Any) -> None:
    state, plans = stored
    status, out, _ = run(capsys, "plans", "list", "--state-dir", str(state), "--json")
    assert status == 0
    listed = json.loads(out)["plans"]
    assert [p["plan_id"] for p in listed] == [p["plan_id"] for p in reversed(plans)]
    status, out, _ = run(capsys, "plans", "list", "--state-dir", str(state), "--planner", "energy")
    assert plans[1]["plan_id"] in out
    assert plans[0]["plan_id"] not in out


def test_plans_show_and_explain(capsys: Any, stored: Any) -> None:
    state, plans = stored
    where = ("--state-dir", str(state))
    status, out, _ = run(capsys, "plans", "show", plans[0]["plan_id"], *where)
    assert json.loads(out) == plans[0]
    status, out, _ = run(capsys, "plans", "show", "latest:routing", *where)
    assert json.loads(out) == plans[2]
    status, out, _ = run(capsys, "plans", "explain", "latest:energy", *where)
    assert status == 0
    assert "qaoa: too large" in out
    status, out, _ = run(capsys, "plans", "explain", "latest:energy", "--json", *where)
    assert json.loads(out)["plan_id"] == plans[1]["plan_id"]


def test_plans_diff(capsys: Any, stored: Any) -> None:
    state, plans = stored
    where = ("--state-dir", str(state))
    status, out, _ = run(capsys, "plans", "diff", "latest:routing", "--json", *where)
    found = json.loads(out)
    assert (status, found["against"], found["improved"]) == (0, plans[0]["plan_id"], True)
    status, out, _ = run(capsys, "plans", "diff", plans[0]["plan_id"], plans[2]["plan_id"], *where)
    assert "objective: 1.25 -> 1.5 (+0.25)" in out
    status, _, err = run(capsys, "plans", "diff", plans[0]["plan_id"], *where)
    assert status == 1
    assert "no plan before" in err


def test_plans_that_are_not_there(capsys: Any, stored: Any, tmp_path: Path) -> None:
    state, _ = stored
    for arguments in (
        ("plans", "show", "nope", "--state-dir", str(state)),
        ("plans", "show", "latest:nvlink", "--state-dir", str(state)),
        ("plans", "list", "--state-dir", str(tmp_path / "empty")),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (1, "")
        assert "no " in err
        assert len(err.splitlines()) == 1


def test_status_without_a_server(capsys: Any, tmp_path: Path) -> None:
    status, _, err = run(capsys, "status", "--state-dir", str(tmp_path))
    assert status == 1
    assert "no server runs" in err
    status, _, err = run(capsys, "status", "--url", "http://127.0.0.1:9")
    assert status == 1
    assert "no answer from http://127.0.0.1:9" in err


def test_doctor_lists_what_is_there(capsys: Any, tmp_path: Path) -> None:
    status, out, _ = run(capsys, "doctor", "--json", "--state-dir", str(tmp_path / "new"))
    assert status == 0
    findings = {f["what"]: f for f in json.loads(out)["findings"]}
    assert findings["ray"]["ok"]
    assert findings["state directory"]["ok"]
    assert "GPUs" in findings
    status, out, _ = run(capsys, "doctor")
    assert "without it" in out


def test_serve_refuses_before_it_starts_anything(capsys: Any, tmp_path: Path) -> None:
    readable = tmp_path / "token"
    readable.write_text("a-token-that-everybody-can-read")
    readable.chmod(0o644)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases: list[tuple[tuple[str, ...], int, str]] = [
            (("--port", port), 2, "Address already in use"),
            (("--host", "0.0.0.0"), 1, "needs a token"),
            (("--host", "0.0.0.0", "--token-file", str(readable)), 2, "chmod 600"),
            (("--telemetry", "nonsense"), 1, "no telemetry source called 'nonsense'"),
            (("--telemetry", f"replay:{tmp_path}/no.csv"), 2, "no.csv"),
            (("--port", "0"), 2, "--port"),
        ]
        for arguments, wanted, text in cases:
            status, _, err = run(capsys, "serve", *arguments, "--state-dir", str(tmp_path / "s"))
            assert status == wanted, err
            assert text in err
            assert "Traceback" not in err


def test_recommend_names_its_choices(capsys: Any) -> None:
    status, _, err = run(capsys, "recommend", "nothing")
    assert status == 2
    assert "routing, energy, nvlink" in err
