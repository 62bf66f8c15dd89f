"""A server that sets power limits, on a driver's double: whatever ends it, no cap is left."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, Server

from qcluster.client import Client
from qcluster.errors import Refused

pytestmark = pytest.mark.system

DRIVER = ROOT / "tests" / "actors" / "driver"
BUDGET_W = 900.0
FULL = [700.0, 700.0]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "gpus.json"
    path.write_text(json.dumps([{}, {"limit_mw": 700_000, "utilization_pct": 20}]))
    monkeypatch.setenv("FAKE_DRIVER", str(path))
    monkeypatch.setenv("PYTHONPATH", f"{DRIVER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return path


def watts(gpus: Path) -> list[float]:
    return [gpu.get("limit_mw", 700_000) / 1e3 for gpu in json.loads(gpus.read_text())]


@pytest.fixture
def applying(tmp_path: Path, gpus: Path) -> Iterator[Server]:
    """A server with caps in force."""
    server = Server(tmp_path, "--telemetry", "nvml", "--apply", "--replicas", "1")
    try:
        server.until(lambda: watts(gpus) != FULL, 300.0)
        server.until(lambda: server.http.get("/v1/plans/energy/latest").status_code == 200)
        plan = server.http.get("/v1/plans/energy/latest").json()["plan"]
        assert plan["telemetry"]["simulated"] is False
        yield server
    finally:
        server.destroy()


def test_ctrl_c_puts_the_limits_back(applying: Server, gpus: Path) -> None:
    assert applying.stop(signal.SIGINT) == 0, applying.log.read_text()
    assert watts(gpus) == FULL
    assert applying.left_over() == []


def test_a_plan_is_undone_and_stays_undone_until_one_is_applied(
    applying: Server, gpus: Path
) -> None:
    with Client(applying.url) as client:
        dry = client.restore(carried(client), dry_run=True)
        assert dry["dry_run"] is True
        assert watts(gpus) != FULL
        # The first plan of all is in the record too: before it stood the boards' own limits.
        first = client.history("joint", 1000)[-1]["plan_id"]
        done = applying.until(lambda: undone(client, first) or undone(client, carried(client)))
        assert done["dry_run"] is False
        applying.until(lambda: watts(gpus) == FULL, 15.0)
        held = client.plans()["plans"]["joint"]["plan_id"]
        applying.until(lambda: client.plans()["plans"]["joint"]["plan_id"] != held)
        assert watts(gpus) == FULL
        applying.until(lambda: applied(client))
        applying.until(lambda: watts(gpus) != FULL)


def carried(client: Client) -> str:
    """The plan that the node carries out."""
    newest = client.plans()["plans"]["joint"]["plan_id"]
    (agent,) = client.apply(newest, dry_run=True)["agents"].values()
    return str(agent["plan_id"])


def undone(client: Client, plan_id: str) -> Any:
    try:
        return client.restore(plan_id)
    except Refused:  # it was superseded before it was carried out
        return None


def applied(client: Client) -> Any:
    try:
        return client.apply(client.plans()["plans"]["joint"]["plan_id"])
    except Refused:  # there is a newer one already
        return None


@pytest.mark.parametrize("victim", ["server", "ray::NodeAgent", "raylet/raylet "])
def test_kill_9_puts_the_limits_back(applying: Server, gpus: Path, victim: str) -> None:
    changed = []

    def back() -> bool:
        changed.append(watts(gpus))
        return FULL in changed

    if victim == "server":
        applying.process.kill()
        applying.process.wait()
        assert applying.left_over(30.0) == []
        assert watts(gpus) == FULL
        return
    applying.kill(victim)
    applying.until(back, 10.0)
    # The next agent carries the next plan out.
    applying.until(lambda: watts(gpus) != FULL, 300.0)
