"""Mixing forecasts on line: near the best blend of members, causal, from where it started."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_energy.combine import Savings, follow


def case(seed: int, times: int = 400, step: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Readings and two members' forecasts of ``step`` later, 2 % and 20 % off."""
    rng = np.random.default_rng(seed)
    run = 3000 + 500 * rng.random((times, 3))
    ahead = np.vstack([run[step:], run[-step:]])
    noise = rng.normal(size=(2, times, 3)) * np.array([0.02, 0.2])[:, None, None]
    return run, ahead * (1 + noise)


def error(forecast: np.ndarray, run: np.ndarray, step: int) -> float:
    return float((np.abs(forecast[:-step] - run[step:]) / run[step:]).mean())


HALF = np.array([0.5, 0.5])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.booleans())
def test_the_mixture_stays_near_its_best_member(seed: int, first: float, swap: bool) -> None:
    run, members = case(seed)
    members = members[::-1] if swap else members
    mixed, _ = follow(members, run, 5, np.array([first, 1 - first]))
    best = min(error(m, run, 5) for m in members)
    assert error(mixed, run, 5) <= 1.8 * best
    assert error(mixed[200:], run[200:], 5) <= 1.35 * best
    assert error(mixed, run, 5) < 0.25 * max(error(m, run, 5) for m in members)


def test_a_blend_better_than_every_member_is_found() -> None:
    run, _ = case(1, times=600)
    ahead = np.vstack([run[5:], run[-5:]])
    members = np.stack([1.1 * ahead, 0.8 * ahead])
    mixed, _ = follow(members, run, 5, HALF)
    assert error(mixed[300:], run[300:], 5) < 0.2 * error(members[0], run, 5)


def test_small_gains_that_last_outweigh_one_large_loss() -> None:
    run = np.full((900, 1), 1000.0)
    steady, rough = np.full_like(run, 1040.0), np.full_like(run, 1010.0)
    rough[100:105] = 2000.0
    mixed, _ = follow(np.stack([steady, rough]), run, 5, HALF)
    assert abs(mixed[115, 0] - 1040) < 10
    assert error(mixed[600:], run[600:], 5) < 0.02


def test_no_reading_of_the_future_is_used() -> None:
    run, members = case(3)
    changed = run.copy()
    changed[200:] *= 2.0
    a, b = (follow(members, r, 5, HALF)[0] for r in (run, changed))
    assert np.array_equal(a[:200], b[:200])
    # Until the first forecast falls due, and through ``skip``, the prior stands.
    prior = np.array([0.7, 0.3])
    late, _ = follow(members, run, 5, prior, skip=8)
    assert late[:13] == pytest.approx(np.einsum("k,ktn->tn", prior, members[:, :13]))
    assert late[13] != pytest.approx(prior @ members[:, 13])


def test_a_new_run_starts_from_what_was_saved() -> None:
    run, members = case(4)
    _, seen = follow(members, run, 5, HALF)
    assert seen.weights(HALF)[0] > 0.8
    start = seen.times(0.1)
    again, end = follow(members, run, 5, HALF, start)
    assert again[0] == pytest.approx(start.weights(HALF) @ members[:, 0])
    grown = end.less(start)
    assert grown.plus(start).total == pytest.approx(end.total)
    assert (grown.square > 0).all()


def test_a_run_shorter_than_the_horizon_keeps_the_prior() -> None:
    run = np.full((4, 1), 100.0)
    mixed, seen = follow(np.stack([run, 2 * run]), run, 10, HALF)
    assert mixed == pytest.approx(150.0)
    assert seen.total.tolist() == [0.0, 0.0]


def test_equal_members_share_and_perfect_ones_do_not_divide_by_zero() -> None:
    run = np.full((50, 2), 100.0)
    mixed, seen = follow(np.stack([run, run]), run, 1, np.array([0.25, 0.75]))
    assert mixed == pytest.approx(100.0)
    assert seen.weights(np.array([1.0, 3.0])) == pytest.approx([0.25, 0.75])


def test_savings_are_saved_whole() -> None:
    seen = Savings(np.array([0.5, -0.25]), np.array([0.1, 0.2]), 0.3)
    back = Savings.of(seen.arrays("a"), "a")
    assert (back.total == seen.total).all()
    assert (back.square == seen.square).all()
    assert back.most == seen.most
