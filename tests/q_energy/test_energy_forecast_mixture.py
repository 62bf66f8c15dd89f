"""The mixture of forecasts: its weights, what it gains from phases, what its floor guards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.q_energy.forecast_features import LAGS, PHASES, features, spells
from qcluster.q_energy.forecast_mixture import Mixture, convex_weights, fit_mixture


def cycles(times: int, seed: int, offset: int = 0) -> np.ndarray:
    """Work for 40 steps and an evaluation for 6, again and again, (times, 1) watts."""
    rng = np.random.default_rng(seed)
    low = (np.arange(times) + offset) % 46 >= 40
    return (np.where(low, 3000.0, 9000.0) * (1 + 0.01 * rng.normal(size=times)))[:, None]


def wrong(guess: np.ndarray, run: np.ndarray, step: int) -> float:
    return float((np.abs(guess[60:-step] - run[60 + step :]) / run[60 + step :]).mean())


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return fit_mixture([cycles(500, 0)], 10, rounds=60, seed=0)[0]


def test_evaluations_are_foreseen_from_how_long_work_has_lasted(mixture: Mixture) -> None:
    run = cycles(300, 1, offset=17)
    found = mixture.predict(run, 10, ())
    assert found.shape == (1 + len(mixture.members), 300, 1)
    best = min(wrong(member, run, 10) for member in found)
    assert best < 0.4 * wrong(found[1], run, 10)


def test_a_mixture_of_what_helps_errs_less_than_its_floor(mixture: Mixture) -> None:
    assert mixture.worst < 0.9
    assert mixture.weight.sum() == pytest.approx(1.0)
    assert mixture.prior.sum() == pytest.approx(1.0)
    assert mixture.prior[0] > mixture.prior[1] > mixture.prior[2:].sum() > 0
    assert replace(mixture, runs=6).prior[0] > mixture.prior[0]


def test_little_evidence_stays_near_the_floor(mixture: Mixture) -> None:
    few = replace(mixture, runs=1, horizons=15.0, worst=1.0)
    assert few.reach == pytest.approx(0.1)
    assert replace(few, worst=0.95).reach == pytest.approx(0.6)
    assert replace(few, runs=20).reach == replace(few, worst=0.5).reach == 1.0


def test_arrays_hold_all_of_it(mixture: Mixture) -> None:
    run = cycles(120, 2)
    arrays = mixture.arrays("m")
    np.testing.assert_array_equal(
        Mixture.of(arrays, "m").predict(run, 10, ()), mixture.predict(run, 10, ())
    )
    del arrays["m.seen"]
    with pytest.raises(KeyError):
        Mixture.of(arrays, "m")


def test_noise_is_left_near_the_floor() -> None:
    rng = np.random.default_rng(3)
    runs = [6000 * (1 + 0.03 * rng.normal(size=(150, 1))) for _ in range(4)]
    model, held, actual = fit_mixture(runs[:3], 5, rounds=40, seed=0)
    assert held.shape == actual.shape == (3 * (150 - LAGS - 5),)
    found = model.predict(runs[3], 5, [run.mean(axis=1) for run in runs[:3]])
    assert wrong(found[0], runs[3], 5) < 1.02 * wrong(found[1], runs[3], 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 3))
def test_weights_never_do_worse_than_where_they_start(seed: int, members: int, folds: int) -> None:
    rng = np.random.default_rng(seed)
    actual = rng.uniform(1000, 9000, 90)
    held = actual * (1 + rng.uniform(0.01, 0.3, (members, 1)) * rng.normal(size=(members, 90)))
    weight = convex_weights(held, actual, np.arange(90) % folds)
    assert weight.shape == (members,)
    assert weight.min() >= 0
    assert weight.sum() == pytest.approx(1.0)
    start = np.full(members, 0.5 / (members - 1))
    start[0] = 0.5

    def cost(share: np.ndarray) -> float:
        ratios = []
        for fold in range(folds):
            rows = np.arange(90) % folds == fold
            off = (np.abs(share @ held - actual) / actual)[rows].mean()
            ratios.append(off / (np.abs(held[0] - actual) / actual)[rows].mean())
        return float(np.mean(ratios) + np.max(ratios))

    assert cost(weight) <= cost(start) + 0.02


def test_a_perfect_member_takes_the_weight_and_a_useless_one_none() -> None:
    rng = np.random.default_rng(4)
    actual = rng.uniform(1000, 9000, 300)
    held = np.stack([actual * 1.2, actual * rng.uniform(0.1, 3, 300), actual])
    weight = convex_weights(held, actual, np.arange(300) % 3)
    assert weight[2] > 0.8
    assert weight[1] < 0.02


def test_spells_count_from_the_last_change() -> None:
    mean = np.r_[np.full(5, 100.0), np.full(3, 50.0), np.full(4, 100.0)]
    age, before, earlier, low = (column[:, 0] for column in spells(mean)[:4])
    assert age.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 1, 2, 3, 4]
    assert before[5:].tolist() == [5, 5, 5, 3, 3, 3, 3]
    assert np.isnan(before[:5]).all()
    assert earlier[8:].tolist() == [5, 5, 5, 5]
    assert low.tolist() == [0] * 5 + [1] * 3 + [0] * 4


def test_features_of_one_run_tell_neither_time_nor_analogues() -> None:
    run = cycles(200, 5)
    alone = features(run, 5, (), rich=True)
    assert (alone[:, :, 2 * LAGS] == -1).all()
    assert np.isfinite(alone).all()
    told = features(run, 5, [cycles(200, 6)[:, 0]], rich=True)
    assert told[7, 0, 2 * LAGS] == 7
    assert PHASES < told.shape[2] == alone.shape[2]
