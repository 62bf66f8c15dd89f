"""What caps hide is remembered; a budget of predicted draw is kept through jumps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_energy_plan import planned, snapshot

from qcluster.errors import InputError
from qcluster.q_energy import EnergyPlanner
from qcluster.q_energy.demand import Demand, follow

TOP = np.full(4, 700.0)
FREE = np.full(4, 700.0)


def after(readings: list[tuple[list[float], list[float]]], period_s: float = 2.0) -> Demand:
    """The estimate after rows of (drawn, cap)."""
    found: Demand | None = None
    for k, (drawn, cap) in enumerate(readings):
        found = follow(found, np.array(drawn), np.array(cap), TOP, k * period_s)
    assert found is not None
    return found


def test_what_was_seen_below_a_cap_is_remembered_under_one() -> None:
    seen = [600.0, 300.0, 120.0, 650.0]
    capped = [300.0] * 4
    found = after([(seen, [700.0] * 4)] + [(np.minimum(seen, 300.0).tolist(), capped)] * 3)
    np.testing.assert_allclose(found.uncapped_w[[0, 3]], [600, 650], rtol=0.02)
    assert found.age_s[2] == 0 < found.age_s[0]


def test_a_gpu_held_from_the_start_may_want_all() -> None:
    found = after([([300.0] * 4, [300.0] * 4)])
    np.testing.assert_array_equal(found.uncapped_w, TOP)
    assert np.isinf(found.age_s).all()


def test_at_the_cap_above_what_was_seen_is_another_job() -> None:
    found = after([([200.0] * 4, [700.0] * 4), ([500.0, 200, 200, 200], [500.0] * 4)])
    assert found.uncapped_w[0] == pytest.approx(600.0)
    np.testing.assert_allclose(found.uncapped_w[1:], 200.0)


def test_an_old_sight_fades_towards_what_is_likely() -> None:
    rows = [([400.0] * 4, [700.0] * 4)] + [([300.0] * 4, [300.0] * 4)] * 200
    found = after(rows, period_s=20.0)
    np.testing.assert_allclose(found.uncapped_w, 500.0, rtol=0.01)
    soon = after(rows[:3], period_s=2.0)
    np.testing.assert_allclose(soon.uncapped_w, 400.0, rtol=0.01)


def test_a_lost_reading_changes_nothing() -> None:
    found = after([([400.0] * 4, [700.0] * 4), ([np.nan] * 4, [700.0] * 4)])
    np.testing.assert_array_equal(found.uncapped_w, 400.0)
    assert (found.age_s == 2).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 700), st.floats(50, 700)), min_size=1, max_size=20))
def test_estimates_stay_within_what_a_gpu_can_draw(rows: list[tuple[float, float]]) -> None:
    found = after([([min(d, c)] * 4, [c] * 4) for d, c in rows])
    assert ((found.uncapped_w >= 0) & (found.uncapped_w <= 700)).all()
    np.testing.assert_array_equal(Demand.from_dict(found.to_dict()).uncapped_w, found.uncapped_w)


def test_a_gpu_that_says_whether_it_is_held_is_believed() -> None:
    draw, cap = np.full(4, 290.0), np.full(4, 300.0)
    told = np.array([0.0, 0.5, np.nan, 0.0])
    found = follow(None, draw, cap, TOP, 0.0, told)
    np.testing.assert_array_equal(found.uncapped_w, [290, 700, 700, 290])


def test_moves_and_ramps_are_of_caps() -> None:
    with pytest.raises(InputError, match="need hold caps"):
        EnergyPlanner({"hold": "draw", "max_moved": 0.5})


def test_live_plans_remember_demand_from_plan_to_plan() -> None:
    planner = EnergyPlanner({"budget_w": 1300.0})
    first = planned(planner, snapshot([650, 300, 640, 100]))
    capped = snapshot([min(w, c) for w, c in zip([650, 300, 640, 100], first.caps_w, strict=True)])
    later = replace(
        capped, seq=2, ts_s=3.0, gpu={**capped.gpu, "power_limit_w": np.array(first.caps_w)}
    )
    second = planned(planner, later, first)
    np.testing.assert_allclose(second.demand.uncapped_w[[0, 2]], [650, 640], rtol=0.03)
    assert not any("run at their limit" in line for line in second.warnings)
    forgetful = planned(planner, later)
    assert any("run at their limit" in line for line in forgetful.warnings)
