"""What a plan would set, and for which reasons it is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process import made_services, serving, stored_plan

from deployments.api import Services, create_api
from qcluster.errors import NotReady

NODES = [
    {"id": "a", "caps_w": {"a/0": 500.0, "a/1": 450.0}},
    {"id": "b", "caps_w": {}},
]
MEASURED = {"snapshot_hash": "x", "age_s": 0.5, "simulated": False}


class Agents:
    def __init__(self) -> None:
        self.away = False
        self.resumed = 0
        self.undone: list[tuple[str, bool]] = []
        self.carried: set[str] = set()

    def resume(self) -> None:
        self.resumed += 1

    def undo(self, plan_id: str, *, dry_run: bool) -> dict[str, Any]:
        self.undone.append((plan_id, dry_run))
        told = {"dry_run": dry_run, "done": {"GPU-0": "restored to 700 W"}}
        return {"a": told} if plan_id in self.carried else {}

    def health(self) -> dict[str, Any]:
        if self.away:
            raise NotReady("agent-keeper is away")
        return {"a": {"mode": "apply", "carrying": "it is in force on 2 GPUs"}}


@pytest.fixture(params=[False, True], ids=["dry run", "apply"])
def api(request: Any, tmp_path: Path) -> Iterator[tuple[httpx.Client, Services]]:
    services = made_services(tmp_path, agents=Agents(), apply=request.param)
    with serving(create_api(services)) as url, httpx.Client(base_url=url) as http:
        yield http, services


def energy(services: Services, **more: Any) -> str:
    fields = {"nodes": NODES, "telemetry": MEASURED, **more}
    return str(stored_plan(services.store, "energy", **fields)["plan_id"])


def in_force(http: httpx.Client, plan_id: str) -> bool:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        plan = http.get("/v1/plans").json()["plans"]["energy"]
        if plan is not None and plan["plan_id"] == plan_id:
            return True
    return False


def test_it_says_what_is_set(api: Any) -> None:
    http, services = api
    plan_id = energy(services)
    assert in_force(http, plan_id)
    told = http.post(f"/v1/plans/{plan_id}/apply").raise_for_status().json()
    assert told["plan_id"] == plan_id
    assert told["dry_run"] is not services.apply
    assert told["caps_w"] == {"a": {"0": 500.0, "1": 450.0}}
    assert "in force" in told["agents"]["a"]["carrying"]
    assert services.agents.resumed == services.apply
    told = http.post(f"/v1/plans/energy/{plan_id}/apply?dry_run=true").raise_for_status().json()
    assert told["dry_run"] is True
    assert services.agents.resumed == services.apply
    services.agents.away = True
    told = http.post(f"/v1/plans/{plan_id}/apply").json()
    assert "is away" in told["agents"][""]["carrying"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"telemetry": {**MEASURED, "simulated": True}}, "simulated telemetry"),
        ({"telemetry": {**MEASURED, "snapshot_hash": ""}}, "simulated telemetry"),
        ({"expires_at": 1.0}, "expired"),
        ({"expires_at": None}, "expired"),
        ({"nodes": []}, "no caps"),
    ],
)
def test_plans_that_are_never_carried_out(api: Any, fields: dict[str, Any], says: str) -> None:
    http, services = api
    answer = http.post(f"/v1/plans/{energy(services, **fields)}/apply")
    assert answer.status_code == 409
    assert says in answer.json()["detail"]


def test_other_planners_and_unknown_plans(api: Any) -> None:
    http, services = api
    routing = stored_plan(services.store)["plan_id"]
    assert http.post(f"/v1/plans/{routing}/apply").status_code == 409
    assert http.post("/v1/plans/nothing/apply").status_code == 404


def test_agents_follow_only_the_newest(api: Any) -> None:
    http, services = api
    old, new = energy(services), energy(services)
    assert in_force(http, new)
    answer = http.post(f"/v1/plans/{old}/apply")
    assert answer.status_code == (409 if services.apply else 200)
    if services.apply:
        assert new in answer.json()["detail"]


def test_a_joint_plan_is_carried_out_as_one(api: Any) -> None:
    http, services = api
    parts = {
        "energy": {"nodes": NODES},
        "routing": {"plan_id": "r", "moved_slots": 3, "placement": {}},
        "nvlink": {"plan_id": "n", "assignment": {"job": ["a/0", "a/1"]}},
        "absent": {},
    }
    plan = stored_plan(services.store, "joint", telemetry=MEASURED, **parts)
    told = http.post(f"/v1/plans/{plan['plan_id']}/apply?dry_run=true").raise_for_status().json()
    assert told["caps_w"] == {"a": {"0": 500.0, "1": 450.0}}
    assert told["routing"] == {"plan_id": "r", "moved_slots": 3}
    assert told["nvlink"] == {"plan_id": "n", "assignment": {"job": ["a/0", "a/1"]}}
    services.agents.carried.add(plan["plan_id"])
    told = http.post(f"/v1/plans/{plan['plan_id']}/restore").raise_for_status().json()
    assert told["dry_run"] is not services.apply
    powerless = {**parts, "energy": None, "absent": {"energy": "no power reading yet"}}
    plan = stored_plan(services.store, "joint", telemetry=MEASURED, **powerless)
    answer = http.post(f"/v1/plans/{plan['plan_id']}/apply?dry_run=true")
    assert answer.status_code == 409
    assert "no power reading yet" in answer.json()["detail"]


def test_restore_undoes_what_agents_carried_out(api: Any) -> None:
    http, services = api
    plan_id = energy(services)
    services.agents.carried.add(plan_id)
    told = http.post(f"/v1/plans/energy/{plan_id}/restore").raise_for_status().json()
    assert told["plan_id"] == plan_id
    assert told["dry_run"] is not services.apply
    assert told["nodes"]["a"]["done"] == {"GPU-0": "restored to 700 W"}
    http.post(f"/v1/plans/energy/{plan_id}/restore?dry_run=true").raise_for_status()
    assert services.agents.undone == [(plan_id, not services.apply), (plan_id, True)]


def test_what_cannot_be_restored(api: Any) -> None:
    http, services = api
    never, routing = energy(services), stored_plan(services.store)["plan_id"]
    answer = http.post(f"/v1/plans/energy/{never}/restore")
    assert answer.status_code == 409
    assert "no agent has carried" in answer.json()["detail"]
    assert http.post(f"/v1/plans/routing/{routing}/restore").status_code == 409
    assert http.post(f"/v1/plans/energy/{routing}/restore").status_code == 404
    assert http.post("/v1/plans/energy/nothing/restore").status_code == 404
    assert http.post(f"/v1/plans/weather/{never}/restore").status_code == 404
