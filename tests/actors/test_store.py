from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from actors.store import PlanStore
from qcluster.errors import NotReady
from qcluster.packed import unpack
from qcluster.plan import Plan, SolverRef


def plan(planner: str = "routing", **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"expires_at": time.time() + 100, **more}
    solver = SolverRef(requested="a", used="a")
    made = Plan(planner=planner, config={}, seed=0, solver=solver, objective=1.0, **fields)
    return made.to_dict()


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(str(tmp_path), ("routing", "energy"))


def test_configurations_outlive_the_store(tmp_path: Path) -> None:
    store = PlanStore(str(tmp_path), ("routing",))
    assert store.configs() == {}
    store.configure({"routing": {"max_moved": 0.5}})
    again = PlanStore(str(tmp_path), ("routing",))
    assert again.configs() == {"routing": {"max_moved": 0.5}}
    again.configure({})
    assert again.configs() == {}


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
    plan_id, body = again.newest({"routing": ""})["routing"]
    assert (plan_id, unpack(body)) == (made["plan_id"], made)
    assert again.newest({"routing": plan_id}) == {"routing": (plan_id, None)}
    assert again.newest({"energy": ""}) == {}


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


def test_a_store_that_lost_its_disk_refuses_to_start_empty(tmp_path: Path) -> None:
    first = PlanStore(str(tmp_path / "a"), ("routing",))
    first.put(plan(), "g")
    seen = first.report("routing", 2.0, "g", None)
    assert seen == first.identity()
    assert first.put(plan(), "g", seen) == 2  # the same store goes on
    empty = PlanStore(str(tmp_path / "b"), ("routing",))
    with pytest.raises(NotReady, match=f"plans are in store {seen[0]}, up to 1"):
        empty.report("routing", 2.0, "g", None, seen)
    # From then on for everybody, also for those who remember nothing.
    for call in (
        lambda: empty.latest("routing"),
        lambda: empty.put(plan(), "g"),
        lambda: empty.history(None),
        lambda: empty.newest({}),
        lambda: empty.get("x"),
        lambda: empty.wait(0, 0.0),
    ):
        with pytest.raises(NotReady, match="does not serve"):
            call()
    assert empty.health()["plans"] == 0
    assert "up to 1" in empty.health()["fence"]


def test_an_old_copy_is_refused_by_hosts_agents_and_readers(tmp_path: Path) -> None:
    store = PlanStore(str(tmp_path / "a"), ("routing",))
    store.put(plan(), "g")
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    store.put(plan(), "g")
    seen = store.identity()
    for call in (
        lambda s: s.put(plan(), "g", seen),
        lambda s: s.latest("routing", seen),
        lambda s: s.wait(seen[1], 0.0),
    ):
        with pytest.raises(NotReady, match="up to 2 were seen, and this copy has them up to 1"):
            call(PlanStore(str(tmp_path / "old"), ("routing",)))


def test_a_restart_on_the_same_disk_is_the_same_store(tmp_path: Path) -> None:
    first = PlanStore(str(tmp_path), ("routing",))
    first.put(plan(), "g")
    seen = first.identity()
    again = PlanStore(str(tmp_path), ("routing",))
    assert again.report("routing", 2.0, "g", None, seen) == seen
