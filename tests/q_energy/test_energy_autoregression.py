"""The linear forecast from minutes of history: tones of any period, files, causality."""

from __future__ import annotations

import numpy as np
import pytest

from qcluster.q_energy.autoregression import Autoregression


def tones(times: int, phase: float = 0.0, nodes: int = 2, seed: int = 0) -> np.ndarray:
    """Two tones whose periods are no whole number of steps, with a little noise."""
    at = np.arange(times)[:, None]
    wave = 600 * np.sin(2 * np.pi * at / 5.45 + phase) + 300 * np.sin(2 * np.pi * at / 36.3 + phase)
    return 7000.0 + wave + 20 * np.random.default_rng(seed).normal(size=(times, nodes))


def fitted(run: np.ndarray, step: int) -> Autoregression:
    return Autoregression.fit([run], [np.arange(8, len(run) - step)], step)


@pytest.mark.parametrize("step", [1, 5, 30])
def test_tones_go_on_in_a_run_of_another_phase(step: int) -> None:
    run = tones(400, phase=1.0, seed=1)
    guess = fitted(tones(800), step).predict(run)
    wrong = np.abs(guess[100:-step] - run[100 + step :]).mean()
    assert wrong < 0.1 * np.abs(run - run.mean()).mean()


def test_noise_is_forecast_by_its_mean() -> None:
    rng = np.random.default_rng(2)
    guess = fitted(5000 + 50 * rng.normal(size=(500, 1)), 3).predict(
        5000 + 50 * rng.normal(size=(300, 1))
    )
    assert np.abs(guess - 5000).mean() < 30


def test_it_looks_back_only_and_stays_in_the_range_it_saw() -> None:
    model, run = fitted(tones(400), 5), tones(200, seed=3)
    changed = run.copy()
    changed[120:] *= 4.0
    assert np.array_equal(model.predict(run)[:120], model.predict(changed)[:120])
    assert model.predict(changed).max() <= tones(400).max()
    assert model.predict(run[:1]).shape == (1, 2)


def test_nodes_that_differ_are_told_from_their_mean() -> None:
    run = tones(400, nodes=1) + np.array([[0.0, 900.0]])
    guess = fitted(run, 5).predict(run)
    assert np.diff(guess[100:], axis=1).mean() == pytest.approx(900.0, rel=0.1)


def test_arrays_hold_all_of_it() -> None:
    model, run = fitted(tones(300), 4), tones(120, seed=4)
    again = Autoregression.of(model.arrays("a"), "a")
    np.testing.assert_array_equal(again.predict(run), model.predict(run))
