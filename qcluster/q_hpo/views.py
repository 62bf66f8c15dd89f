"""What a strategy is shown of a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.fidelity import Level, joined, split_levels
from qcluster.q_hpo.space import Space, flatten, same_config, unflatten
from qcluster.q_hpo.strategy import Task, View
from qcluster.q_hpo.trial import Trial

__all__ = ["Studied", "best_of", "copied", "view_of"]

F = NDArray[np.float64]
# A process of more values costs seconds to minutes (it is cubic) and predicts hardly better.
_MOST_MODELLED = 500
# Differences of values up to this are finite.
_LARGEST = 8e307


class Studied(Protocol):
    """What a view shows of a study as it is."""

    space: Space
    seed: int

    @property
    def history(self) -> Sequence[Trial]:
        """All trials."""
        ...

    @property
    def running(self) -> Sequence[Trial]:
        """Those that were not told."""
        ...

    @property
    def full_step(self) -> int | None:
        """The full fidelity."""
        ...


def view_of(
    study: Studied,
    sign: float,
    told: Sequence[Trial],
    curves: Mapping[str, Mapping[int, float]],
    rows: Callable[[list[str]], F],
    tasks: tuple[Task, ...],
    pool: F | None,
) -> View:
    """The view of ``study``, whose values times ``sign`` are to be minimised.

    It has the finished trials ``told`` in their order, what trials reported on the way, ``rows``
    (the points of trials by name), earlier tasks and the only points allowed.

    Of more than 500 values the best and the latest are modelled.
    """
    full = study.full_step
    levels = split_levels(told, curves, full, study.space.d)
    joint = None if full is None else joined(told, curves, full, sign)
    steps = [Task(f"step {one.step}", rows(one.names), _losses(one, sign)) for one in levels.below]
    target, rest = _modelled(levels.target, sign)
    return View(
        space=study.space,
        points=rows(target.names),
        values=_losses(target, sign),
        early=rows([*levels.others, *rest]),
        pending=rows([trial.id for trial in study.running]),
        number=len(study.history),
        seed=study.seed,
        pool=pool,
        tasks=(*tasks, *steps),
        prior_tasks=len(tasks),
        curves=None if joint is None else (rows(joint[0]), *joint[1:]),
    )


def best_of(trials: Sequence[Trial], k: int, full: int | None, sign: float) -> list[Trial]:
    """The ``k`` best finished trials that reached step ``full``, of different configurations."""
    done = [
        t for t in trials
        if t.value is not None and (t.step is None or full is None or t.step >= full)
    ]  # fmt: skip
    done.sort(key=lambda t: (sign * (t.value or 0.0), t.number))
    best: list[Trial] = []
    for trial in done:
        if len(best) == k:
            break
        if not any(same_config(trial.config, other.config) for other in best):
            best.append(trial)
    return [copied(trial) for trial in best]


def copied(trial: Trial) -> Trial:
    """The trial with a configuration that its user may change."""
    return dataclasses.replace(trial, config=unflatten(flatten(trial.config)))


def _losses(level: Level, sign: float) -> F:
    """Its values, to be minimised."""
    return np.clip(sign * np.array(level.values, float), -_LARGEST, _LARGEST)


def _modelled(level: Level, sign: float) -> tuple[Level, list[str]]:
    """The level with at most 500 values, half of them the best, and the names that it lost."""
    n = len(level.names)
    if n <= _MOST_MODELLED:
        return level, []
    best = np.argsort(_losses(level, sign), kind="stable")[: _MOST_MODELLED // 2]
    keep = set(best.tolist())
    latest = [i for i in reversed(range(n)) if i not in keep]
    keep.update(latest[: _MOST_MODELLED - len(keep)])
    kept = sorted(keep)
    rest = [level.names[i] for i in range(n) if i not in keep]
    names, values = [level.names[i] for i in kept], [level.values[i] for i in kept]
    return Level(level.step, names, values), rest
