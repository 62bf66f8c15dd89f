"""A budget whose total may not fall or rise fast: the best choice in a band of watts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import Infeasible
from qcluster.q_energy import Allocation, Curve, allocate_budget


def best_in_band(curves: list[Curve], least: float, most: float) -> float | None:
    """By enumeration; None when no choice lies there."""
    found = [
        sum(float(c.throughput[k]) for c, k in zip(curves, choice, strict=True))
        for choice in itertools.product(*[range(len(c.power_w)) for c in curves])
        if least - 1e-9
        <= sum(float(c.power_w[k]) for c, k in zip(curves, choice, strict=True))
        <= most + 1e-9
    ]
    return max(found, default=None)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 40.0, 300.0]), st.floats(0.5, 1.3))
def test_the_band_of_a_ramp_is_searched_whole(seed: int, ramp: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(int(rng.integers(1, 5))):
        size = int(rng.integers(1, 6))
        pace = rng.uniform(0, 5, size)
        watts = np.sort(np.round(rng.uniform(100, 700, size)))
        curves.append(Curve(watts, np.sort(pace) if rng.random() < 0.7 else pace))
    previous = np.array([rng.integers(0, len(c.power_w)) for c in curves])
    total = sum(float(c.power_w[k]) for c, k in zip(curves, previous, strict=True))
    best = best_in_band(curves, total - ramp, min(share * total, total + ramp))

    def ask() -> Allocation:
        return allocate_budget(curves, budget_w=share * total, previous=previous, max_ramp_w=ramp)

    if best is None:
        with pytest.raises(Infeasible):
            ask()
        return
    found = ask()
    assert found.value == pytest.approx(best, abs=1e-9)
    assert abs(found.total_w - total) <= ramp + 1e-6
    assert found.total_w <= share * total + 1e-6


def test_many_curves_hold_what_is_in_force_where_steps_miss_the_band() -> None:
    curves = [Curve([100.0, 107.0 + k], [1.0, 0.5]) for k in range(300)]
    previous = np.ones(300, int)
    held = allocate_budget(curves, budget_w=1e6, previous=previous, max_ramp_w=0.0)
    assert held.total_w == pytest.approx(sum(c.power_w[1] for c in curves))
    with pytest.raises(Infeasible, match="smallest feasible budget"):
        allocate_budget(curves, budget_w=3.1e4, previous=previous, max_ramp_w=0.0)


@pytest.mark.parametrize("n", [60, 4000])
def test_a_slow_way_down_costs_little_on_many_curves(n: int) -> None:
    rng = np.random.default_rng(n)
    watts = np.linspace(200.0, 700.0, 26)
    curves = []
    for demand in rng.uniform(250, 600, n):
        # Above the demand more watts bring no more, on some GPUs even less.
        pace = np.minimum(watts / demand, 1.0) ** 0.6
        curves.append(Curve(watts, pace - rng.choice([0, 1e-4]) * np.maximum(watts - demand, 0)))
    previous = np.full(n, 25)
    ramp = 100.0 * n
    found = allocate_budget(curves, budget_w=1e9, previous=previous, max_ramp_w=ramp)
    assert 600.0 * n - 1e-6 <= found.total_w <= 600.0 * n + 20.0
    # A proof by prices (Everett 1963): reward watts until those of the band are drawn.
    price = min(
        sum(float((c.throughput + r * c.power_w).max()) for c in curves) - r * 600.0 * n
        for r in np.linspace(0.0, 2e-4, 41)
    )
    assert found.value <= price + 1e-9
    assert found.value >= 0.9999 * price


def test_equal_throughput_takes_the_fewest_watts_of_the_band() -> None:
    curves = [Curve([100.0 + k, 300.0 + k], [1.0, 1.0]) for k in range(500)]
    previous = np.ones(500, int)
    found = allocate_budget(curves, budget_w=1e9, previous=previous, max_ramp_w=4000.0)
    total = sum(float(c.power_w[1]) for c in curves)
    assert total - 4000.0 - 1e-6 <= found.total_w <= total - 4000.0 + 200.0
    assert found.value == 500.0
