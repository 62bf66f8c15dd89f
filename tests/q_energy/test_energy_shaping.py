"""Shaping: limits kept, work conserved, delay only where caps bite, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_energy import ShapedPower, shape_power


def waves(jobs: int, times: int = 200, seed: int = 0) -> np.ndarray:
    """Square waves between 2 and 6 kW that step together; 1 % noise."""
    rng = np.random.default_rng(seed)
    shape = np.where(np.arange(times) % 20 < 14, 6000.0, 2000.0)
    return shape * (1 + 0.01 * rng.normal(size=(jobs, times)))


def ramp(total: np.ndarray) -> float:
    return float(np.abs(np.diff(total)).max())


def test_nothing_asked_changes_nothing() -> None:
    traces = waves(3)
    found = shape_power(traces, period_s=2.0)
    assert np.array_equal(found.power_w, traces)
    assert found.delay.tolist() == [0.0] * 3
    assert found.peak_w == found.before["peak_w"] == traces.sum(axis=0).max()
    assert ShapedPower.from_dict(found.to_dict()) == found


def test_shifts_alone_part_the_steps_and_cost_no_time() -> None:
    traces = waves(3)
    found = shape_power(traces, period_s=2.0, max_shift_s=15.0)
    assert found.shift_s.max() <= 15.0
    assert found.ramp_w < 0.5 * found.before["ramp_w"]
    assert found.delay.max() == 0.0
    # The same readings in another order.
    assert np.array_equal(np.sort(found.power_w, axis=1), np.sort(traces, axis=1))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.8, 1.0), st.integers(1, 5))
def test_ceiling_holds_and_delay_is_a_share(seed: int, share: float, jobs: int) -> None:
    traces = waves(jobs, seed=seed)
    found = shape_power(traces, period_s=2.0, peak_w=share * traces.sum(axis=0).max())
    assert found.peak_w <= share * found.before["peak_w"] * (1 + 1e-9)
    assert ((found.delay >= 0) & (found.delay < 1)).all()
    assert (found.power_w <= 1.1 * 6000).all()


def test_falls_are_slowed_only_when_known_ahead() -> None:
    traces = waves(4)
    limit = 0.4 * ramp(traces.sum(axis=0))
    known = shape_power(traces, period_s=2.0, ramp_w=limit, ahead_s=20.0)
    blind = shape_power(traces, period_s=2.0, ramp_w=limit)
    assert known.ramp_w <= 1.05 * limit
    assert np.diff(blind.power_w.sum(axis=0)).max() <= 1.001 * limit
    assert blind.ramp_w > 2 * limit
    assert 0 < known.delay.mean() < 0.2


def test_a_lower_ceiling_costs_more() -> None:
    traces = waves(3)
    top = traces.sum(axis=0).max()
    delays = [
        shape_power(traces, period_s=2.0, peak_w=part * top).delay.mean()
        for part in (1.0, 0.9, 0.8, 0.7)
    ]
    assert delays == sorted(delays)
    assert delays[0] == 0.0
    assert delays[-1] > 0.05


def test_a_ceiling_below_rest_moves_every_job_on() -> None:
    found = shape_power(waves(2), period_s=1.0, peak_w=1.0)
    assert (found.delay < 1.0).all()
    assert found.peak_w > 1.0  # caps cannot reach so low, and the result says so


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"traces_w": np.ones(3)}, "jobs x times"),
        ({"traces_w": np.empty((0, 3))}, "jobs x times"),
        ({"traces_w": np.array([[1.0, np.nan]])}, "finite watts"),
        ({"traces_w": np.array([[1.0, -1.0]])}, "finite watts"),
        ({"period_s": 0.0}, "period_s"),
        ({"period_s": np.inf}, "period_s"),
        ({"peak_w": np.nan}, "peak_w"),
        ({"ramp_w": 0.0}, "ramp_w"),
        ({"max_shift_s": -1.0}, "max_shift_s"),
        ({"ahead_s": True}, "ahead_s"),
        ({"memory_bound": 1.0}, "memory_bound"),
    ],
)
def test_bad_values_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        shape_power(**{"traces_w": waves(2), "period_s": 2.0, **change})
