"""Values on the way: which level is modelled, how stopped trials help, and how it resumes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import InputError, NotFound
from qcluster.q_hpo import Study
from qcluster.q_hpo.fidelity import split_levels
from qcluster.q_hpo.trial import Trial

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": 0, "high": 1},
    "y": {"type": "uniform", "low": 0, "high": 1},
}
FULL, RUNGS, KEEP = 9, (1, 3, 9), 3


def curve(config: dict[str, Any], step: int) -> float:
    """Falls to its final value; early values rank configurations nearly as the last ones do."""
    final = (config["x"] - 0.7) ** 2 + (config["y"] - 0.2) ** 2
    return float(final + (1.0 + 0.3 * config["x"]) / step)


def halving(study: Study, epochs: int) -> int:
    """Asynchronous successive halving of one worker until so many epochs are spent; trials run."""
    seen: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    spent = count = 0
    while spent < epochs:
        trial, before, count = study.ask(), 0, count + 1
        for rung in RUNGS:
            spent += rung - before
            before, value = rung, curve(trial.config, rung)
            seen[rung].append(value)
            if rung == FULL or value > np.quantile(seen[rung], 1 / KEEP):
                study.tell(trial.id, value, step=rung)
                break
            study.report(trial.id, value, rung)
    return count


def trial(name: str, value: float | None, step: int | None, status: str = "ok") -> Trial:
    return Trial(id=name, config={}, number=0, status=status, value=value, step=step)


def test_the_largest_step_with_company_is_modelled() -> None:
    curves = {f"t{i}": {1: float(i), 3: 10.0 + i} if i < 4 else {1: float(i)} for i in range(9)}
    told = [trial(f"t{i}", 10.0 + i if i < 4 else float(i), 3 if i < 4 else 1) for i in range(9)]
    few = split_levels(told, curves, 9, columns=2)
    assert few.target.step == 3
    assert few.target.names == ["t0", "t1", "t2", "t3"]
    assert [level.step for level in few.below] == [1]
    assert len(few.below[0].names) == 9
    assert few.others == ["t4", "t5", "t6", "t7", "t8"]
    done = told + [trial(f"u{i}", 0.0, 9) for i in range(4)]
    assert split_levels(done, curves, 9, columns=2).target.step is None
    assert [level.step for level in split_levels(done, curves, 9, 2).below] == [1, 3]


def test_failed_trials_stay_with_the_level_that_is_modelled() -> None:
    curves = {f"t{i}": {1: float(i)} for i in range(5)}
    told = [trial(f"t{i}", float(i), 1) for i in range(5)]
    told += [trial("bad", None, None, "failed"), trial("gone", None, None, "abandoned")]
    levels = split_levels(told, curves, 9, columns=2)
    assert levels.target.names == ["t0", "t1", "t2", "t3", "t4", "bad"]
    assert math.isnan(levels.target.values[-1])
    assert levels.others == ["gone"]


def test_without_steps_nothing_changes() -> None:
    told = [trial(f"t{i}", float(i), None) for i in range(3)]
    levels = split_levels(told, {}, None, columns=2)
    assert levels.target.values == [0.0, 1.0, 2.0]
    assert not levels.below
    assert not levels.others


def test_reports_of_running_trials_are_in_the_view_and_never_the_best() -> None:
    study = Study(SPACE, max_step=FULL)
    for i, one in enumerate(study.ask(6)):
        study.report(one.id, -100.0 - i, 1)
    view = study.view()
    assert len(view.values) == 6
    assert view.values.max() == -100.0
    assert len(view.pending) == 6
    assert study.best is None


@pytest.mark.parametrize("strategy", ["gp", "vqc", "hybrid"])
def test_stopped_sweeps_find_the_optimum_with_few_epochs(strategy: str) -> None:
    study = Study(SPACE, strategy=strategy, seed=1, max_step=FULL)
    halving(study, 60)
    best = study.best
    assert best is not None
    assert best.value is not None
    assert best.step == FULL
    assert best.value - curve({"x": 0.68, "y": 0.2}, FULL) < 0.05


def test_a_journal_with_reports_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, study = Study(SPACE, seed=3, max_step=FULL), Study(SPACE, seed=3, max_step=FULL)
    for one in (whole, study):
        halving(one, 45)
        one.report(one.ask().id, 0.5, 1)
    study.save(tmp_path / "s")
    again = Study.load(tmp_path / "s")
    assert list(again.records()) == list(study.records())
    for _ in range(3):
        a, b = whole.ask(), again.ask()
        assert a.config == b.config
        whole.tell(a.id, curve(a.config, FULL), step=FULL)
        again.tell(b.id, curve(b.config, FULL), step=FULL)
    journal = Study(SPACE, seed=3, max_step=FULL, journal=tmp_path / "j")
    halving(journal, 20)
    again = Study.load(tmp_path / "j")
    assert [t.to_dict() for t in again.history] == [t.to_dict() for t in journal.history]
    assert again.ask().config == journal.ask().config


def test_what_a_report_must_be() -> None:
    study = Study(SPACE, max_step=FULL)
    one = study.ask()
    study.report(one.id, float("nan"), 1)
    assert not list(study.view().values)
    with pytest.raises(NotFound):
        study.report("nobody", 1.0, 1)
    for value, step in (("high", 1), (True, 1), (1.0, -1), (1.0, True), (1.0, None)):
        with pytest.raises(InputError):
            study.report(one.id, value, step)  # type: ignore[arg-type]


def test_ray_results_on_the_way_reach_the_study() -> None:
    from qcluster.q_hpo import GPSearch

    search = GPSearch(SPACE, "loss", "min", max_step=FULL, seed=0)
    for i in range(8):
        name = f"r{i}"
        config = search.suggest(name)
        assert config is not None
        for step in (1, 3):
            search.on_trial_result(name, {"loss": curve(config, step), "training_iteration": step})
        search.on_trial_result(name, {"loss": "none", "training_iteration": 4})
        last = {"loss": curve(config, 3), "training_iteration": 3, "config": config}
        search.on_trial_complete(name, last)
    assert search.study is not None
    view = search.study.view()
    assert len(view.values) == 8
    assert [task.name for task in view.tasks] == []
    assert view.values.max() < 1.5


def test_without_a_full_fidelity_reports_are_not_kept() -> None:
    from qcluster.q_hpo import GPSearch

    search = GPSearch(SPACE, "loss", "min", seed=0)
    search.suggest("a")
    search.on_trial_result("a", {"loss": 1.0, "training_iteration": 1})
    assert search.study is not None
    assert not any("report" in row for row in search.study.records())
