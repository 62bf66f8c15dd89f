"""The mixture of forecasts: what it gains from phases, what its floor guards, its replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcluster.q_energy.forecast_features import LAGS, PHASES, features, spells
from qcluster.q_energy.forecast_mixture import PRIOR, Mixture, fit_mixture, replay


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
    assert found.shape == (len(mixture.members), 300, 1)
    best = min(wrong(member, run, 10) for member in found)
    assert best < 0.4 * wrong(found[0], run, 10)


def test_a_mixture_of_what_helps_errs_less_than_its_floor(mixture: Mixture) -> None:
    assert surety(mixture.gain, mixture.noise) > 1.0
    run = cycles(300, 1, offset=17)
    found = mixture.predict(run, 10, ())
    assert wrong(mixture.lead(found, run, 10), run, 10) < 0.6 * wrong(found[0], run, 10)


def test_the_floor_is_left_as_far_as_it_is_sure_that_this_helps(mixture: Mixture) -> None:
    run = cycles(300, 1)
    found = mixture.predict(run, 10, ())
    known = LAGS + 10  # until then the run itself says nothing
    full, half, none = (
        replace(mixture, gain=gain, noise=1.0).lead(found, run, 10)[:known]
        for gain in (2.0, 1.5, 1.0)
    )
    np.testing.assert_array_equal(none, found[0, :known])
    np.testing.assert_allclose(half, (found[0, :known] + full) / 2)
    assert np.abs(full - found[0, :known]).max() > 1.0


def test_a_run_that_goes_otherwise_brings_the_floor_back(mixture: Mixture) -> None:
    run = cycles(400, 1)
    found = np.stack([1.01 * run, *[1.5 * run] * 5])
    found = np.concatenate([found[:, 10:], found[:, -10:]], axis=1)
    trusting = replace(mixture, gain=0.3, noise=0.01)
    led = trusting.lead(found, run, 10)
    assert np.abs(led[0] / found[0, 0] - 1).max() > 0.1
    np.testing.assert_array_equal(led[100:], found[0, 100:])


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
    assert wrong(model.lead(found, runs[3], 5), runs[3], 5) < 1.02 * wrong(found[0], runs[3], 5)


def surety(gain: float, noise: float) -> float:
    """How many standard deviations the gain is."""
    return gain / max(noise, 1e-12) ** 0.5


def held_out(runs: list[np.ndarray], step: int, off: list[float]) -> np.ndarray:
    """Forecasts of ``step`` later by members so far ``off``, (members, rows)."""
    later = np.concatenate([run[LAGS + step :].ravel() for run in runs])
    return np.stack([later * (1 + share) for share in off])


def test_a_replay_is_sure_of_gains_that_repeat() -> None:
    runs = [cycles(200, seed) for seed in range(3)]
    held = held_out(runs, 5, [0.2, 0.3, 0.4, 0.25, 0.05, 0.5])
    led, start, gain, noise = replay(runs, 5, held)
    assert surety(gain, noise) > 2.0
    assert led.shape == held.shape[1:]
    assert int(np.argmax(start.weights(PRIOR))) == 4
    later = held[0] / 1.2
    assert np.abs(led - later).mean() < 0.5 * np.abs(held[0] - later).mean()


def test_a_replay_is_not_sure_of_members_that_err_more() -> None:
    rng = np.random.default_rng(6)
    runs = [cycles(200, seed) for seed in range(2)]
    held = held_out(runs, 5, [0.01] * 6)
    held[1:] *= 1 + 0.3 * rng.normal(size=held[1:].shape)
    _, start, gain, noise = replay(runs, 5, held)
    assert surety(gain, noise) < 1.0
    assert start.weights(PRIOR)[0] > 0.5
    # Members that agree gain nothing: the floor stands.
    assert replay(runs, 5, held_out(runs, 5, [0.01] * 6))[2:] == pytest.approx((0.0, 0.0))


def test_gains_of_one_spell_are_not_sure() -> None:
    runs = [cycles(400, 0)]
    held = held_out(runs, 5, [0.2] * 6)
    held[1:, 300:340] /= 1.2
    even = held_out(runs, 5, [0.2] * 6)
    even[1:, ::10] /= 1.2
    once, often = (surety(*replay(runs, 5, rows)[2:]) for rows in (held, even))
    assert 0.0 < once < 1.5
    assert often > 2.0


def test_a_replay_uses_no_reading_after_a_forecast() -> None:
    runs = [cycles(120, 0), cycles(120, 1)]
    rng = np.random.default_rng(7)
    rows = 2 * (120 - LAGS - 5)
    held = rng.uniform(2000, 9000, (6, rows))
    led, *_ = replay(runs, 5, held)
    runs[1] = runs[1].copy()
    runs[1][60:] *= 0.5
    again, *_ = replay(runs, 5, held)
    known = rows // 2 + 60 - LAGS
    np.testing.assert_array_equal(led[:known], again[:known])


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
