"""The searchers as Ray Tune calls them, without a running Ray."""

from __future__ import annotations

import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo import GPSearch, Study

tune = pytest.importorskip("ray.tune")

SPACE: dict[str, Any] = {"x": {"type": "uniform", "low": -5, "high": 5}}


def finish(search: Any, trial: str, config: dict[str, Any], value: Any, **more: Any) -> None:
    result = {"loss": value, "training_iteration": 1, "config": config, **more}
    search.on_trial_result(trial, result)
    search.on_trial_complete(trial, result)


def rounds(search: Any, n: int, start: int = 0) -> list[dict[str, Any]]:
    asked = []
    for i in range(start, start + n):
        config = search.suggest(f"trial_{i}")
        asked.append(config)
        finish(search, f"trial_{i}", config, config["x"] ** 2)
    return asked


# What scripts for OptunaSearch pass as param_space, over all domains of ray.tune.
PARAM_SPACES: list[dict[str, Any]] = [
    {"x": tune.uniform(-5, 5)},
    {"x": tune.uniform(-5, 5), "lr": tune.loguniform(1e-5, 1e-1)},
    {"x": tune.quniform(-5, 5, 0.5)},
    {"x": tune.qloguniform(1e-3, 1.0, 1e-3)},
    {"x": tune.randint(0, 10)},
    {"x": tune.qrandint(0, 10, 2)},
    {"x": tune.lograndint(1, 1000)},
    {"x": tune.qlograndint(4, 64, 4)},
    {"x": tune.choice([-1, 0, 1])},
    {"x": tune.choice([0.5, 1.5]), "act": tune.choice(["relu", "tanh", None])},
    {"x": tune.uniform(0, 1), "fixed": 3, "name": "run", "layers": [64, 64]},
    {"x": tune.uniform(0, 1), "model": {"depth": tune.randint(1, 5), "width": 64}},
    {"x": tune.uniform(0, 1), "a": {"b": {"c": tune.choice([1, 2])}}},
    {"x": tune.uniform(0, 1), "build": len, "array": np.zeros(3)},
    {"x": tune.randn(0, 1)},
    {"x": tune.qrandn(0, 2, 0.5)},
    {"x": tune.uniform(0, 1), "shape": tune.choice([(1, 2), (3, 4)])},
    {"x": tune.uniform(0, 1), "kind": tune.choice([dict, list])},
    {"x": tune.uniform(0, 1), **{f"p{i}": tune.uniform(0, 1) for i in range(12)}},
    {"x": tune.randint(0, 1), "y": tune.choice(["only"])},
]


@pytest.mark.parametrize("space", PARAM_SPACES, ids=range(len(PARAM_SPACES)))
def test_scripts_for_optunasearch_run_unchanged(space: dict[str, Any]) -> None:
    """The Tuner's space, metric and mode; suggestions of the right types inside the domains."""
    search = GPSearch(metric="loss", mode="min")
    assert search.set_search_properties(None, None, space)
    for i in range(9):
        config = search.suggest(f"t{i}")
        check(space, config)
        finish(search, f"t{i}", config, float(config["x"]) ** 2)
    assert search.study is not None
    assert len(search.study.history) == 9
    assert search.study.best is not None


def check(space: dict[str, Any], config: dict[str, Any]) -> None:
    """Every domain has a valid value, and nothing else is in the configuration."""
    for name, domain in space.items():
        if isinstance(domain, dict):
            check(domain, config.get(name, {})) if name in config else None
        elif type(domain).__module__.startswith("ray.tune"):
            assert domain.is_valid(config[name])
        else:
            assert name not in config


def test_the_arguments_of_optunasearch() -> None:
    search = GPSearch(
        {"x": tune.uniform(-5, 5)}, metric="loss", mode="max", seed=1,
        points_to_evaluate=[{"x": 1.0}, {"x": 2.0}],
    )  # fmt: skip
    assert search.suggest("a") == {"x": 1.0}
    assert search.suggest("b") == {"x": 2.0}
    known = GPSearch(
        SPACE, "loss", "min", points_to_evaluate=[{"x": 1.0}, {"x": 2.0}],
        evaluated_rewards=[1.0, 4.0],
    )  # fmt: skip
    assert known.suggest("a") not in ({"x": 1.0}, {"x": 2.0})
    assert known.study is not None
    assert known.study.best is not None
    assert known.study.best.value == 1.0


def test_optuna_distributions_are_read() -> None:
    made = [
        type("FloatDistribution", (), {"low": 0.5, "high": 2.0, "log": True, "step": None}),
        type("IntDistribution", (), {"low": 1, "high": 9, "log": False, "step": 2}),
        type("CategoricalDistribution", (), {"choices": ("a", "b")}),
    ]
    for kind in made:
        kind.__module__ = "optuna.distributions"
    search = GPSearch(dict(zip("xyz", (k() for k in made), strict=True)), "loss", "min")
    for i in range(8):
        config = search.suggest(str(i))
        assert 0.5 <= config["x"] <= 2
        assert config["y"] in (1, 3, 5, 7, 9)
        assert config["z"] in "ab"
        finish(search, str(i), config, config["x"])


def test_define_by_run_with_a_branch() -> None:
    def space(trial: Any) -> dict[str, Any]:
        x = trial.suggest_float("x", -5, 5)
        if trial.suggest_categorical("kind", ["flat", "deep"]) == "deep":
            trial.suggest_int("depth", 1, 6)
        assert -5 <= x <= 5
        return {"epochs": 3}

    search = GPSearch(space, metric="loss", mode="min", seed=0)
    configs = rounds(search, 14)
    assert all(("depth" in c) == (c["kind"] == "deep") for c in configs)
    assert all(c["epochs"] == 3 for c in configs)
    assert search.study is not None
    depth = search.study.space.parameters[search.study.space.names.index("depth")]
    assert depth.when is not None
    assert depth.when.values == ("deep",)


def test_wrong_define_by_run_functions_are_refused() -> None:
    with pytest.raises(InputError, match="suggests nothing"):
        GPSearch(lambda trial: None, "loss", "min")
    with pytest.raises(InputError, match="returned"):
        GPSearch(lambda t: [t.suggest_float("x", 0, 1)], "loss", "min").suggest("a")


def test_every_end_of_a_trial() -> None:
    search = GPSearch(SPACE, "loss", "min", seed=0)
    for name in "abcdef":
        search.suggest(name)
    finish(search, "a", {}, 1.0)
    search.on_trial_complete("b", None, error=True)
    finish(search, "c", {}, math.nan)
    search.on_trial_complete("d", None)
    search.on_trial_complete("e", {"training_iteration": 1, "config": {}})  # no metric
    finish(search, "f", {}, "text")
    assert search.study is not None
    ends = {t.id: t.status for t in search.study.history}
    assert ends == {"a": "ok", "b": "failed", "c": "nan", "d": "abandoned", "e": "failed",
                    "f": "failed"}  # fmt: skip
    assert search.study.running == []


def test_injected_faults_lose_and_hang_nothing() -> None:
    """30 % NaN, 20 % exceptions, 10 % killed and run again; eight at a time."""
    rng = np.random.default_rng(0)
    search = GPSearch(SPACE, "loss", "min", seed=0)
    running: list[tuple[str, dict[str, Any]]] = []
    for i in range(60):
        running.append((f"t{i}", search.suggest(f"t{i}")))
        if len(running) == 8:
            name, config = running.pop(int(rng.integers(8)))
            draw = rng.random()
            if draw < 0.1:
                assert search.suggest(name) == config  # a restarted trial asks again
                draw = rng.random()
            if draw < 0.3:
                search.on_trial_complete(name, None, error=True)
            else:
                finish(search, name, config, math.nan if draw < 0.6 else config["x"] ** 2)
    for name, config in running:
        finish(search, name, config, config["x"] ** 2)
    assert search.study is not None
    assert search.study.running == []
    assert sorted(t.id for t in search.study.history) == sorted(f"t{i}" for i in range(60))


def test_asha_stops_are_not_final_losses() -> None:
    search = GPSearch(SPACE, "loss", "min", max_step=9)
    for name, step, value in (("a", 9, 2.0), ("b", 1, 0.0)):
        config = search.suggest(name)
        finish(search, name, config, value, training_iteration=step)
    assert search.study is not None
    assert search.study.best is not None
    assert search.study.best.id == "a"


def test_a_second_end_and_strangers_are_harmless(caplog: pytest.LogCaptureFixture) -> None:
    search = GPSearch(SPACE, "loss", "min")
    config = search.suggest("a")
    finish(search, "a", config, 1.0)
    finish(search, "a", config, 2.0)
    finish(search, "stranger", {"x": 0.5, "other": 3}, 0.25)
    with caplog.at_level(logging.WARNING):
        search.on_trial_complete("ghost", {"loss": 1.0})
    assert "ghost" in caplog.text
    assert search.study is not None
    assert [t.value for t in search.study.history] == [1.0, 0.25]


def test_one_bad_row_of_a_warm_start_does_not_end_the_search() -> None:
    points = [{"x": 1.0}, {"x": math.nan}, {"x": 99.0}, {"y": 1.0}, {"x": 2.0}]
    search = GPSearch(SPACE, "loss", "min", points_to_evaluate=points,
                      evaluated_rewards=[1.0, 0.0, 0.0, 0.0, math.nan])  # fmt: skip
    search.suggest("a")
    assert search.study is not None
    assert [t.status for t in search.study.history] == ["ok", "nan", "running"]


@pytest.mark.parametrize("at", [0, 3, 9])
def test_restore_continues_bit_for_bit(at: int, tmp_path: Path) -> None:
    whole = rounds(GPSearch(SPACE, "loss", "min", seed=4), 12)
    search = GPSearch(SPACE, "loss", "min", seed=4)
    first = rounds(search, at)
    path = tmp_path / "searcher"
    search.save(str(path))
    fresh = GPSearch(SPACE, "loss", "min", seed=4)
    fresh.restore(str(path))
    assert first + rounds(fresh, 12 - at, at) == whole
    again = pickle.loads(pickle.dumps(search))
    assert first + rounds(again, 12 - at, at) == whole


def test_saved_state_is_plain_json_with_a_version(tmp_path: Path) -> None:
    search = GPSearch(SPACE, "loss", "min")
    rounds(search, 8)
    search.save(str(tmp_path / "s"))
    assert json.loads((tmp_path / "s").read_text())["qcluster_searcher"] == 1
    for text in ("", "{}", '{"qcluster_searcher": 2}', "[]"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(FormatError):
            search.restore(str(tmp_path / "bad"))


def test_a_saved_searcher_or_study_is_a_warm_start(tmp_path: Path) -> None:
    search = GPSearch(SPACE, "loss", "min")
    rounds(search, 5)
    search.save(str(tmp_path / "searcher"))
    assert search.study is not None
    search.study.save(tmp_path / "study")
    for name in ("searcher", "study"):
        warm = GPSearch(SPACE, "loss", "min", warm_start=tmp_path / name)
        warm.suggest("a")
        assert warm.study is not None
        assert len(warm.study.history) == 6
    with pytest.raises(FormatError):
        GPSearch(SPACE, "loss", "min", warm_start=tmp_path / "absent").suggest("a")


def test_what_cannot_be_searched_is_said() -> None:
    with pytest.raises(InputError, match="one metric"):
        GPSearch(SPACE, ["a", "b"], ["min", "max"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one value per point"):
        GPSearch(SPACE, "l", "min", points_to_evaluate=[{"x": 1.0}], evaluated_rewards=[])
    with pytest.raises(InputError, match="space"):
        GPSearch(metric="loss", mode="min").suggest("a")
    with pytest.raises(InputError, match="'min' or 'max'"):
        GPSearch(SPACE, metric="loss").suggest("a")
    with pytest.raises(InputError, match="grid_search"):
        GPSearch().set_search_properties("l", "min", {"x": tune.grid_search([1, 2])})
    assert not GPSearch(SPACE).set_search_properties("l", "min", {"x": tune.uniform(0, 1)})


def test_the_study_underneath_needs_no_ray() -> None:
    assert Study.__module__ == "qcluster.q_hpo.study"
