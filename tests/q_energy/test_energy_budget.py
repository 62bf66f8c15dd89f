"""Budget allocation against brute force, its bound, ramps and refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import Infeasible, InputError
from qcluster.q_energy import Allocation, Curve, allocate_budget
from qcluster.q_energy._kernels import hull_increments, take_increments
from qcluster.q_energy.budget import allocate_table
from qcluster.q_energy.budget_exact import exact_choice
from qcluster.q_energy.curve_table import CurveTable


def brute_force(curves: list[Curve], budget_w: float) -> float:
    """Best value over all choices."""
    best = -np.inf
    for choice in itertools.product(*[np.flatnonzero(c.allowed) for c in curves]):
        watts = sum(c.power_w[i] for c, i in zip(curves, choice, strict=True))
        if watts <= budget_w + 1e-9:
            best = max(best, sum(c.throughput[i] for c, i in zip(curves, choice, strict=True)))
    return float(best)


def random_curves(rng: np.random.Generator, n: int, k: int) -> list[Curve]:
    return [Curve(rng.integers(50, 400, k), rng.random(k)) for _ in range(n)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.floats(0, 1))
def test_small_problems_are_solved_to_the_optimum(seed: int, n: int, k: int, part: float) -> None:
    curves = random_curves(np.random.default_rng(seed), n, k)
    low = sum(c.power_w.min() for c in curves)
    high = sum(c.power_w.max() for c in curves)
    budget = low + part * (high - low)
    found = allocate_budget(curves, budget_w=budget)
    best = brute_force(curves, budget)
    assert found.value == pytest.approx(best)
    assert found.upper_bound >= best - 1e-9
    assert found.total_w <= budget + 1e-6
    assert found.min_budget_w == pytest.approx(low)


def test_greedy_alone_is_within_one_increment_of_the_bound() -> None:
    rng = np.random.default_rng(1)
    curves = [
        Curve(p := np.linspace(100, 400, 12), np.sqrt(p - s)) for s in rng.uniform(0, 90, 200)
    ]
    found = allocate_budget(curves, budget_w=200 * 230.0)
    steepest = max(np.diff(c.throughput).max() for c in curves)
    assert found.upper_bound - found.value <= steepest
    assert found.value / found.upper_bound > 0.999


def test_choice_indexes_the_points_as_given() -> None:
    curves = [Curve([300, 100, 200], [3.0, 1.0, 2.5]), Curve([50], [1.0])]
    found = allocate_budget(curves, budget_w=260)
    assert found.choice.tolist() == [2, 0]
    assert found.power_w.tolist() == [200, 50]


def test_floors_and_ceilings_hold() -> None:
    curves = [Curve([100, 200, 300], [1, 2, 3], min_w=150, max_w=250)] * 3
    found = allocate_budget(curves, budget_w=10_000)
    assert found.power_w.tolist() == [200, 200, 200]


def test_infeasible_budget_names_the_smallest_feasible_one() -> None:
    curves = [Curve([100, 200], [1, 2]), Curve([150, 250], [1, 2])]
    with pytest.raises(Infeasible, match="smallest feasible budget is 250 W"):
        allocate_budget(curves, budget_w=200)
    assert allocate_budget(curves, budget_w=250).total_w == 250


def test_ramp_bounds_the_total_both_ways() -> None:
    curves = [Curve(np.arange(100, 401, 10), np.sqrt(np.arange(100, 401, 10)))] * 10
    low = allocate_budget(curves, budget_w=1500)
    up = allocate_budget(curves, budget_w=4000, previous=low, max_ramp_w=300)
    assert low.total_w < up.total_w <= low.total_w + 300
    high = allocate_budget(curves, budget_w=4000)
    # Throughput falls beyond the peak, so without a ramp the best is far below ``high``.
    falling = [Curve(c.power_w, -c.throughput) for c in curves]
    down = allocate_budget(falling, budget_w=4000, previous=high.choice, max_ramp_w=300)
    assert high.total_w - 300 - 1e-6 <= down.total_w <= high.total_w


def test_ramp_that_does_not_reach_the_budget_is_infeasible() -> None:
    curves = [Curve([100, 400], [1, 2])] * 4
    high = allocate_budget(curves, budget_w=1600)
    with pytest.raises(Infeasible, match="reaches down to 1300 W"):
        allocate_budget(curves, budget_w=1000, previous=high, max_ramp_w=300)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"budget_w": float("nan")}, "finite"),
        ({"budget_w": True}, "wants watts"),
        ({"budget_w": 500, "max_ramp_w": 10}, "previous"),
        ({"budget_w": 500, "previous": [0, 1], "max_ramp_w": 10}, "shape"),
        ({"budget_w": 500, "previous": [7]}, "beyond its curve"),
        ({"budget_w": 500, "previous": [0.5]}, "indices"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        allocate_budget([Curve([100, 200], [1, 2])], **kwargs)


def test_no_curves_and_no_curve() -> None:
    with pytest.raises(InputError, match="at least one curve"):
        allocate_budget([], budget_w=1)
    with pytest.raises(InputError, match="wants a Curve"):
        allocate_budget([[1, 2]], budget_w=1)


def test_hull_kernel_agrees_with_a_plain_hull() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        power = rng.integers(1, 30, 8).astype(float)
        value = rng.normal(size=8)
        base, _, point, watts, gain = hull_increments(
            power, value, np.array([0, 8]), np.ones(8, bool)
        )
        path = [int(base[0]), *point.tolist()]
        assert power[path[0]] == power.min()
        slopes = gain / watts
        assert (watts > 0).all()
        assert (gain > 0).all()
        assert (np.diff(slopes) <= 1e-12).all()
        # No point lies above the hull.
        inside = power <= power[path[-1]]
        assert (value[inside] <= np.interp(power[inside], power[path], value[path]) + 1e-9).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999, 1.0, 1.1])
@pytest.mark.parametrize("kinds", [1, 3, 400])
def test_many_increments_are_taken_as_if_they_had_been_sorted(share: float, kinds: int) -> None:
    """More than are put in order; with few kinds of curves most slopes are equal."""
    rng = np.random.default_rng(7)
    steps = rng.uniform(1.0, 30.0, (kinds, 40)), rng.uniform(0.1, 1.0, (kinds, 40))
    power, value = (np.tile(np.cumsum(part, axis=1), (400 // kinds, 1)) for part in steps)
    n = len(power)
    table = CurveTable(
        power.ravel(), value.ravel(), np.arange(n + 1) * 40, np.ones(power.size, bool)
    )
    base, curve, point, watts, gain = table.increments
    left = share * float(watts.sum())
    order = np.argsort(-gain / watts, kind="stable")
    spent = np.cumsum(watts[order])
    fits = int(np.searchsorted(spent, left + 1e-9, side="right"))
    bound = float(gain[order[:fits]].sum())
    if fits < len(order):
        bound += (left - (spent[fits - 1] if fits else 0.0)) * float(
            gain[order[fits]] / watts[order[fits]]
        )
    choice = base.copy()
    rest, won, upper = take_increments(curve, point, watts, gain, left, choice)
    assert upper == pytest.approx(bound, rel=1e-9, abs=1e-9)
    assert rest >= -1e-6
    assert won == pytest.approx(float((table.value[choice] - table.value[base]).sum()))
    assert left - rest == pytest.approx(
        float((table.power[choice] - table.power[base]).sum()), abs=1e-6
    )
    assert won >= bound - float((gain / watts).max()) * float(watts.max())
    if share < 1:
        assert rest < watts.max()


def test_exact_gives_up_rather_than_outgrow_its_limit() -> None:
    table = CurveTable.of(random_curves(np.random.default_rng(0), 12, 8))
    assert exact_choice(table, table.floor_w * 1.5, -1e9, max_states=10) is None


def test_ten_thousand_gpus_reach_the_bound() -> None:
    rng = np.random.default_rng(0)
    power = np.tile(np.linspace(200, 700, 26), (10_000, 1))
    demand = rng.uniform(400, 900, (10_000, 1))
    value = np.sqrt(np.minimum(1.0, (power - 100) / (demand - 100)))
    table = CurveTable(
        power.ravel(), value.ravel(), np.arange(10_001) * 26, np.ones(power.size, bool)
    )
    found = allocate_table(table, budget_w=4.5e6)
    assert found.value / found.upper_bound > 0.99999


def test_allocation_survives_json() -> None:
    found = allocate_budget([Curve([100, 200], [1, 2])], budget_w=150)
    assert Allocation.from_dict(found.to_dict()) == found
