"""Which losses a searcher models when trials report on the way and most are stopped early.

The values modelled are those of the largest step that enough trials have reached (Falkner, Klein &
Hutter, 2018): full fidelity as soon as there are a few final losses, before that the highest rung
with some company. Lower rungs are tasks of their own, whose ranking of configurations is used as
far as it agrees with the values above (see ``gp/transfer.py``). So a value of an early step is
compared with values of that step alone and never taken for a final loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.trial import Trial

__all__ = [
    "Level",
    "Levels",
    "ask_line",
    "curve_rows",
    "joined",
    "report_lines",
    "split_levels",
]

_FEWEST = 4
_MOST_TASKS = 3
_MOST_ROWS = 160
F = NDArray[np.float64]
Curves = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Level:
    """Names of trials and their values after ``step`` steps, NaN where one failed."""

    step: int | None
    names: list[str]
    values: list[float]


@dataclass(frozen=True)
class Levels:
    """The level that is modelled, those below that serve as tasks, and what else was tried."""

    target: Level
    below: list[Level]
    others: list[str]


def split_levels(told: Sequence[Trial], curves: Curves, full: int | None, columns: int) -> Levels:
    """Levels of the finished trials ``told`` and of what trials reported on the way.

    curves: values by step of each trial that has any, running ones too. full: the step of final
    losses, or None. columns: number of parameters; a level counts with one more trial than that,
    at most eight.
    """
    enough = max(_FEWEST, min(columns + 1, 8))
    final = Level(None, [], [])
    for trial in told:
        early = trial.step is not None and full is not None and trial.step < full
        if trial.status != "abandoned" and not (trial.value is not None and early):
            final.names.append(trial.id)
            final.values.append(math.nan if trial.value is None else trial.value)
    steps = sorted({s for curve in curves.values() for s in curve if full is None or s < full})
    levels = [_level(step, curves) for step in steps]
    target, failed = final, [n for n, v in zip(final.names, final.values, strict=True) if v != v]
    reached = [level for level in levels if len(level.names) >= enough]
    if len(final.names) - len(failed) < enough and reached:
        known = reached[-1]
        rest = [name for name in failed if name not in known.names]
        target = Level(known.step, known.names + rest, known.values + [math.nan] * len(rest))
    rungs = {max(curves[t.id], default=0) for t in told if t.id in curves}
    below = [
        level for level in levels
        if level.step in rungs and len(level.names) >= _FEWEST
        and (target.step is None or (level.step or 0) < target.step)
    ]  # fmt: skip
    inside = set(target.names)
    others = [trial.id for trial in told if trial.id not in inside]
    return Levels(target, below[-_MOST_TASKS:], others)


def _level(step: int, curves: Curves) -> Level:
    names = [name for name, curve in curves.items() if step in curve]
    return Level(step, names, [curves[name][step] for name in names])


def curve_rows(told: Sequence[Trial], curves: Curves, full: int) -> list[tuple[str, int, float]]:
    """Trial, step (from 1 to ``full``) and value of what curves show: at steps where some trial
    ended, and at the last step of each. Of more than 160 the lowest steps are left out.
    """
    rungs = {max(curves[t.id]) for t in told if t.id in curves}
    rows = [
        (name, min(step, full), value)
        for name, curve in curves.items()
        for step, value in curve.items()
        if step >= 1 and (step in rungs or step == max(curve))
    ]
    rows += [(t.id, full, t.value) for t in told if t.value is not None and t.step is None]
    keep = sorted(range(len(rows)), key=lambda i: (-rows[i][1], -i))[:_MOST_ROWS]
    return [rows[i] for i in sorted(keep)]


def joined(
    told: Sequence[Trial], curves: Curves, full: int, sign: float
) -> tuple[list[str], F, F] | None:
    """Trials, log(step) / log(full) and sign * value of ``curve_rows``; None if all are full."""
    rows = curve_rows(told, curves, full)
    if full < 2 or not any(step < full for _, step, _ in rows):
        return None
    shares = np.log([step for _, step, _ in rows]) / math.log(full)
    return [name for name, _, _ in rows], shares, sign * np.array([v for _, _, v in rows])


def ask_line(trial: Trial, point: F, state: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a line of a study's file, with the strategy's state if there is one."""
    record = {"ask": trial.id, "point": point.tolist(), "arm": trial.arm}
    return {**record, "state": dict(state)} if state else record


def report_lines(trials: Mapping[str, Trial], curves: Curves) -> Iterator[dict[str, Any]]:
    """What trials reported before they ended, as lines of a study's file."""
    for name, curve in curves.items():
        for step, value in curve.items():
            if (value, step) != (trials[name].value, trials[name].step):
                yield {"report": name, "value": value, "step": step}
