"""A budget of draw: curves learned on line, a reserve for new jobs, caps within the budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_energy_plan import planned, snapshot

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.q_energy import EnergyPlanner
from qcluster.q_energy.budget import allocate_table
from qcluster.q_energy.curve_family import GRID, family, members
from qcluster.q_energy.curve_table import CurveTable
from qcluster.q_energy.draw import drawn_under, solve_draw
from qcluster.q_energy.identify import (
    LIMITS,
    Sight,
    Sightings,
    doubt,
    draw_variance,
    identify,
    sight,
)
from qcluster.q_energy.units import Units

TOP = np.array([300.0])


def job(duty: float = 0.8, busy: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Draw and speed (grid,) of a job of the family."""
    one = np.ones(1)
    power, speed = family(
        busy * one, duty * one, 0.2 * one, 0.3 * one, 0.3 * one, 4 * one, 0.15 * one
    )
    return power[0], speed[0]


def watch(
    shares: list[float], curve: tuple[np.ndarray, np.ndarray], unit: float = 7.0,
    before: Sightings | None = None, told: bool = True,
) -> Sightings:  # fmt: skip
    """What is known after exact readings at limits given as shares."""
    start = 0.0 if before is None else before.ts_s + 1
    for k, share in enumerate(shares):
        draw = np.interp(share, GRID, curve[0])
        speed = np.interp(share, GRID, curve[1])
        now = Sight(
            TOP * draw,
            TOP * share,
            np.array([float(speed < 0.98) if told else np.nan]),
            np.array([speed * unit if told else np.nan]),
        )
        before = sight(before, now, TOP, start + k)
    assert before is not None
    return before


def some_units(n: int) -> Units:
    """GPUs of one node, 100 to 300 W."""
    full = np.full(n, 300.0)
    return Units(
        "gpu", tuple(f"g{k}" for k in range(n)), ("n0",), np.zeros(n, np.int64),
        np.full(n, 100.0), full, full, full, np.full(n, 40.0), np.full(n, 0.3), np.zeros(1),
    )  # fmt: skip


def test_curves_of_the_family_rise_and_end_at_full_speed() -> None:
    power, speed = (np.exp(part) for part in members())
    assert (np.diff(speed, axis=1) >= -1e-9).all()
    assert (power <= GRID + 1e-9).all()
    assert (speed <= 1 + 1e-9).all()
    assert np.quantile(speed[:, -1], 0.2) > 0.9


def test_a_few_limits_tell_the_whole_curve() -> None:
    curve = job()
    power, speed = identify(watch([0.4, 0.5, 0.6, 0.8], curve))
    assert np.abs(np.exp(power[0]) - curve[0])[15:].max() < 0.03
    assert np.abs(np.exp(speed[0]) - curve[1])[15:].max() < 0.05


def test_whether_the_limit_holds_tells_two_jobs_of_equal_draw_apart() -> None:
    held, free = job(duty=0.6), job(duty=1.0, busy=float(np.interp(0.5, GRID, job(0.6)[0])))
    found = [identify(watch([0.5], curve))[1][0] for curve in (held, free)]
    at = int(np.argmin(abs(GRID - 0.5)))
    assert np.exp(found[0][at]) + 0.02 < np.exp(found[1][at])


def test_without_rate_or_hold_the_draw_alone_still_counts() -> None:
    power, _ = identify(watch([0.5, 0.5, 0.6], job(), told=False))
    assert np.exp(np.interp(0.5, GRID, power[0])) == pytest.approx(
        np.interp(0.5, GRID, job()[0]), rel=0.02
    )


def test_another_job_is_noticed_and_the_last_one_forgotten() -> None:
    seen = watch([0.5] * 5, job())
    other = watch([0.5], job(duty=0.5), unit=2.0, before=seen)
    assert other.changes == 1
    assert (other.seen[0, :, 0] >= 0).sum() == 1
    same = watch([0.5, 0.55], job(), before=seen)
    assert same.changes == 0


def test_at_most_so_many_limits_are_kept_and_the_newest_stay() -> None:
    shares = [float(GRID[k]) for k in range(20, 20 + 3 * LIMITS, 2)]
    seen = watch(shares, job())
    kept = np.sort(seen.seen[0, :, 0])
    np.testing.assert_array_equal(GRID[kept.astype(int)], shares[-LIMITS:])
    again = Sightings.from_dict(seen.to_dict())
    np.testing.assert_array_equal(again.seen, seen.seen)


def test_nothing_known_counts_as_the_whole_cap() -> None:
    blank = sight(None, Sight(*(np.array([np.nan]),) * 4), TOP, 0.0)
    np.testing.assert_allclose(np.exp(identify(blank)[0][0]), GRID)


def test_doubt_is_none_at_the_limit_last_seen_and_falls_with_what_is_seen() -> None:
    one, two = watch([0.4], job()), watch([0.6, 0.4], job())
    at = int(np.argmin(abs(GRID - 0.4)))
    for seen in (one, two):
        assert [part[0, at] for part in doubt(seen)] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert (doubt(two)[1][0, at + 12 :] < doubt(one)[1][0, at + 12 :]).all()
    assert doubt(one)[1][0, -1] > 0.05
    blank = sight(None, Sight(*(np.array([np.nan]),) * 4), TOP, 0.0)
    assert not doubt(blank)[1].any()


def test_doubt_is_the_spread_of_the_curves_that_explain_what_was_seen() -> None:
    """Readings so many and so unlike that one curve of the family explains them."""
    curve = tuple(np.exp(part[7]) for part in members())
    seen = watch([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] * 8, (curve[0], curve[1]))
    assert doubt(seen)[1].max() < 0.05
    assert np.isfinite(doubt(seen)).all()


def test_a_draw_is_known_best_where_it_was_seen_often() -> None:
    one, many = watch([0.5], job()), watch([0.5] * 20, job())
    at = int(np.argmin(abs(GRID - 0.5)))
    assert draw_variance(one)[0, at] == pytest.approx(0.03**2, rel=1e-6)
    assert draw_variance(many)[0, at] == pytest.approx(0.03**2 / 20, rel=1e-6)
    assert draw_variance(many)[0, -1] > 4 * draw_variance(many)[0, at]
    blank = sight(None, Sight(*(np.array([np.nan]),) * 4), TOP, 0.0)
    assert not draw_variance(blank).any()


@pytest.mark.parametrize(("n", "turns", "share"), [(64, 60, 0.7), (1500, 12, 0.6), (1500, 12, 0.9)])
def test_the_true_draw_keeps_the_budget_though_predictions_err(
    n: int, turns: int, share: float
) -> None:
    """Jobs never seen before, read with noise; none ends, and nothing is kept free for that. What
    the predictions of many have in common does not average out.
    """
    rng, tops = np.random.default_rng(5), np.full(n, 300.0)
    most, idle = rng.uniform(0.35, 1.02, n)[:, None], rng.uniform(0.1, 0.2, n)[:, None]
    clock = ((np.minimum(GRID, most) - idle) / (most - idle)) ** rng.uniform(0.3, 0.8, (n, 1))
    power = np.minimum(GRID * rng.uniform(0.95, 1.0, (n, 1)), most)
    memory = rng.uniform(0.0, 0.8, (n, 1))
    speed = clock / ((1 - memory) + memory * clock)
    budget = share * 300.0 * float(power[:, -1].sum())
    caps, before, over = np.full(n, max(100.0, budget / n)), None, 0
    for turn in range(turns):
        at = np.array([np.interp(c / 300, GRID, p) for c, p in zip(caps, power, strict=True)])
        rate = np.array([np.interp(c / 300, GRID, s) for c, s in zip(caps, speed, strict=True)])
        drawn = np.minimum(300 * at, caps)
        over += turn > 0 and drawn.sum() > budget
        read = drawn * (1 + 0.03 * rng.standard_normal(n))
        told = rate * (1 + 0.02 * rng.standard_normal(n))
        now = Sight(read, caps, (rate < 0.98).astype(float), told)
        before = sight(before, now, tops, float(turn))
        caps = solve_draw(
            some_units(n), replace(before, changes=0.0, watched_s=1e6), budget, shared=True,
            period_s=1.0, deadline=Deadline.after(5.0),
        )[1].value  # fmt: skip
    assert over == 0


def test_limits_that_might_pay_are_tried_and_nearly_the_best_caps_found() -> None:
    """Half of the jobs lose little just above the lowest limit and most of their speed below 0.5,
    which no curve of the family does: whoever does not try higher limits takes them for cheap.
    """
    at = [0.25, 0.333, 0.37, 0.413, 0.443, 0.477, 0.5, 0.53, 0.56, 0.6, 0.8, 1.0]
    pace = [0.3, 0.34, 0.37, 0.4, 0.49, 0.59, 0.7, 0.81, 0.87, 0.92, 0.99, 1.0]
    plain = family(*(np.full(1, v) for v in (1.0, 1.0, 0.3, 0.3, 0.3, 4.0, 0.2)))
    draw = np.repeat([np.minimum(GRID, 0.72), plain[0][0]], 16, axis=0)
    speed = np.repeat([np.interp(GRID, at, pace), plain[1][0]], 16, axis=0)
    tops, caps, before, budget = np.full(32, 300.0), np.full(32, 120.0), None, 32 * 120.0
    for turn in range(40):
        read = np.array([np.interp(c / 300, GRID, d) for c, d in zip(caps, draw, strict=True)])
        rate = np.array([np.interp(c / 300, GRID, s) for c, s in zip(caps, speed, strict=True)])
        now = Sight(np.minimum(300 * read, caps), caps, (rate < 0.98).astype(float), rate)
        before = sight(before, now, tops, 0.25 * turn)
        _, answer, _ = solve_draw(
            some_units(32), before, budget, shared=True, period_s=0.25, mean_s=1.0,
            deadline=Deadline.after(5.0),
        )  # fmt: skip
        caps = answer.value
    got = sum(float(np.interp(c / 300, GRID, s)) for c, s in zip(caps, speed, strict=True))
    low = GRID >= 1 / 3
    table = CurveTable(
        300 * draw[:, low].ravel(), speed[:, low].ravel(),
        np.arange(33) * int(low.sum()), np.ones(32 * int(low.sum()), bool),
    )  # fmt: skip
    assert got >= 0.93 * allocate_table(table, budget_w=budget).value


@pytest.mark.parametrize("n", [16, 4000])
def test_what_many_readings_show_that_predictions_lack_is_added(n: int) -> None:
    """All draw 1.5 % more than at the reading before, at a limit that was not seen."""
    rng, tops, job_ = np.random.default_rng(2), np.full(n, 300.0), job()
    noise = 1 + 0.03 * rng.standard_normal((2, n))
    blank = np.full(n, np.nan)
    one = Sight(300 * np.interp(0.5, GRID, job_[0]) * noise[0], 0.5 * tops, blank, blank)
    before = sight(None, one, tops, 0.0)
    assert before.bias == 0.0
    at = int(np.argmin(abs(GRID - 0.6)))
    read = 300 * np.exp(before.rising[0][:, at]) * 1.015 * noise[1]
    after = sight(before, Sight(read, GRID[at] * tops, blank, blank), tops, 1.0)
    if n > 1000:
        assert 0.5 * 0.015 < after.bias < 0.9 * 0.015
        units, caps = some_units(n), np.full(n, 150.0)
        expected = drawn_under(units, replace(after, bias=0.0), caps).sum()
        assert drawn_under(units, after, caps).sum() == pytest.approx(
            expected * np.exp(after.bias), rel=1e-4
        )
    else:
        off = np.log(read.sum() / (300 * np.exp(before.rising[0][:, at])).sum())
        assert abs(after.bias) < 0.3 * abs(off)
    silent = sight(after, Sight(blank, 0.6 * tops, blank, blank), tops, 2.0)
    assert silent.bias == 0.0


def watch_many(shares: list[float]) -> Sightings:
    """What is known of 24 unlike jobs after readings at limits given as shares."""
    tops, before = np.full(24, 300.0), None
    for k, share in enumerate(shares):
        draw = np.array([np.interp(share, GRID, job(duty)[0]) for duty in np.linspace(0.5, 1, 24)])
        rate = np.array([np.interp(share, GRID, job(duty)[1]) for duty in np.linspace(0.5, 1, 24)])
        now = Sight(tops * draw, tops * share, (rate < 0.98).astype(float), rate)
        before = sight(before, now, tops, float(k))
    assert before is not None
    return before


def test_more_is_kept_free_while_all_rests_on_one_reading() -> None:
    kept = []
    for seen in (watch_many([0.5]), watch_many([0.5, 0.5])):
        assert seen.fresh == (1.0 if not kept else 0.0)
        _, _, reserve = solve_draw(
            some_units(24), replace(seen, changes=0.0, watched_s=1e9), 3600.0, shared=True,
            period_s=1.0, deadline=Deadline.after(5.0),
        )  # fmt: skip
        kept.append(reserve)
    assert kept[0] > kept[1] + 0.01 * 3600.0


def test_caps_settle_with_the_reserve_that_they_need() -> None:
    """Draw and reserve keep the budget, and room makes a cap dearer."""
    before = watch_many([0.5, 0.6, 0.7])
    units = some_units(24)
    trial, answer, reserve = solve_draw(
        units, before, 3600.0, shared=True, period_s=5.0, deadline=Deadline.after(5.0)
    )
    drawn = float(trial.of_caps(answer.value, trial.draw_w).sum())
    assert drawn + reserve <= 3600.0 + 1e-6
    assert drawn + reserve >= 0.97 * 3600.0
    assert reserve > 10
    assert trial.room_w.min() >= 0
    assert trial.room_w[:, -1].mean() > trial.room_w[:, 12].mean()


def test_plans_made_often_keep_less_free_for_a_budget_of_means() -> None:
    seen, kept = watch_many([0.5, 0.6, 0.7]), []
    for period_s, mean_s in ((1.0, 0.0), (1.0, 1.0), (0.25, 0.0), (0.25, 1.0)):
        _, _, reserve = solve_draw(
            some_units(24), seen, 3600.0, shared=True, period_s=period_s, mean_s=mean_s,
            deadline=Deadline.after(5.0),
        )  # fmt: skip
        kept.append(reserve)
    assert kept[0] == kept[1] > kept[2] > 1.5 * kept[3] > 0


def test_more_is_kept_free_while_gpus_are_silent() -> None:
    """Their jobs may have ended since they were last heard, and nobody would notice."""
    heard, lost = watch_many([0.5, 0.6, 0.7]), np.full(24, np.nan)
    blank = np.array([np.nan])
    assert sight(None, Sight(blank, blank, blank, blank), TOP, 0.0).silence_s[0] == 0.0
    kept = []
    for silent in (0, 8):
        read = np.where(np.arange(24) < silent, np.nan, 300.0 * np.exp(heard.seen[:, 2, 1]))
        now = sight(heard, Sight(read, np.full(24, 210.0), lost, lost), np.full(24, 300.0), 10.0)
        np.testing.assert_allclose(now.silence_s, np.where(np.arange(24) < silent, 8.0, 0.0))
        _, _, reserve = solve_draw(
            some_units(24), replace(now, changes=0.0, watched_s=0.0), 3600.0, shared=True,
            period_s=1.0, deadline=Deadline.after(5.0),
        )  # fmt: skip
        kept.append(reserve)
    assert kept[1] > 1.2 * kept[0]


def test_the_planner_takes_any_period_and_the_mean_from_its_configuration() -> None:
    snap, kept = snapshot([650, 340, 640, 430]), []
    for mean_s, passed_s in ((0.0, 1.0), (0.0, 0.25), (1.0, 0.25)):
        planner = EnergyPlanner({"budget_w": 1900.0, "hold": "draw", "budget_mean_s": mean_s})
        plan = None
        for k in range(6):
            caps = {} if plan is None else {"power_limit_w": plan.caps_w}
            now = replace(snap, seq=k + 1, ts_s=passed_s * k, gpu={**snap.gpu, **caps})
            plan = planned(planner, now, plan)
        assert plan is not None
        kept.append(plan.reserve_w)
    assert min(kept[:2]) > kept[2] > 0
    with pytest.raises(InputError, match="budget_mean_s needs hold draw"):
        EnergyPlanner({"budget_mean_s": 1.0})


def test_budgeting_draw_lets_more_work_run_than_budgeting_caps() -> None:
    snap = snapshot([650, 40, 640, 30])
    caps = planned(EnergyPlanner({"budget_w": 1500.0}), snap)
    draw = planned(EnergyPlanner({"budget_w": 1500.0, "hold": "draw"}), snap)
    assert caps.caps_w.sum() + caps.overhead_w <= 1500
    assert draw.allocated_w + draw.overhead_w + draw.reserve_w <= 1500 + 1e-6
    assert draw.reserve_w > 0
    assert draw.caps_w[[1, 3]].sum() <= 2 * 220
    assert draw.throughput > caps.throughput


def test_a_plan_that_counts_draw_beyond_the_budget_is_refused() -> None:
    snap = snapshot([650, 40, 640, 30])
    planner = EnergyPlanner({"budget_w": 1300.0, "hold": "draw"})
    plan = planned(planner, snap)
    with pytest.raises(SolverFailed, match="count for"):
        planner.verify(replace(plan, caps_w=np.full(4, 700.0)), snap)
    with pytest.raises(SolverFailed, match="nothing that was seen"):
        planner.verify(replace(plan, sightings=None), snap)
    with pytest.raises(SolverFailed, match="claims throughput"):
        planner.verify(replace(plan, throughput=3.99), snap)


def test_a_budget_below_the_lowest_draws_says_by_how_much() -> None:
    planner = EnergyPlanner({"budget_w": 300.0, "hold": "draw"})
    with pytest.raises(Infeasible, match="smallest feasible budget"):
        planned(planner, snapshot([650, 40, 640, 30]))


@pytest.mark.parametrize("toggles", [{"gnn": False}, {"meta": True}, {"qaoa": True}])
def test_every_toggle_keeps_a_budget_of_draw(toggles: dict[str, bool]) -> None:
    snap = snapshot([650, 340, 640, 430])
    planner = EnergyPlanner({"budget_w": 1700.0, "hold": "draw", **toggles})
    plan = planned(planner, snap)
    later = replace(snap, seq=2, ts_s=3.0, gpu={**snap.gpu, "power_limit_w": plan.caps_w})
    again = planned(planner, later, plan)
    planner.verify(again, later)
    assert again.allocated_w + again.overhead_w <= 1700 + 1e-6
