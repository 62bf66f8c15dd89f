from __future__ import annotations

from pathlib import Path

import pytest

from actors.applied import KEPT, Applied, AppliedPlans
from qcluster.errors import NotFound


def test_what_was_recorded_outlives_the_process(tmp_path: Path) -> None:
    first = Applied(plan_id="p1", before_mw={"GPU-0": 700_000})
    second = Applied(plan_id="p2", before_mw={"GPU-0": 500_000}, previous="p1", previous_ends=5.0)
    made = AppliedPlans(tmp_path / "node")
    made.record(first)
    made.record(second)
    made.set_hold("p2")
    again = AppliedPlans(tmp_path / "node")
    assert again.find("p1") == first
    assert again.find("p2") == second
    assert again.hold == "p2"
    again.set_hold(None)
    assert AppliedPlans(tmp_path / "node").hold is None


def test_the_first_word_on_a_plan_counts(tmp_path: Path) -> None:
    made = AppliedPlans(tmp_path)
    made.record(Applied(plan_id="p", before_mw={"GPU-0": 700_000}))
    made.record(Applied(plan_id="p", before_mw={"GPU-0": 400_000}))
    assert made.find("p").before_mw == {"GPU-0": 700_000}


def test_unknown_and_forgotten_plans(tmp_path: Path) -> None:
    made = AppliedPlans(tmp_path)
    for number in range(KEPT + 1):
        made.record(Applied(plan_id=str(number), before_mw={}))
    made.forget("1")
    for plan_id in ("0", "1", "never"):
        with pytest.raises(NotFound, match=plan_id):
            made.find(plan_id)
    assert AppliedPlans(tmp_path).find(str(KEPT)).plan_id == str(KEPT)


def test_nothing_is_written_before_there_is_anything(tmp_path: Path) -> None:
    AppliedPlans(tmp_path).set_hold(None)
    AppliedPlans(tmp_path).forget("p")
    assert list(tmp_path.iterdir()) == []
