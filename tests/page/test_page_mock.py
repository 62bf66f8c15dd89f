"""The stand-in server of the browser tests keeps to the shapes that the page is promised."""

from __future__ import annotations

import json
import urllib.request

import pytest

from deployments.page import CSP
from tests.page.mock_data import PLANNERS, SCENES
from tests.page.mock_server import MockServer

ENVELOPE = {
    "schema_version", "plan_id", "created_at", "planner", "config", "seed", "telemetry", "wall_s",
    "solver", "objective", "lower_bound", "gap", "baselines", "quantum_gain", "warnings",
    "expires_at",
}  # fmt: skip


@pytest.mark.parametrize("name", SCENES)
def test_snapshots_are_aligned(name):
    scene = SCENES[name]()
    snapshot = scene.snapshot(5, 1000.0)
    count = len(snapshot["gpus"])
    assert (
        len(snapshot["alive"]) == len(snapshot["power_w"]) == len(snapshot["utilization"]) == count
    )
    assert len(snapshot["node_ids"]) == len(snapshot["node_power_w"])
    assert len({link["id"] for link in snapshot["links"]}) == len(snapshot["links"])
    assert scene.snapshot(5, 1000.0) == snapshot, "the same tick gives the same snapshot"
    json.dumps(snapshot, allow_nan=False)


@pytest.mark.parametrize("planner", PLANNERS)
def test_plans_carry_the_envelope(planner):
    plan = SCENES["nvl72"]().plan(planner, 3, 1000.0)
    assert set(plan) >= ENVELOPE
    if plan["lower_bound"] is None:
        assert plan["reasons"]["lower_bound"]
    else:
        assert plan["lower_bound"] <= plan["objective"]
        assert plan["gap"] == pytest.approx(
            (plan["objective"] - plan["lower_bound"]) / abs(plan["objective"])
        )


def test_server_sends_page_and_stream():
    with MockServer("mesh") as server:
        with urllib.request.urlopen(server.url) as response:
            assert response.headers["Content-Security-Policy"] == CSP
            assert b"<title>qcluster</title>" in response.read()
        with urllib.request.urlopen(f"{server.url}/v1/telemetry/stream") as stream:
            lines = [stream.readline().decode().strip() for _ in range(3)]
    assert lines[0].startswith("id: ")
    assert lines[1] == "event: snapshot"
    assert json.loads(lines[2].removeprefix("data: "))["gpus"] == [f"n/{i}" for i in range(8)]


def test_history_is_newest_first_without_large_fields():
    server = MockServer("mesh")
    rows = server.answer("/v1/plans/routing/history")["plans"]
    server.http.server_close()
    assert [row["created_at"] for row in rows] == sorted(
        (r["created_at"] for r in rows), reverse=True
    )
    assert "gpu_load_after" not in rows[0]
    assert server.answer("/v1/nothing") is None
