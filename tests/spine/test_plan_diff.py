from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qcluster.plan_diff import diff_plans, tell_diff

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=4), inner, max_size=40)
    ),
    max_leaves=40,
)


def plan(**fields: Any) -> dict[str, Any]:
    return {"planner": "energy", "plan_id": "b", "created_at": 12.0, "objective": 1.0, **fields}


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {c["field"]: c for c in diff_plans(old, new)["changes"]}


def test_what_always_differs_is_no_change() -> None:
    old = plan(plan_id="a", created_at=2.0, wall_s=0.1, telemetry={"snapshot_hash": "x"})
    found = diff_plans(old, plan(wall_s=0.2, telemetry={"snapshot_hash": "y"}))
    assert found == {
        "planner": "energy",
        "plan_id": "b",
        "against": "a",
        "seconds_between": 10.0,
        "improved": None,
        "changes": [],
    }
    assert tell_diff(found) == ["nothing but times and ids"]


def test_figures_names_and_nested_fields() -> None:
    old = plan(objective=2.0, solver={"used": "lpt", "requested": "qaoa"}, gap=None, old=1)
    new = plan(objective=1.5, solver={"used": "qaoa", "requested": "qaoa"}, gap=0.25, more=True)
    found = changes(old, new)
    assert found["objective"] == {"field": "objective", "before": 2.0, "after": 1.5, "change": -0.5}
    assert found["solver.used"]["after"] == "qaoa"
    assert "solver.requested" not in found
    assert found["gap"] == {"field": "gap", "before": None, "after": 0.25}
    assert found["more"]["after"] is True
    assert found["old"]["after"] is None
    assert diff_plans(old, new)["improved"] is True
    assert diff_plans(new, old)["improved"] is False


def test_arrays_are_summarised() -> None:
    slots = [[e % 64 for e in range(288)] for _ in range(58)]
    other = copy.deepcopy(slots)
    for layer in range(20):
        other[layer][5] = 63
    found = changes(plan(slots=slots), plan(slots=other))["slots"]
    assert (found["length"], found["changed"], found["largest_change"]) == (58 * 288, 20, 58.0)
    assert found["first"][1] == [[1, 5], 5, 63]
    assert len(found["first"]) == 10
    longer = changes(plan(caps=[1.0] * 9), plan(caps=[1.0] * 9 + [2.0]))["caps"]
    assert (longer["changed"], longer["first"]) == (1, [[9, None, 2.0]])


def test_large_tables_are_summarised_by_name() -> None:
    old = {f"gpu{i}": 700.0 for i in range(72)}
    found = changes(plan(caps_w=old), plan(caps_w={**old, "gpu7": 650.0}))["caps_w"]
    assert found["first"] == [["gpu7", 700.0, 650.0]]
    assert found["largest_change"] == 50.0


def test_it_is_told_in_lines() -> None:
    told = tell_diff(
        diff_plans(plan(x=[0] * 20, s="a"), plan(objective=0.5, x=[1] + [0] * 19, s="b"))
    )
    assert "objective: 1 -> 0.5 (-0.5)" in told
    assert "x: 1 of 20 entries differ, by 1 at most" in told
    assert "  [0] 0 -> 1" in told
    assert "s: a -> b" in told


@given(JSON, JSON)
def test_any_two_plans_are_compared(a: Any, b: Any) -> None:
    found = diff_plans(plan(x=a), plan(x=b))
    json.dumps(found, allow_nan=False)
    assert tell_diff(found)
    if a == b:
        assert found["changes"] == []
    elif not isinstance(a, dict) or not isinstance(b, dict):
        assert found["changes"]
