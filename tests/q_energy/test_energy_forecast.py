"""Forecasts: skill on repeating runs, coverage of bounds, causality, files, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qcluster.errors import FormatError, InputError
from qcluster.q_energy import Forecaster, PowerTrace, fit_forecaster, forecast_power
from qcluster.q_energy.conformal import quantile_of, scores, track
from qcluster.q_energy.forecast import banded
from qcluster.q_energy.forecast_features import features, grid
from qcluster.q_energy.trees import Trees


def make_run(seed: int, steps: int = 160, nodes: int = 2) -> pd.DataFrame:
    """A job that loads, trains in a square wave and stops; the same phases in every run."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps)
    shape = np.where(at < 20, 2000, np.where(at % 24 < 18, 6000, 4000))
    frames = []
    for node in range(nodes):
        watts = shape * (1 + 0.03 * node) * (1 + 0.01 * rng.normal(size=steps))
        frames.append(pd.DataFrame({"ts_s": 2.0 * at, "node": f"n{node}", "power_w": watts}))
    return pd.concat(frames)


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return fit_forecaster([make_run(s) for s in range(3)], horizons_s=(2.0, 20.0), rounds=80)


def grid_of(frame: pd.DataFrame) -> np.ndarray:
    names, times = frame["node"].to_numpy(dtype=str), frame["ts_s"].to_numpy(float)
    return grid(PowerTrace.of(names, times, frame["power_w"].to_numpy(float)), 2.0)[1]


def test_a_fitted_model_beats_persistence_by_far(model: Forecaster) -> None:
    run = grid_of(make_run(9))
    for at, step in enumerate(model.horizons):
        wrong = np.abs(model.predict(run, at)[8:-step] - run[8 + step :]) / run[8 + step :]
        stale = np.abs(run[8:-step] - run[8 + step :]) / run[8 + step :]
        assert wrong.mean() < 0.5 * stale.mean()


def test_upper_bounds_cover_what_they_say(model: Forecaster) -> None:
    inside = []
    for seed in range(20, 23):
        run = grid_of(make_run(seed))
        for at, step in enumerate(model.horizons):
            bands = banded(run, model.predict(run, at), step, model.errors[at], (0.5, 0.95))
            inside.append((run[8 + step :] <= bands[8:-step, :, 1]).mean())
    assert 0.9 <= np.mean(inside) <= 0.99


def test_rows_are_future_steps_with_rising_quantiles(model: Forecaster) -> None:
    history = make_run(7, steps=100)
    found = forecast_power(history, horizon_s=20.0, quantiles=(0.95, 0.05, 0.5), model=model)
    assert found.columns.tolist() == ["node", "ts_s", "q0.05", "q0.5", "q0.95"]
    assert len(found) == 2 * 10
    assert found["ts_s"].min() == pytest.approx(200.0)
    assert found["ts_s"].max() == pytest.approx(218.0)
    assert (np.diff(found[["q0.05", "q0.5", "q0.95"]].to_numpy(), axis=1) >= 0).all()


def test_without_a_model_running_means_answer() -> None:
    steady = make_run(3, steps=60)
    found = forecast_power(steady, horizon_s=10.0)
    assert len(found) == 2 * 5
    assert (found["q0.95"] >= found["q0.5"]).all()
    assert found["q0.5"].between(1000, 8000).all()
    single = pd.DataFrame({"ts_s": [0.0], "node": ["a"], "power_w": [500.0]})
    assert forecast_power(single, horizon_s=2.0)["q0.5"].tolist() == [500.0, 500.0]


def test_features_never_look_ahead() -> None:
    run = grid_of(make_run(1))
    library = [grid_of(make_run(2)).mean(axis=1)]
    changed = run.copy()
    changed[100:] *= 3.0
    a = features(run, 5, library, rich=True)[:100]
    b = features(changed, 5, library, rich=True)[:100]
    assert np.array_equal(a, b)
    assert features(run, 5, (), rich=True).shape == (160, 2, a.shape[2])


def test_trees_predict_as_the_library_does() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    x[::7, 1] = np.nan
    y = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) ** 2
    ours = Trees.fit(x, y, seed=0, rounds=20)
    theirs = HistGradientBoostingRegressor(loss="absolute_error", max_iter=20, random_state=0)
    assert ours.predict(x) == pytest.approx(theirs.fit(x, y).predict(x))


@pytest.mark.parametrize("rows", [301, 300])
def test_weighted_fits_and_their_leaves_are_the_library_s(rows: int) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(1)
    x = rng.integers(0, 40, (rows, 3)).astype(float)
    y = x[:, 0] ** 2 + rng.normal(size=rows)
    weight = 1.0 / (1.0 + np.abs(y))
    theirs = HistGradientBoostingRegressor(loss="absolute_error", max_iter=20, random_state=0)
    theirs.fit(x, y, sample_weight=weight)
    # With few distinct values bins do not depend on weights: the same trees.
    assert Trees.fit(x, y, weight, rounds=20).predict(x) == pytest.approx(theirs.predict(x))


def test_weighted_fits_of_many_values_are_as_good_as_the_library_s() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor

    rng = np.random.default_rng(2)
    x = rng.normal(size=(1500, 3))
    y = 4000 + 2000 * np.sin(2 * x[:, 0]) + 300 * x[:, 1] + 50 * rng.normal(size=1500)
    new = rng.normal(size=(1500, 3))
    late = 4000 + 2000 * np.sin(2 * new[:, 0]) + 300 * new[:, 1]
    theirs = HistGradientBoostingRegressor(loss="absolute_error", max_iter=60, random_state=0)
    theirs.fit(x, y, sample_weight=1.0 / y)
    ours = Trees.fit(x, y, 1.0 / y, rounds=60)
    wrong = [float(np.abs(m.predict(new) / late - 1).mean()) for m in (ours, theirs)]
    assert wrong[0] < 1.1 * wrong[1]


def test_tracker_reaches_its_share_after_a_shift() -> None:
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(4000, 1)) * 0.05
    seen[2000:] += 0.1
    bound = track(seen, 0.95, quantile_of(seen[:500], 0.95), lag=5)
    assert 0.93 <= (seen[:2000] <= bound[:2000, None]).mean() <= 0.97
    assert 0.92 <= (seen[2500:] <= bound[2500:, None]).mean() <= 0.97
    assert quantile_of(np.empty(0), 0.9) == 0.0
    assert scores(np.array([110.0]), np.array([100.0])).tolist() == pytest.approx([0.1])


def test_grid_starts_after_the_last_long_gap() -> None:
    times = np.array([0.0, 2.0, 4.0, 1000.0, 1002.0, 1006.0])
    trace = PowerTrace.of(np.full(6, "a"), times, np.array([1.0, 1, 1, 10, 20, 40]))
    at, run = grid(trace, 2.0)
    assert at.tolist() == [1000, 1002, 1004, 1006]
    assert run[:, 0].tolist() == [10, 20, 30, 40]


def test_a_saved_model_forecasts_the_same(model: Forecaster, tmp_path: Path) -> None:
    path = tmp_path / "gpt3.safetensors"
    model.save(path)
    loaded = Forecaster.load(path)
    history = make_run(5, steps=80)
    a, b = (forecast_power(history, horizon_s=6.0, model=m) for m in (model, loaded))
    pd.testing.assert_frame_equal(a, b)
    path.write_bytes(b"junk")
    with pytest.raises(FormatError, match="no saved forecaster"):
        Forecaster.load(path)
    with pytest.raises(FormatError, match="absent"):
        Forecaster.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"horizon_s": 0}, "above 0"),
        ({"horizon_s": float("nan")}, "above 0"),
        ({"horizon_s": "4"}, "above 0"),
        ({"horizon_s": 1e9}, "at most 100000 steps"),
        ({"quantiles": 0.5}, "between 0 and 1"),
        ({"quantiles": (0.5, 1.0)}, "between 0 and 1"),
        ({"quantiles": ()}, "between 0 and 1"),
        ({"history": pd.DataFrame({"ts_s": [0], "node": ["a"]})}, "power_w"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        forecast_power(**{"history": make_run(0, steps=20), "horizon_s": 4.0, **change})


def test_limits_of_a_model_are_told(model: Forecaster) -> None:
    with pytest.raises(InputError, match="fitted for 20 s ahead"):
        forecast_power(make_run(0), horizon_s=60.0, model=model)
    with pytest.raises(InputError, match="longest run"):
        fit_forecaster([make_run(0, steps=20)], horizons_s=(60.0,))
    with pytest.raises(InputError, match="at least one run"):
        fit_forecaster([])
    with pytest.raises(InputError, match="rounds"):
        fit_forecaster([make_run(0)], rounds=0)
