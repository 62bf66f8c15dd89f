"""The reserve for new jobs: its quantile against simulation, and what each cap adds to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_energy.curve_family import GRID
from qcluster.q_energy.reserve import RISK, Newcomers, Reserve

CAPS = 300.0 * GRID


def newcomers(tops: list[float]) -> Newcomers:
    """Jobs that draw their cap up to a top."""
    draw = np.minimum(GRID, np.array(tops)[:, None] / 300.0)
    return Newcomers.of(draw, np.tile(GRID, (len(tops), 1)), CAPS, 300.0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-80, 100), min_size=1, max_size=6),
    st.integers(1, 40),
    st.floats(1e-3, 0.1),
)
def test_the_reserve_covers_all_but_its_risk(change: list[float], n: int, share: float) -> None:
    jumps = np.tile(change, (n, 1))
    weight = np.full(jumps.shape, 1.0 / len(change))
    kept = Reserve.of(jumps, weight, share)
    rng = np.random.default_rng(0)
    many = rng.poisson(share * n, 40_000)
    sums = np.array([rng.choice(change, k).sum() if k else 0.0 for k in many])
    assert (sums > kept.watts + 1e-9).mean() < RISK + 4 * np.sqrt(RISK / 40_000)
    assert kept.watts >= 0


def test_it_is_not_more_than_the_simulated_quantile_by_much() -> None:
    rng = np.random.default_rng(1)
    jumps = rng.uniform(-60, 90, (50, 20))
    kept = Reserve.of(jumps, np.full(jumps.shape, 0.05), 0.01)
    sums = np.zeros(100_000)
    for row in jumps:
        hit = rng.random(len(sums)) < 0.01
        sums[hit] += rng.choice(row, int(hit.sum()))
    assert kept.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)


def test_a_budget_of_means_needs_less_the_sooner_a_change_is_seen() -> None:
    """What lasts a quarter of the mean's second: four times the changes, a quarter each."""
    rng = np.random.default_rng(2)
    jumps = rng.uniform(-60, 150, (60, 10))
    weight = np.full(jumps.shape, 0.1)
    between, mean = Reserve.of(jumps, weight, 0.0015), Reserve.of(jumps, weight, 0.006, 0.25)
    assert mean.watts < 0.5 * between.watts
    sums = np.zeros(100_000)
    for row in 0.25 * jumps:
        hit = rng.random(len(sums)) < 0.006
        sums[hit] += rng.choice(row, int(hit.sum()))
    assert mean.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)
    assert mean.price(np.full((1, 3), 150.0)).max() < between.price(np.full((1, 3), 150.0)).max()


def test_no_room_needs_no_reserve() -> None:
    kept = Reserve.of(np.zeros((4, 3)), np.full((4, 3), 1 / 3), 0.05)
    assert kept.watts == pytest.approx(0.0, abs=1e-3)


def test_a_cap_costs_what_leaving_it_would_save() -> None:
    new = newcomers([80.0, 150.0, 290.0])
    drawn = np.full(40, 100.0)
    at = np.full(40, 30)
    kept = Reserve.of(new.jumps(at, drawn), np.tile(new.weight, (40, 1)), 0.02)
    price = new.prices(kept, np.full((1, len(GRID)), 100.0))[0]
    assert price[0] == pytest.approx(0.0, abs=0.05)
    assert (np.diff(price) >= -1e-9).all()
    # One of forty removed: the reserve falls by about its price.
    without = Reserve.of(new.jumps(at, drawn)[:39], np.tile(new.weight, (39, 1)), 0.02)
    assert kept.watts - without.watts <= 3 * price[30]
    assert 0 < price[30] < kept.watts


def test_newcomers_are_the_present_jobs_and_some_that_fill_their_cap() -> None:
    new = newcomers([100.0] * 97)
    assert new.weight.sum() == pytest.approx(1.0)
    assert new.weight[-1] == pytest.approx(0.03)
    np.testing.assert_allclose(new.draw_w[-1], CAPS)
    np.testing.assert_allclose(new.draw_w[0], np.minimum(CAPS, 100.0))


def test_with_nothing_known_every_newcomer_fills_its_cap() -> None:
    new = Newcomers.of(np.empty((0, len(GRID))), np.empty((0, len(GRID))), CAPS, 300.0)
    np.testing.assert_allclose(new.draw_w, CAPS[None])
    np.testing.assert_allclose(new.weight, [1.0])


def test_jobs_seen_on_other_limits_are_met_at_the_same_share() -> None:
    limits = np.maximum(GRID, 0.5)
    new = Newcomers.of(0.9 * limits[None], limits[None], CAPS, 300.0)
    at = np.flatnonzero(GRID >= 0.5)
    np.testing.assert_allclose(new.draw_w[0, at], 0.9 * CAPS[at], rtol=1e-9)
