from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from actors.store import PlanStore
from qcluster.plan import Plan, SolverRef


def plan(planner: str = "routing", **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"expires_at": time.time() + 100, **more}
    solver = SolverRef(requested="a", used="a")
    made = Plan(planner=planner, config={}, seed=0, solver=solver, objective=1.0, **fields)
    return made.to_dict()


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(str(tmp_path), ("routing", "energy"))


def test_a_fresh_plan_is_fresh(store: PlanStore) -> None:
    made = plan()
    store.put(made, "g")
    store.report("routing", 2.0, "g", None)
    found = store.latest("routing")
    assert found["alarm"] is None
    assert found["plan"]["plan_id"] == made["plan_id"]
    assert found["plan"]["stale"] is False
    assert 0 <= found["plan"]["age_s"] < 5


def test_no_plan_is_said_not_silent(store: PlanStore) -> None:
    assert store.latest("routing")["plan"] is None
    assert "no word from the routing planner" in store.latest("routing")["alarm"]
    store.report("routing", 2.0, "g", None)
    assert store.latest("routing")["alarm"] == "no plan yet"


def test_a_reported_alarm_marks_the_last_plan_stale(store: PlanStore) -> None:
    store.put(plan(), "g")
    store.report("routing", 2.0, "g", "planning failed: stuck")
    found = store.latest("routing")
    assert found["plan"]["stale"] is True
    assert found["plan"]["alarm"] == found["alarm"] == "planning failed: stuck"


def test_a_silent_planner_is_noticed(store: PlanStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(plan(), "g")
    store.report("routing", 2.0, "g", None)
    later = time.time() + 8
    monkeypatch.setattr("actors.store.time.time", lambda: later)
    found = store.latest("routing")
    assert "no word from the routing planner for 8 s" in found["alarm"]
    assert found["plan"]["stale"] is True
    assert found["plan"]["age_s"] >= 7


def test_an_expired_plan_is_stale(store: PlanStore) -> None:
    store.put(plan(expires_at=time.time() - 1), "g")
    store.report("routing", 2.0, "g", None)
    assert "expired" in store.latest("routing")["alarm"]


def test_the_safe_plan_is_the_last_on_the_same_gpus(store: PlanStore) -> None:
    whole, degraded = plan(), plan()
    store.put(whole, "72 gpus")
    store.put(degraded, "71 gpus")
    store.report("routing", 2.0, "72 gpus", None)
    assert store.latest("routing")["plan"]["plan_id"] == whole["plan_id"]
    store.report("routing", 2.0, "70 gpus", None)
    found = store.latest("routing")
    assert found["plan"]["plan_id"] == degraded["plan_id"]
    assert "GPUs have changed" in found["alarm"]


def test_a_restarted_store_still_has_the_plans(tmp_path: Path) -> None:
    made = plan()
    PlanStore(str(tmp_path), ("routing",)).put(made, "g")
    again = PlanStore(str(tmp_path), ("routing",))
    found = again.latest("routing")
    assert found["plan"]["plan_id"] == made["plan_id"]
    assert found["plan"]["stale"] is True  # until its planner has reported again
    assert again.get(made["plan_id"]) == made
    assert again.newest() == {"routing": made}


def test_wait_returns_when_something_is_stored(store: PlanStore) -> None:
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(store.wait(0, 20.0)))
    waiter.start()
    store.put(plan(), "g")
    waiter.join(20)
    assert seen == [1]
    assert store.wait(1, 0.0) == 1


def test_health_counts_and_names_alarms(store: PlanStore) -> None:
    store.put(plan(), "g")
    store.report("routing", 2.0, "g", None)
    health = store.health()
    assert (health["plans"], health["last_seq"]) == (1, 1)
    assert health["alarms"]["routing"] is None
    assert "energy" in health["alarms"]["energy"]
