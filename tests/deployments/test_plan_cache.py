"""Reads without a call to the store: the same answers, at any moment, also while it is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import stored_plan

from actors.store import PlanStore
from deployments.plan_cache import PlanCache
from qcluster.errors import NotReady

PLANNERS = ("routing", "energy")


class Away:
    """A store that can be switched off, and counts how it is asked."""

    def __init__(self, store: PlanStore) -> None:
        self.store, self.away, self.calls = store, False, 0

    def follow(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.away:
            raise NotReady("plan-store is away")
        return self.store.follow(*arguments)


@pytest.fixture
def store(tmp_path: Path) -> PlanStore:
    return PlanStore(str(tmp_path), PLANNERS)


@pytest.fixture
def cache(store: PlanStore) -> Iterator[PlanCache]:
    made = PlanCache(store)
    yield made
    made.close()


def until(condition: Callable[[], Any]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def plain(view: dict[str, Any]) -> dict[str, Any]:
    """A view without its age, which differs between two moments."""
    plan = view["plan"] and {k: v for k, v in view["plan"].items() if k != "age_s"}
    return {**view, "plan": plan}


def test_it_reads_what_the_store_would_answer(store: PlanStore, cache: PlanCache) -> None:
    assert cache.latest("routing")["plan"] is None
    for change in (
        lambda: stored_plan(store),
        lambda: store.report("routing", 2.0, "g", "planning failed"),
        lambda: store.report("routing", 2.0, "other gpus", None),
        lambda: store.report("routing", 2.0, "g", None),
        lambda: stored_plan(store, "energy", objective=2.0),
    ):
        change()
        until(
            lambda: (
                [plain(cache.latest(p)) for p in PLANNERS]
                == [plain(store.latest(p)) for p in PLANNERS]
            )
        )
    assert list(cache.all_latest()) == list(PLANNERS)


def test_text_and_dict_say_the_same(store: PlanStore, cache: PlanCache) -> None:
    assert cache.latest_json("routing") is None
    assert json.loads(cache.all_json())["plans"] == {"routing": None, "energy": None}
    stored_plan(store, warnings=['a "quoted" word', "\u00e9"])
    until(lambda: cache.latest("routing")["plan"])
    told = json.loads(cache.latest_json("routing") or b"")
    assert plain(told) == plain(cache.latest("routing"))
    assert told["plan"]["stale"] is False
    everything = json.loads(cache.all_json())
    assert everything["plans"]["routing"]["plan_id"] == told["plan"]["plan_id"]
    assert everything["alarms"]["routing"] is None


def test_reads_do_not_ask_the_store(store: PlanStore) -> None:
    stored_plan(store)
    counting = Away(store)
    cache = PlanCache(counting)
    until(lambda: cache.latest("routing")["plan"])
    before = counting.calls
    for _ in range(1000):
        cache.latest_json("routing")
    assert counting.calls - before <= 1
    cache.close()


def test_while_the_store_is_away_plans_stay_and_turn_stale(
    store: PlanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, away = stored_plan(store), Away(store)
    cache = PlanCache(away)
    until(lambda: cache.latest("routing")["plan"])
    away.away = True
    assert cache.latest("routing")["plan"]["stale"] is False
    now = time.monotonic()
    monkeypatch.setattr("deployments.plan_cache.time.monotonic", lambda: now + 30)
    found = cache.latest("routing")
    assert found["plan"]["plan_id"] == plan["plan_id"]
    assert found["plan"]["stale"] is True
    assert "no word from the routing planner for 30 s" in found["alarm"]
    assert 29 < found["plan"]["age_s"] < 31
    cache.close()


def test_a_store_that_restarted_is_taken_up_again(store: PlanStore, tmp_path: Path) -> None:
    plan, away = stored_plan(store), Away(store)
    cache = PlanCache(away)
    until(lambda: cache.latest("routing")["plan"])
    away.store = PlanStore(str(tmp_path), PLANNERS)  # the same file; nobody has reported yet
    store.report("routing", 2.0, "g", "last word of the old store")
    again = stored_plan(away.store)
    until(lambda: cache.latest("routing")["plan"]["plan_id"] == again["plan_id"])
    # The plan may come a moment before the report that follows it.
    until(lambda: cache.latest("routing")["plan"]["stale"] is False)
    assert plan["plan_id"] != again["plan_id"]
    cache.close()


def test_before_the_first_answer_it_says_so(store: PlanStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("deployments.plan_cache._FIRST_S", 0.05)
    away = Away(store)
    away.away = True
    cache = PlanCache(away)
    with pytest.raises(NotReady, match="has not answered yet"):
        cache.latest("routing")
    assert not cache.filled
    cache.close()
