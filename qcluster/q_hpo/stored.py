"""The finished trials of a stored study, searcher or Optuna study, whichever the file is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.optuna_import import is_optuna_file, matched, optuna_trials
from qcluster.q_hpo.space import Space
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["SEARCHER_VERSION", "stored_trials"]

SEARCHER_VERSION = 1


def stored_trials(path: Path, space: Space) -> list[Trial]:
    """Trials that ended, in their order; ``space`` is where they are to go.

    Raises FormatError if the file is none of these, InputError if it has several Optuna studies.
    """
    if is_optuna_file(path):
        return _of_optuna(path, space)
    try:
        first = json.loads(path.read_text(encoding="utf-8").split("\n", 1)[0])
    except (OSError, ValueError) as error:
        raise FormatError(
            f"is neither a study, a searcher nor an Optuna storage: {error}", file=path
        ) from None
    if isinstance(first, dict) and "qcluster_searcher" in first:
        lines = first.get("study")
        if lines is None:
            return []
        study = Study.from_records(lines, file=path)
    else:
        study = Study.load(path)
    return [trial for trial in study.history if trial.status != "running"]


def _of_optuna(path: Path, space: Space) -> list[Trial]:
    found = optuna_trials(path)
    if len(found) > 1:
        raise InputError(
            f"has several studies ({', '.join(found)}): qcluster.q_hpo.import_optuna names one",
            file=path,
        )
    return [
        dataclasses.replace(trial, config=matched(trial.config, space))
        for trials in found.values()
        for trial in trials
    ]
