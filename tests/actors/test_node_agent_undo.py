"""Undoing a plan that an agent has carried out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_lab import carried, plan, until, watts

from qcluster.errors import NotFound


def test_undo_of_the_first_plan_puts_the_boards_own_limits_back(start: Any, driver: Path) -> None:
    agent, _, store = start()
    plan_id = carried(agent, store, 500.0, 400.0)
    dry = agent.undo(plan_id, dry_run=True)
    assert dry["done"]["GPU-0"] == "would be restored from 500 to 700 W"
    assert watts(driver) == [500, 400]
    assert agent.health()["hold"] is None
    done = agent.undo(plan_id)
    assert (done["node"], done["dry_run"], done["previous"]) == ("a", False, None)
    assert done["done"] == {"GPU-0": "restored to 700 W", "GPU-1": "restored to 700 W"}
    assert watts(driver) == [700, 700]
    assert agent.health()["caps_w"] == {}


def test_undo_goes_back_to_the_plan_before_and_no_longer_than_that_lasts(
    start: Any, driver: Path
) -> None:
    agent, _, store = start()
    carried(agent, store, 500.0, 400.0)
    before = carried(agent, store, 450.0, 450.0, lasts_s=6.0)
    ends = store.plan["expires_at"]
    newest = carried(agent, store, 300.0, 300.0)
    done = agent.undo(newest)
    assert done["previous"] == before
    assert done["done"]["GPU-1"] == "restored to 450 W"
    assert watts(driver) == [450, 450]
    assert agent.health()["plan_id"] == before
    assert agent.health()["expires_at"] == ends
    until(lambda: watts(driver) == [700, 700])  # it has expired
    # The plan before it is over: what stood before the newest are now the boards' own limits.
    assert agent.undo(newest)["previous"] is None
    assert watts(driver) == [700, 700]


def test_after_undo_nothing_is_carried_out_until_told(
    start: Any, driver: Path, tmp_path: Path
) -> None:
    agent, _, store = start()
    plan_id = carried(agent, store, 500.0, 400.0)
    agent.undo(plan_id)
    store.plan = plan({"a/0": 350.0, "a/1": 350.0})
    until(lambda: f"held: {plan_id} was undone" in agent.health()["carrying"])
    assert watts(driver) == [700, 700]
    agent.stop()
    again, _, store = start()  # the agent that Ray starts next knows of it
    store.plan = plan({"a/0": 350.0, "a/1": 350.0})
    until(lambda: "held" in again.health()["carrying"])
    assert watts(driver) == [700, 700]
    again.resume()
    until(lambda: watts(driver) == [350, 350])


def test_undo_leaves_what_somebody_else_has_set(start: Any, driver: Path) -> None:
    agent, _, store = start()
    carried(agent, store, 500.0, 400.0)
    newest = carried(agent, store, 300.0, 300.0)
    gpus = json.loads(driver.read_text())
    gpus[1]["limit_mw"] = 222_000
    driver.write_text(json.dumps(gpus))
    assert "somebody else" in agent.undo(newest)["done"]["GPU-1"]
    assert watts(driver) == [500, 222]


def test_undo_of_what_was_never_carried_out(start: Any, driver: Path) -> None:
    agent, _, store = start()
    with pytest.raises(NotFound, match="p-none"):
        agent.undo("p-none")
    gpus = json.loads(driver.read_text())
    gpus[1]["forbidden"] = ["nvmlDeviceSetPowerManagementLimit"]
    driver.write_text(json.dumps(gpus))
    store.plan = plan()
    until(lambda: agent.health()["mode"] == "advice")
    with pytest.raises(NotFound):
        agent.undo(store.plan["plan_id"])
    assert watts(driver) == [700, 700]


def test_undo_is_a_dry_run_without_apply(start: Any, driver: Path, tmp_path: Path) -> None:
    agent, _, store = start()
    plan_id = carried(agent, store, 500.0, 400.0)
    agent.stop()
    adviser, _, _ = start(apply=False)
    done = adviser.undo(plan_id)
    assert done["dry_run"] is True
    assert adviser.health()["hold"] is None
