"""The bound on the peak: never above what some shaping reaches, and tight where it can be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_energy import peak_bound, shape_power


def traces(seed: int, jobs: int = 3, times: int = 40) -> np.ndarray:
    """Jobs that step between pauses and work."""
    rng = np.random.default_rng(seed)
    return (
        200.0
        + 800.0 * (rng.random((jobs, times)).cumsum(axis=1) % 3 > 1)
        + rng.random((jobs, times))
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_no_shifts_at_all_get_below_it(seed: int) -> None:
    power = traces(seed, times=24)
    least = min(
        np.sum([np.roll(t, s) for t, s in zip(power, shifts, strict=True)], axis=0).max()
        for shifts in itertools.product(range(4), repeat=3)
    )
    bound = peak_bound(power, max_shift=3, delay=0.0)
    assert bound <= least + 1e-6
    assert bound >= power.sum(axis=0).mean() - 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.6, 1.0))
def test_no_caps_get_below_it_at_the_delay_that_they_cost(seed: int, share: float) -> None:
    power = traces(seed)
    made = shape_power(power, period_s=1.0, peak_w=share * power.sum(axis=0).max(), max_shift_s=3.0)
    bound = peak_bound(power, max_shift=3, delay=float(max(made.delay.mean(), 1e-6)))
    assert bound <= made.peak_w * (1 + 1e-9)


def test_a_flat_job_is_its_own_bound() -> None:
    flat = np.full((2, 300), 500.0)
    assert peak_bound(flat, max_shift=5, delay=0.0) == pytest.approx(1000.0)
    assert peak_bound(flat, max_shift=5, delay=0.01) == pytest.approx(990.0, rel=3e-3)


def test_more_delay_never_raises_it() -> None:
    power = traces(7)
    found = [peak_bound(power, max_shift=0, delay=d) for d in (0.0, 0.01, 0.05, 0.2)]
    assert (np.diff(found) <= 1e-9).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"traces_w": [[1.0, np.nan]]}, "traces_w"),
        ({"traces_w": [1.0, 2.0]}, "traces_w"),
        ({"max_shift": -1}, "max_shift"),
        ({"max_shift": True}, "max_shift"),
        ({"delay": 1.0}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"memory_bound": -0.1}, "memory_bound"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], field: str) -> None:
    good: dict[str, object] = {"traces_w": np.ones((2, 4)), "max_shift": 1, "delay": 0.1}
    with pytest.raises(InputError) as caught:
        peak_bound(**{**good, **change})  # type: ignore[arg-type]
    assert caught.value.field == field
