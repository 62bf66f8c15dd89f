"""Mixing forecasts on line: never much worse than the best member, causal, sums to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_energy.combine import follow, weights


def case(seed: int, times: int = 400, step: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Readings and two members' forecasts of ``step`` later, 2 % and 20 % off."""
    rng = np.random.default_rng(seed)
    run = 3000 + 500 * rng.random((times, 3))
    ahead = np.vstack([run[step:], run[-step:]])
    noise = rng.normal(size=(2, times, 3)) * np.array([0.02, 0.2])[:, None, None]
    return run, ahead * (1 + noise)


def error(forecast: np.ndarray, run: np.ndarray, step: int) -> float:
    return float((np.abs(forecast[:-step] - run[step:]) / run[step:]).mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.booleans())
def test_the_mixture_stays_near_its_best_member(seed: int, first: float, swap: bool) -> None:
    run, members = case(seed)
    members = members[::-1] if swap else members
    mixed = follow(members, run, 5, np.array([first, 1 - first]))
    best = min(error(m, run, 5) for m in members)
    assert error(mixed, run, 5) <= 1.35 * best
    assert error(mixed, run, 5) < 0.25 * max(error(m, run, 5) for m in members)


def test_weights_use_no_reading_of_the_future() -> None:
    run, members = case(3)
    changed = run.copy()
    changed[200:] *= 2.0
    prior = np.array([0.5, 0.5])
    a, b = weights(members, run, 5, prior), weights(members, changed, 5, prior)
    assert np.array_equal(a[:200], b[:200])
    assert a.sum(axis=1) == pytest.approx(1.0)
    # Until the first forecast falls due, and through ``skip``, the prior stands.
    late = weights(members, run, 5, np.array([0.7, 0.3]), skip=8)
    assert late[:13] == pytest.approx(np.tile([0.7, 0.3], (13, 1)))
    assert late[14, 0] > 0.7


def test_a_run_shorter_than_the_horizon_keeps_the_prior() -> None:
    run = np.full((4, 1), 100.0)
    members = np.stack([run, 2 * run])
    assert follow(members, run, 10, np.array([0.5, 0.5])) == pytest.approx(150.0)


def test_equal_members_share_and_perfect_ones_do_not_divide_by_zero() -> None:
    run = np.full((50, 2), 100.0)
    found = weights(np.stack([run, run]), run, 1, np.array([0.25, 0.75]))
    assert found == pytest.approx(np.tile([0.25, 0.75], (50, 1)))
