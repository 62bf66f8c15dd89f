"""Running a sweep for the command line: trial by trial here, or as a Ray Tune sweep.

Either way the study's journal is the record: it is opened first, and a sweep goes on from it.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qcluster.cli.output import note
from qcluster.errors import InputError
from qcluster.q_hpo import Prior, Space, Study, Trial
from qcluster.q_hpo.journal import has_lines
from qcluster.q_hpo.stored import stored_trials
from qcluster.q_hpo.trial import plain_number

__all__ = ["Sweep", "load_objective"]

Objective = Callable[[dict[str, Any]], Any]
Report = Callable[[Trial, float], None]


def load_objective(text: str) -> Objective:
    """The function ``MODULE:FUNC`` names; modules of the working directory are found too.

    Raises InputError if there is none.
    """
    module, colon, name = text.partition(":")
    if not colon or not module or not name or module.startswith("."):
        raise InputError(f"wants MODULE:FUNC, got '{text}'", field="--objective")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        kind = "" if isinstance(error, (ImportError, AttributeError)) else type(error).__name__
        message = f"cannot be imported: {kind} {error}".replace(":  ", ": ")
        raise InputError(message, field="--objective") from None
    if not callable(found):
        raise InputError(f"'{text}' is not a function", field="--objective")
    return found


class Sweep:
    """A study with a journal, new or resumed. Raises InputError if the journal's state forbids."""

    def __init__(
        self,
        space: Space,
        *,
        searcher: str,
        mode: str,
        metric: str,
        seed: int,
        prior: Prior | None,
        warm_start: Path | None,
        journal: Path,
        resume: bool,
    ) -> None:
        self.metric = metric
        self._directory = journal.parent.resolve()
        if self._directory.exists() and not self._directory.is_dir():
            raise InputError("is a file: wants a directory", field="--out")
        there = has_lines(journal)
        if there and not resume:
            raise InputError(
                "exists: --resume goes on with it, or give another --out", file=journal
            )
        if there:
            self.study = Study.load(journal, space=space, journal=True)
            kept = self.study
            note(f"going on after {len(kept.history)} trials: searcher {kept.strategy}, "
                 f"mode {kept.mode}, seed {kept.seed}")  # fmt: skip
            return
        self.study = Study(
            space, strategy=searcher, mode=mode, seed=seed, prior=prior, journal=journal
        )
        if warm_start is not None:
            self._take_over(warm_start)

    def _take_over(self, path: Path) -> None:
        found = stored_trials(path, self.study.space)
        note(f"{len(found)} trials of {path} count as this search's own")
        for trial in found:
            try:
                self.study.add(trial.config, trial.value, trial.status, trial.step)
            except InputError as error:
                note(f"trial {trial.id} of {path} does not fit the space: {error}")

    def run_here(self, function: Objective, trials: int, _workers: int, report: Report) -> None:
        """Trial by trial in this process, until the study has ``trials``."""
        if not self.study.running:
            self._said(trials)
        for trial in self.study.running:
            self._evaluate(function, trial, report)
        while len(self.study.history) < trials:
            self._evaluate(function, self.study.ask(), report)

    def _said(self, trials: int) -> None:
        if len(self.study.history) >= trials:
            note(f"nothing to run: there are {len(self.study.history)} trials, and -n is {trials}")

    def _evaluate(self, function: Objective, trial: Trial, report: Report) -> None:
        start = time.monotonic()
        value, status = outcome(function, trial.config, self.metric)
        report(self.study.tell(trial.id, value, status), time.monotonic() - start)

    def run_in_ray(self, function: Objective, trials: int, workers: int, report: Report) -> None:
        """As a Ray Tune sweep, ``workers`` trials at a time; starts a Ray if none is running."""
        from qcluster.q_hpo.searchers import StudySearch
        from qcluster.q_hpo.tune_sweep import local_ray, sweep

        left = trials - len(self.study.history) + len(self.study.running)
        if left <= 0:
            self._said(trials)
            return
        search = StudySearch.over(self.study, self.metric, report)
        with local_ray(workers):
            sweep(search, function, left, workers, self._directory / "tune")


def outcome(function: Objective, config: dict[str, Any], metric: str) -> tuple[float | None, str]:
    """What a trial gave: a number, ``nan``, or ``failed`` for an exception or a missing metric."""
    try:
        found = function(config)
        if isinstance(found, dict) and metric not in found:
            keys = ", ".join(map(str, found)) or "none"
            raise KeyError(f"no '{metric}' among the keys {keys} (--metric names one)")
        value = float(plain_number(found[metric] if isinstance(found, dict) else found))
    except (Exception, SystemExit) as error:
        note(f"a trial failed: {type(error).__name__}: {error}")
        return None, "failed"
    return (value, "ok") if math.isfinite(value) else (None, "nan")
