"""Quantiles of the coming window: medians, job starts, gaps, and the live plan that uses them."""

from __future__ import annotations

import numpy as np
import pytest
from clock import Clock

from qcluster.deadline import Deadline
from qcluster.q_energy import EnergyPlanner
from qcluster.q_energy.window import window_quantiles
from qcluster.telemetry import Node, Snapshot, Topology


def live(gpus: int, history: np.ndarray, board: float) -> Snapshot:
    nodes = tuple(
        Node(id=f"n{i}", gpus=8, model="H100", min_w=200, max_w=700) for i in range(gpus // 8)
    )
    return Snapshot(
        seq=1, ts_s=1.0, topology=Topology(nodes=nodes), alive=np.ones(gpus, bool),
        gpu={"power_w": np.full(gpus, board)}, power_ts_s=np.arange(float(len(history))),
        power_w=history,
    )  # fmt: skip


def wave(times: int, nodes: int, seed: int = 0) -> np.ndarray:
    """Three quarters of each 20 readings at 4 kW, then a pause at 2 kW; 1 % noise."""
    noise = 1 + 0.01 * np.random.default_rng(seed).normal(size=(times, nodes))
    return np.where(np.arange(times) % 20 < 15, 4000.0, 2000.0)[:, None] * noise


def test_the_median_is_of_the_window_not_of_the_moment() -> None:
    history = wave(200, 3)
    assert (history[-1] < 2200).all()
    found = window_quantiles(history, 60)
    assert found[:, 0] == pytest.approx(4000, rel=0.02)
    assert found[:, 1] == pytest.approx(4060, rel=0.02)


def test_the_live_plan_predicts_the_median_of_its_window() -> None:
    planner = EnergyPlanner({"budget_w": 1e5})
    # The board is read in a pause, at 250 W; its node draws twice that most of the time.
    plan = planner.plan(live(8, wave(200, 1), 250.0), None, {}, deadline=Deadline.after(1.0))
    assert plan.predicted_power_w["p50"] == pytest.approx(4000, rel=0.03)
    assert plan.predicted_power_w["p95"] > plan.predicted_power_w["p50"]
    planner.verify(plan, live(8, wave(200, 1), 250.0))


def test_a_job_that_starts_is_seen_at_once_and_a_steady_node_keeps_its_level() -> None:
    history = np.full((100, 2), 1000.0)
    history[-4:, 0] = 5000.0
    found = window_quantiles(history, 50)
    assert found[0] == pytest.approx([5000, 5000])
    assert found[1] == pytest.approx([1000, 1000])


def test_the_length_of_history_follows_the_data() -> None:
    rng = np.random.default_rng(1)
    walk = np.abs(3000 + np.cumsum(rng.normal(0, 40, (400, 30)), axis=0))
    noise = rng.normal(3000, 300, (400, 30))
    walked, steady = window_quantiles(walk[:300], 60), window_quantiles(noise[:300], 60)
    truth = np.median(walk[300:360], axis=0)
    whole = np.abs(np.median(walk[:300], axis=0) - truth).mean()
    assert np.abs(walked[:, 0] - truth).mean() < 0.7 * whole
    assert np.abs(steady[:, 0] - 3000).mean() < 60


def test_gaps_and_short_histories() -> None:
    history = wave(60, 3)
    history[5:9, 0] = np.nan
    history[:, 1] = np.nan
    found = window_quantiles(history, 30)
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(found[1]).all()
    assert window_quantiles(np.array([[7.0]]), 30).tolist() == [[7.0, 7.0]]
    plan = EnergyPlanner({"budget_w": 1e5}).plan(
        live(24, history, 250.0), None, {}, deadline=Deadline.after(1.0)
    )
    assert np.isfinite(plan.caps_w).all()


@pytest.mark.parametrize("gpus", [72, 512, 8000])
def test_planning_is_a_few_steps_whatever_the_size(
    gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = EnergyPlanner({})
    planner.warm_up()
    snap = live(gpus, wave(600, gpus // 8), 300.0)
    clock = Clock(monkeypatch)
    whole = planner.plan(snap, None, {}, deadline=Deadline.after(0.3))
    assert clock.before <= 10  # looks at the clock come between pieces of work
    late = Clock(monkeypatch, 1)
    plan = planner.plan(snap, None, {}, deadline=Deadline.after(0.3))
    assert 0 < late.after <= 10
    assert plan.objective >= whole.objective
