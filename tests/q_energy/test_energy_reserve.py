"""The reserve for new jobs: its quantile against simulation, and what each cap adds to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_energy.curve_family import GRID
from qcluster.q_energy.reserve import RISK, Exposure, Newcomers, Reserve

CAPS = 300.0 * GRID


def newcomers(tops: list[float]) -> Newcomers:
    """Jobs that draw their cap up to a top."""
    draw = np.minimum(GRID, np.array(tops)[:, None] / 300.0)
    return Newcomers.of(draw, np.tile(GRID, (len(tops), 1)), CAPS, 300.0)


def exposed(n: int, share: float, lasts: float = 1.0) -> Exposure:
    return Exposure(np.full(n, share), np.full(n, lasts))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-80, 100), min_size=1, max_size=6),
    st.integers(1, 40),
    st.floats(1e-3, 0.1),
)
def test_the_reserve_covers_all_but_its_risk(change: list[float], n: int, share: float) -> None:
    jumps = np.tile(change, (n, 1))
    kept = Reserve.of(jumps, np.full(len(change), 1.0 / len(change)), exposed(n, share))
    rng = np.random.default_rng(0)
    many = rng.poisson(share * n, 40_000)
    sums = np.array([rng.choice(change, k).sum() if k else 0.0 for k in many])
    assert (sums > kept.watts + 1e-9).mean() < RISK + 4 * np.sqrt(RISK / 40_000)
    assert kept.watts >= 0


def test_it_is_not_more_than_the_simulated_quantile_by_much() -> None:
    rng = np.random.default_rng(1)
    jumps = rng.uniform(-60, 90, (50, 20))
    kept = Reserve.of(jumps, np.full(20, 0.05), exposed(50, 0.01))
    sums = np.zeros(100_000)
    for row in jumps:
        hit = rng.random(len(sums)) < 0.01
        sums[hit] += rng.choice(row, int(hit.sum()))
    assert kept.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)


def test_a_budget_of_means_needs_less_the_sooner_a_change_is_seen() -> None:
    """What lasts a quarter of the mean's second: four times the changes, a quarter each."""
    rng = np.random.default_rng(2)
    jumps = rng.uniform(-60, 150, (60, 10))
    weight = np.full(10, 0.1)
    between = Reserve.of(jumps, weight, exposed(60, 0.0015))
    mean = Reserve.of(jumps, weight, exposed(60, 0.006, 0.25))
    assert mean.watts < 0.5 * between.watts
    sums = np.zeros(100_000)
    for row in 0.25 * jumps:
        hit = rng.random(len(sums)) < 0.006
        sums[hit] += rng.choice(row, int(hit.sum()))
    assert mean.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)
    one = np.array([150.0])
    assert 0.006 * mean.price(0.25 * one)[0] < 0.0015 * between.price(one)[0]


def test_no_room_needs_no_reserve() -> None:
    kept = Reserve.of(np.zeros((4, 3)), np.full(3, 1 / 3), exposed(4, 0.05))
    assert kept.watts == pytest.approx(0.0, abs=1e-3)


def test_a_cap_costs_what_leaving_it_would_save() -> None:
    new = newcomers([80.0, 150.0, 290.0])
    drawn = np.full(40, 100.0)
    at = np.full(40, 30)
    kept = Reserve.of(new.jumps(at, drawn), new.weight, exposed(40, 0.02))
    price = new.prices(kept, np.full((1, len(GRID)), 100.0), exposed(1, 0.02))[0]
    assert price[0] == pytest.approx(0.0, abs=0.05)
    assert (np.diff(price) >= -1e-9).all()
    # One of forty removed: the reserve falls by about its price.
    without = Reserve.of(new.jumps(at, drawn)[:39], new.weight, exposed(39, 0.02))
    assert kept.watts - without.watts <= 3 * price[30]
    assert 0 < price[30] < kept.watts


def test_a_silent_gpu_counts_for_the_time_of_its_silence() -> None:
    """Four plans a second and a mean over one; the last two are silent for 0.5 and 5 s."""
    found = Exposure.of(np.array([0.0, 0.25, 0.5, 5.0]), 0.01, period_s=0.25, window_s=1.0)
    np.testing.assert_allclose(found.share, [0.01, 0.0125, 0.015, 0.06])
    np.testing.assert_allclose(found.lasts, [0.25, 0.25, 0.5, 1.0])
    assert Exposure.of(np.array([600.0]), 0.01, period_s=1.0, window_s=1.0).share[0] == 1.0


def test_the_reserve_of_silent_and_heard_gpus_is_the_quantile_of_their_sum() -> None:
    rng = np.random.default_rng(3)
    jumps = rng.uniform(-60, 90, (50, 20))
    share, lasts = np.repeat([0.01, 0.06], [42, 8]), np.repeat([0.25, 1.0], [42, 8])
    kept = Reserve.of(jumps, np.full(20, 0.05), Exposure(share, lasts))
    sums = np.zeros(100_000)
    for row, often, part in zip(jumps, share, lasts, strict=True):
        hits = rng.poisson(often, len(sums))
        for k in range(1, int(hits.max()) + 1):
            sums[hits >= k] += part * rng.choice(row, int((hits >= k).sum()))
    assert kept.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)
    heard = Reserve.of(jumps, np.full(20, 0.05), exposed(50, 0.01, 0.25))
    assert heard.watts < kept.watts


def test_errors_of_predicted_draws_add_to_what_new_jobs_bring() -> None:
    rng = np.random.default_rng(4)
    jumps, weight = rng.uniform(-60, 90, (50, 20)), np.full(20, 0.05)
    kept = Reserve.of(jumps, weight, exposed(50, 0.01), 40.0**2)
    sums = 40.0 * rng.standard_normal(100_000)
    for row in jumps:
        hit = rng.random(len(sums)) < 0.01
        sums[hit] += rng.choice(row, int(hit.sum()))
    assert kept.watts == pytest.approx(np.quantile(sums, 1 - RISK), rel=0.06)
    alone = Reserve.of(np.zeros((4, 3)), np.full(3, 1 / 3), exposed(4, 0.05), 10.0**2)
    assert alone.watts == pytest.approx(32.9, rel=0.02)  # 3.29 standard deviations


def test_room_costs_more_on_a_silent_gpu() -> None:
    new = newcomers([80.0, 150.0, 290.0])
    both = Exposure(np.array([0.01, 0.06]), np.array([0.25, 1.0]))
    drawn = np.full(2, 100.0)
    kept = Reserve.of(new.jumps(np.full(2, 30), drawn), new.weight, both)
    heard, silent = new.prices(kept, np.full((2, len(GRID)), 100.0), both)
    assert silent[-1] > heard[-1] >= 0


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
