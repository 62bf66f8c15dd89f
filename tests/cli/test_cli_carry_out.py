"""``plans apply`` and ``plans restore`` against an API on loopback, with agents of this test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import TOKEN, made_services, serving, stored_plan

from deployments.api import Services, create_api
from deployments.security import token_digest
from qcluster.cli import main

NODES = [{"id": "a", "caps_w": {"a/0": 500.0}}]
MEASURED = {"snapshot_hash": "x", "age_s": 0.5, "simulated": False}


class Agents:
    """One node that carries out what it is told here."""

    def __init__(self) -> None:
        self.carrying: str | None = None
        self.done: list[str] = []

    def health(self) -> dict[str, Any]:
        state = "nothing" if self.carrying is None else f"{self.carrying} is in force"
        return {"a": {"carrying": state, "plan_id": self.carrying}}

    def resume(self) -> None:
        self.done.append("resume")

    def undo(self, plan_id: str, *, dry_run: bool) -> dict[str, Any]:
        if plan_id != self.carrying:
            return {}
        self.done.append(f"{'would ' if dry_run else ''}undo {plan_id}")
        done = {"GPU-7": "restored to 700 W"}
        return {"a": {"dry_run": dry_run, "previous": None, "done": done}}


@pytest.fixture
def services(tmp_path: Path) -> Services:
    digest = token_digest(TOKEN)
    return made_services(tmp_path / "state", token_sha256=digest, agents=Agents(), apply=True)


@pytest.fixture
def where(services: Services, tmp_path: Path) -> Iterator[list[str]]:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    with serving(create_api(services)) as url:
        yield ["--url", url, "--token-file", str(token)]


@pytest.fixture
def plan_id(services: Services, where: list[str]) -> str:
    plan = stored_plan(services.store, "energy", nodes=NODES, telemetry=MEASURED)
    return str(plan["plan_id"])


def run(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    status = main(["plans", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_apply_says_what_is_set_and_does_it_when_told(
    capsys: Any, services: Services, where: list[str], plan_id: str
) -> None:
    status, out, _ = run(capsys, "apply", plan_id, *where)
    assert status == 0
    assert "dry run" in out
    assert "500" in out
    assert services.agents.done == []
    while (found := run(capsys, "apply", "--apply", *where))[0]:
        assert "newest safe plan" in found[2]  # the replica has not heard of the plan yet
    assert "(done)" in found[1]
    assert services.agents.done == ["resume"]


def test_restore_finds_what_is_carried_out(
    capsys: Any, services: Services, where: list[str], plan_id: str
) -> None:
    services.agents.carrying = plan_id
    newer = stored_plan(services.store, "energy", nodes=NODES, telemetry=MEASURED)
    status, out, _ = run(capsys, "restore", *where)
    assert (status, services.agents.done) == (0, [f"would undo {plan_id}"])
    assert "dry run" in out
    status, out, _ = run(capsys, "restore", "latest:energy", "--apply", "--json", *where)
    told = json.loads(out)
    assert (told["plan_id"], told["dry_run"]) == (plan_id, False)
    assert told["nodes"]["a"]["done"] == {"GPU-7": "restored to 700 W"}
    status, out, _ = run(capsys, "restore", plan_id, "--apply", *where)
    assert "a: back to the boards' own limits" in out
    assert "restored to 700 W" in out
    assert newer["plan_id"] not in out


def test_what_cannot_be_undone_is_said_in_one_line(
    capsys: Any, where: list[str], plan_id: str, tmp_path: Path
) -> None:
    status, out, err = run(capsys, "restore", plan_id, *where)
    assert (status, out) == (1, "")
    assert "no agent has carried" in err
    assert run(capsys, "restore", "nothing", *where)[0] == 1
    status, _, err = run(capsys, "restore", "--state-dir", str(tmp_path / "none"))
    assert status == 1
    assert "no server runs" in err
    missing = str(tmp_path / "no-token")
    status, _, err = run(capsys, "restore", *where[:2], "--token-file", missing)
    assert status == 2
    assert "no-token" in err


def test_without_a_plan_there_is_nothing_to_apply(capsys: Any, where: list[str]) -> None:
    status, _, err = run(capsys, "apply", *where)
    assert status == 1
    assert "no energy plan yet" in err
