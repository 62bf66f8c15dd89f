"""Halving with promotions: who goes on, what it costs, and that it goes on after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qcluster.errors import InputError
from qcluster.q_hpo import Promotions, Study

SPACE: dict[str, Any] = {"x": {"type": "uniform", "low": 0, "high": 1}}
RUNGS = [1, 3, 9]


def loss(config: dict[str, Any], step: int) -> float:
    return float((config["x"] - 0.3) ** 2 + 1.0 / step)


def made(budget: int | None = None, strategy: str = "sobol", **more: Any) -> Promotions:
    study = Study(SPACE, seed=1, strategy=strategy, max_step=9, **more)
    return Promotions(study, RUNGS, budget=budget)


def step(halving: Promotions) -> tuple[int, int]:
    run = halving.next()
    assert run is not None
    halving.tell(run, loss(run.config, run.stop))
    return run.start, run.stop


def test_the_best_of_three_goes_on() -> None:
    halving = made()
    assert [step(halving) for _ in range(4)] == [(0, 1), (0, 1), (0, 1), (1, 3)]
    first, second, third, on = halving.study.history
    assert on.config == min((first, second, third), key=lambda t: t.value or 0.0).config
    assert halving.spent == 5
    while step(halving) != (3, 9):
        pass
    steps = [trial.step for trial in halving.study.history]
    assert steps.count(3) >= 3
    assert steps.count(1) >= 7
    assert halving.study.best is not None
    assert halving.study.best.step == 9


@pytest.mark.parametrize("budget", [9, 10, 14, 30, 60])
def test_a_budget_is_kept_and_always_gives_a_full_run(budget: int) -> None:
    halving = made(budget)
    spans = []
    while (run := halving.next()) is not None:
        spans.append(run.stop - run.start)
        halving.tell(run, loss(run.config, run.stop))
    assert sum(spans) == halving.spent <= budget
    assert halving.study.best is not None
    assert halving.study.best.step == 9
    assert halving.next() is None


def test_it_finds_what_full_trials_find_with_a_fifth_of_the_steps() -> None:
    halving = made(54, strategy="gp")
    while (run := halving.next()) is not None:
        halving.tell(run, loss(run.config, run.stop))
    assert halving.study.best is not None
    assert abs(halving.study.best.config["x"] - 0.3) < 0.03


def test_maximising_promotes_the_largest() -> None:
    halving = made(mode="max")
    for value in (0.1, 0.9, 0.5):
        run = halving.next()
        assert run is not None
        halving.tell(run, value)
    run = halving.next()
    assert run is not None
    assert run.config == halving.study.history[1].config
    assert (run.start, run.stop, run.trial) == (1, 3, None)


def test_runs_at_once_are_different_and_a_failed_one_never_goes_on() -> None:
    halving = made(40)
    runs = [halving.next() for _ in range(6)]
    assert len({run.config["x"] for run in runs if run}) == 6
    assert halving.spent == 6
    for k, run in enumerate(runs):
        assert run is not None
        halving.tell(run, None if k == 0 else float(k), "failed" if k == 0 else "ok")
    run = halving.next()
    assert run is not None
    assert runs[1] is not None
    assert run.config == runs[1].config
    halving.tell(run, float("nan"))
    after = halving.next()
    assert after is not None
    assert after.config != run.config
    assert halving.spent == 6 + 2 + after.stop - after.start


def test_a_listed_space_ends_when_all_is_known() -> None:
    rows = [{"x": 0.1}, {"x": 0.3}, {"x": 0.9}]
    halving = made(pool=rows)
    count = 0
    while (run := halving.next()) is not None:
        halving.tell(run, loss(run.config, run.stop))
        count += 1
    assert count == 9
    assert halving.spent == 27


def test_it_goes_on_from_the_study_alone(tmp_path: Path) -> None:
    whole, half = made(50, "gp"), made(50, "gp")
    for _ in range(7):
        assert step(whole) == step(half)
    half.study.save(tmp_path / "s")
    again = Promotions(Study.load(tmp_path / "s"), RUNGS, budget=50)
    assert again.spent == whole.spent
    while (run := whole.next()) is not None:
        other = again.next()
        assert other is not None
        assert (other.config, other.start, other.stop) == (run.config, run.start, run.stop)
        for halving, one in ((whole, run), (again, other)):
            halving.tell(one, loss(one.config, one.stop))
    assert again.next() is None


def test_what_it_refuses() -> None:
    study = Study(SPACE, max_step=9)
    for rungs in ([9], [3, 1, 9], [0, 9], [1, 3], [1, 2.5, 9], [True, 9]):
        with pytest.raises(InputError):
            Promotions(study, rungs)  # type: ignore[arg-type]
    for more in ({"keep": 1}, {"keep": True}, {"budget": 8}):
        with pytest.raises(InputError):
            Promotions(study, RUNGS, **more)  # type: ignore[arg-type]
    halving = Promotions(study, RUNGS)
    run = halving.next()
    assert run is not None
    halving.tell(run, 1.0)
    with pytest.raises(InputError):
        halving.tell(run, 1.0)
