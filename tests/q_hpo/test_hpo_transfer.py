"""Warm starts from other tasks: they help where they fit and are left alone where they don't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcluster.q_hpo import Prior, Study
from qcluster.q_hpo.gp.transfer import TaskMean, concordance, promising

SPACE = {f"x{i}": {"type": "uniform", "low": 0, "high": 1} for i in range(4)}


def bumpy(config: dict[str, float], shift: float) -> float:
    x = np.array([config[f"x{i}"] for i in range(4)])
    return float(((x - 0.3 - shift) ** 2).sum() - 0.05 * np.cos(9 * (x - 0.3 - shift)).sum())


def prior(sign: float, tasks: int = 2) -> Prior:
    rng = np.random.default_rng(0)
    configs, values, names = [], [], []
    for task in range(tasks):
        for _ in range(60):
            config = {name: float(rng.random()) for name in SPACE}
            configs.append(config)
            values.append(sign * bumpy(config, 0.02 * task))
            names.append(f"task{task}")
    return Prior(configs=configs, values=values, names=names)


def best_after(n: int, seed: int, warm: Prior | None) -> float:
    study = Study(SPACE, seed=seed, prior=warm)
    for _ in range(n):
        trial = study.ask()
        study.tell(trial.id, bumpy(trial.config, 0.05))
    assert study.best is not None
    assert study.best.value is not None
    return study.best.value


def test_ten_warm_trials_reach_more_than_twenty_cold_ones() -> None:
    warm = [best_after(10, seed, prior(1.0)) for seed in range(3)]
    cold = [best_after(20, seed, None) for seed in range(3)]
    assert np.mean(warm) < np.mean(cold)


def test_an_adversarial_prior_costs_little() -> None:
    """All signs flipped: its best points are the worst ones."""
    misled = [best_after(25, seed, prior(-1.0)) for seed in range(3)]
    cold = [best_after(25, seed, None) for seed in range(3)]
    assert np.mean(misled) < np.mean(cold) + 0.02


def test_concordance_is_the_share_of_pairs_in_order_weighted_by_how_far_apart_they_are() -> None:
    y = np.array([1.0, 2.0, 3.0, 4.0])
    assert concordance(y, y) == 1.0
    assert concordance(-y, y) == 0.0
    assert concordance(np.ones(4), y) == 0.5
    assert concordance(np.array([1.0, 2.0, 4.0, 3.0]), y) == pytest.approx(9 / 10)
    assert concordance(y[:1], y[:1]) == 0.5


def test_the_task_that_ranks_the_new_values_gets_the_weight() -> None:
    good, bad = prior(1.0, 1), prior(-1.0, 1)
    both = Prior(
        configs=good.configs + bad.configs, values=good.values + bad.values,
        names=["good"] * 60 + ["bad"] * 60,
    )  # fmt: skip
    study = Study(SPACE, seed=0, prior=both)
    for _ in range(8):
        trial = study.ask()
        study.tell(trial.id, bumpy(trial.config, 0.05))
    view = study.view()
    tasks = TaskMean.fit(view)
    assert tasks.weights == (0.5, 0.5)
    assert tasks.ranked(view.points, view.values).weights == (1.0, 0.0)
    assert tasks.ranked(view.points[:1], view.values[:1]).weights == (0.5, 0.5)


def test_the_first_points_are_the_tasks_best_and_apart() -> None:
    study = Study(SPACE, seed=0, prior=prior(1.0))
    view = study.view()
    points = promising(view, TaskMean.fit(view))
    values = [bumpy(study.space.config(p), 0.0) for p in points]
    everything = sorted(bumpy(c, 0.0) for c in prior(1.0).configs)
    assert values[0] <= everything[8]
    gaps = np.abs(points[:3, None] - points[None, :3]).max(axis=2)
    assert gaps[np.triu_indices(3, 1)].min() > 0.15
    rows = [{f"x{i}": float(v) for i, v in enumerate(row)} for row in
            np.random.default_rng(3).random((40, 4))]  # fmt: skip
    pooled = Study(SPACE, seed=0, prior=prior(1.0), pool=rows)
    first = pooled.ask().config
    assert first in [pooled.space.config(pooled.space.point(row)) for row in rows]
    assert bumpy(first, 0.0) <= sorted(bumpy(row, 0.0) for row in rows)[8]


@pytest.mark.parametrize("rows", [0, 1])
def test_priors_without_rows_that_fit_change_nothing(rows: int) -> None:
    strange = Prior(configs=[{"other": 1.0}] * rows, values=[1.0] * rows, names=["t"] * rows)
    assert best_after(8, 0, strange) == best_after(8, 0, None)


def test_a_warm_study_resumes_to_the_same_suggestions(tmp_path: Path) -> None:
    whole = Study(SPACE, seed=1, prior=prior(1.0, 1))
    study = Study(SPACE, seed=1, prior=prior(1.0, 1))
    for i in range(12):
        a, b = whole.ask(), study.ask()
        assert a.config == b.config
        whole.tell(a.id, bumpy(a.config, 0.05))
        study.tell(b.id, bumpy(b.config, 0.05))
        if i == 7:
            study.save(tmp_path / "s")
            study = Study.load(tmp_path / "s")


def told(study: Study, n: int) -> Study:
    for _ in range(n):
        trial = study.ask()
        study.tell(trial.id, bumpy(trial.config, 0.05))
    return study


def test_a_misleading_task_is_dropped_at_the_first_point_of_the_design() -> None:
    """From the fourth trial on a study with a flipped prior asks for what it would without."""
    misled, cold = (
        told(Study(SPACE, seed=2, prior=prior(-1.0, 1)), 3),
        told(Study(SPACE, seed=2), 3),
    )
    for _ in range(3):
        a, b = misled.ask(), cold.ask()
        assert a.config == b.config
        for study, trial in ((misled, a), (cold, b)):
            study.tell(trial.id, bumpy(trial.config, 0.05))


def test_warm_trials_that_run_at_once_and_those_that_fail() -> None:
    study = Study(SPACE, seed=0, prior=prior(1.0))
    trials = study.ask(8)
    assert len({tuple(trial.config.values()) for trial in trials}) == 8
    for trial in trials[:2]:
        study.tell(trial.id, None, "failed")
    study.tell(trials[2].id, bumpy(trials[2].config, 0.05))
    more = study.ask(3)
    assert len({tuple(trial.config.values()) for trial in [*trials, *more]}) == 11
