"""Watts where the work is, against a search over all caps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.joint.rates import rates
from qcluster.joint.watts import cap_for_speed, level_caps, part_of
from qcluster.q_energy.capping import predicted_speed
from qcluster.q_energy.units import Units


def made(seed: int, n: int) -> Units:
    rng = np.random.default_rng(seed)
    high = rng.choice([300.0, 700.0, 1000.0], n)
    floor = high * rng.uniform(0.2, 0.4, n)
    demand = rng.uniform(0.3, 1.1, n) * high
    return Units(
        kind="gpu",
        ids=tuple(f"a/{i}" for i in range(n)),
        nodes=("a",),
        node=np.zeros(n, dtype=np.int64),
        min_w=floor,
        max_w=high,
        p50_w=demand * 0.9,
        demand_w=demand,
        idle_w=floor * 0.5,
        memory=rng.uniform(0.0, 0.6, n),
        overhead_w=np.zeros(1),
    )


def longest(units: Units, load: np.ndarray, links: np.ndarray, caps: np.ndarray) -> float:
    rate = rates(predicted_speed(units, caps), links, 0.25)
    return float((load / rate).max())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.0))
def test_a_cap_for_a_speed_gives_that_speed_and_no_smaller_cap_does(seed, speed):
    units = made(seed, 4)
    caps = cap_for_speed(units, np.full(4, speed))
    reached = predicted_speed(units, caps)
    assert (reached >= speed - 1e-9).all()
    above = caps > units.min_w + 1e-6
    assert (predicted_speed(units, caps * (1 - 1e-4))[above] < speed).all()


def test_no_cap_gives_more_than_full_speed():
    assert np.isinf(cap_for_speed(made(1, 3), np.full(3, 1.01))).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_no_caps_of_a_fine_grid_end_the_step_sooner(seed):
    rng = np.random.default_rng(seed)
    units = made(seed, 3)
    load, links = rng.uniform(0.2, 1.0, 3), rng.choice([1.0, 0.5], 3)
    full = np.maximum(np.minimum(units.demand_w, units.max_w), units.min_w)
    watts = float((units.min_w + rng.uniform(0.1, 0.9) * (full - units.min_w)).sum())
    caps = level_caps(units, load, links, watts, communication_share=0.25)

    assert caps.sum() <= watts * (1 + 1e-9) + 1e-6
    assert (caps >= units.min_w - 1e-9).all()
    assert (caps <= full + 1e-9).all()
    ours = longest(units, load, links, caps)
    grid = [np.linspace(low, high, 25) for low, high in zip(units.min_w, full, strict=True)]
    best = min(
        longest(units, load, links, np.array(c))
        for c in itertools.product(*grid)
        if sum(c) <= watts
    )
    assert ours <= best * (1 + 1e-6)


def test_an_idle_gpu_gives_its_watts_to_those_with_work():
    units = made(5, 4)
    load = np.array([1.0, 1.0, 0.0, 0.0])
    watts = float(units.min_w.sum()) + 30.0
    caps = level_caps(units, load, np.ones(4), watts, communication_share=0.0)
    assert caps[2:] == pytest.approx(units.min_w[2:])
    assert caps[:2].sum() > units.min_w[:2].sum() + 20.0


def test_enough_watts_leave_everybody_at_full_speed():
    units = made(7, 5)
    caps = level_caps(units, np.ones(5), np.ones(5), 1e6, communication_share=0.2)
    assert predicted_speed(units, caps) == pytest.approx(
        predicted_speed(units, np.maximum(np.minimum(units.demand_w, units.max_w), units.min_w))
    )


def test_nobody_has_work():
    units = made(9, 3)
    watts = float(units.min_w.sum()) * 1.1
    caps = level_caps(units, np.zeros(3), np.ones(3), watts, communication_share=0.2)
    assert caps.sum() == pytest.approx(min(watts, np.maximum(units.demand_w, units.min_w).sum()))


def test_some_of_the_units():
    units = made(11, 4)
    part = part_of(units, np.array([2, 0]))
    assert part.ids == ("a/2", "a/0")
    assert part.demand_w.tolist() == [units.demand_w[2], units.demand_w[0]]
