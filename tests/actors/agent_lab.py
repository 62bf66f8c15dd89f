"""What tests of the node agent share: plans, a store that gives them, a driver's double."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.node_agent import NodeAgent
from qcluster.deadline import Deadline
from qcluster.errors import NotReady

HERE = Path(__file__).resolve().parent


def plan(caps: dict[str, float] | None = None, *, lasts_s: float = 60.0, **more: Any) -> Any:
    caps = {"a/0": 500.0, "a/1": 400.0} if caps is None else caps
    return {
        "plan_id": f"p-{time.time_ns()}",
        "planner": "energy",
        "stale": False,
        "telemetry": {"snapshot_hash": "abc", "simulated": False},
        "expires_at": time.time() + lasts_s,
        "nodes": [{"id": "a", "caps_w": caps}, {"id": "b", "caps_w": {"b/0": 300.0}}],
        **more,
    }


class FakeStore:
    """Gives the plan that a test has put there; away while ``away``."""

    def __init__(self) -> None:
        self.plan: Any = None
        self.alarm: str | None = None
        self.away = False

    def identity(self) -> tuple[str, int]:
        return "s", 1

    def latest(self, planner: str, seen: Any) -> dict[str, Any]:
        assert planner == "joint"
        if self.away:
            raise NotReady("plan-store is away")
        return {"planner": planner, "plan": self.plan, "alarm": self.alarm or "no plan yet"}


def watts(driver: Path) -> list[float]:
    return [gpu.get("limit_mw", 700_000) / 1e3 for gpu in json.loads(driver.read_text())]


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = Deadline.after(seconds)
    while not (found := condition()):
        deadline.check()
        time.sleep(0.005)
    return found


def carried(agent: NodeAgent, store: Any, *caps: float, lasts_s: float = 60.0) -> str:
    """Have a plan with these caps carried out; returns its id."""
    store.plan = plan({f"a/{i}": watts for i, watts in enumerate(caps)}, lasts_s=lasts_s)
    plan_id = str(store.plan["plan_id"])
    until(lambda: agent.health()["plan_id"] == plan_id and agent.health()["caps_w"])
    return plan_id
