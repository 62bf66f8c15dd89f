"""What caps hide is remembered; a budget of predicted draw is kept through jumps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_energy_plan import planned, snapshot

from qcluster.errors import InputError, SolverFailed
from qcluster.q_energy import EnergyPlanner
from qcluster.q_energy.demand import Demand, follow, reserve_w

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
    assert found.rises == 1


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
    assert (found.rises, found.drawn_share) == (0, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 700), st.floats(50, 700)), min_size=1, max_size=20))
def test_estimates_stay_within_what_a_gpu_can_draw(rows: list[tuple[float, float]]) -> None:
    found = after([([min(d, c)] * 4, [c] * 4) for d, c in rows])
    assert ((found.uncapped_w >= 0) & (found.uncapped_w <= 700)).all()
    assert 0.6 <= found.drawn_share <= 1.0
    assert Demand.from_dict(found.to_dict()).rises == found.rises


def test_work_that_does_not_fill_its_caps_is_noticed_slowly_and_the_contrary_at_once() -> None:
    seen = ([600.0] * 4, [700.0] * 4)
    part = ([240.0] * 4, [300.0] * 4)
    once, often = after([seen, part]), after([seen] + [part] * 40)
    assert 0.9 < once.drawn_share < 1.0
    assert often.drawn_share == pytest.approx(0.8, abs=0.01)
    back = follow(often, np.full(4, 300.0), np.full(4, 300.0), TOP, 1000.0)
    assert back.drawn_share == 1.0


def test_the_reserve_covers_the_likely_number_of_jumps() -> None:
    calm = Demand(uncapped_w=TOP, age_s=TOP * 0, ts_s=0.0, rises=0, watched_s=1e6)
    wild = replace(calm, rises=1e6)
    room = np.array([10.0, 40.0, 20.0, 30.0])
    assert reserve_w(calm, room, 2.0) == 0
    assert reserve_w(wild, room, 2.0) == pytest.approx(100.0)
    some = [reserve_w(replace(calm, rises=r), room, 2.0) for r in (1e2, 1e3, 1e4, 1e5)]
    assert some == sorted(some)
    assert 40.0 in some


def test_budgeting_draw_lets_more_work_run_than_budgeting_caps() -> None:
    snap = snapshot([650, 40, 640, 30])
    caps = planned(EnergyPlanner({"budget_w": 1500.0}), snap)
    draw = planned(EnergyPlanner({"budget_w": 1500.0, "hold": "draw"}), snap)
    assert caps.caps_w.sum() + caps.overhead_w <= 1500
    assert draw.caps_w.sum() + draw.overhead_w > 1500
    predicted = np.minimum(draw.caps_w, [650, 40, 640, 30]).sum() + draw.overhead_w
    assert predicted + draw.reserve_w <= 1500 * 1.03
    assert draw.reserve_w > 0
    assert draw.throughput > caps.throughput


def test_caps_leave_idle_gpus_no_room_but_their_floor() -> None:
    plan = planned(
        EnergyPlanner({"budget_w": 3000.0, "hold": "draw"}), snapshot([650, 40, 640, 30])
    )
    np.testing.assert_array_equal(plan.caps_w[[1, 3]], 200.0)
    assert (plan.caps_w[[0, 2]] > 640).all()


def test_a_plan_that_counts_draw_beyond_the_budget_is_refused() -> None:
    planner, snap = (
        EnergyPlanner({"budget_w": 1500.0, "hold": "draw"}),
        snapshot([650, 40, 640, 30]),
    )
    plan = planned(planner, snap)
    with pytest.raises(SolverFailed, match="count for"):
        planner.verify(replace(plan, caps_w=np.full(4, 700.0)), snap)
    with pytest.raises(SolverFailed, match="names no demand"):
        planner.verify(replace(plan, demand=None), snap)


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
