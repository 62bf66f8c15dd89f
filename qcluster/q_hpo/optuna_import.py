"""Optuna studies as ours: their trials taken over, or as earlier tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.define_by_run import space_of_runs
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.optuna_export import (
    is_optuna_head,
    open_storage,
    optuna_module,
    stored_choice,
)
from qcluster.q_hpo.parameter import Parameter
from qcluster.q_hpo.space import Space, flatten, unflatten
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["import_optuna", "is_optuna_file", "optuna_trials"]

log = logging.getLogger(__name__)


def is_optuna_file(path: Path) -> bool:
    """Whether a file looks like an Optuna storage: SQLite, or a journal of its operations."""
    try:
        with path.open("rb") as file:
            return is_optuna_head(file.read(4096))
    except OSError:
        return False


def optuna_trials(path: str | Path, name: str | None = None) -> dict[str, list[Trial]]:
    """Ended trials of the studies in a storage, by the study's name; only ``name`` if given.

    COMPLETE is ok; PRUNED has its last intermediate value at that step, below full fidelity, or is
    abandoned without one; FAIL is failed. Raises MissingDependency, and FormatError if the file is
    no Optuna storage or has no study (of that name).
    """
    return {s.study_name: _trials(s) for s in _studies(path, name)}


def import_optuna(
    path: str | Path,
    *,
    name: str | None = None,
    space: Mapping[str, Any] | Space | None = None,
    **options: Any,
) -> Study:
    """A study that starts with the trials of an Optuna study; it goes on with our searchers.

    ``name`` is needed if the storage has several. Without ``space`` the space is what the trials
    were drawn from: a parameter that only some have becomes conditional on the one that explains
    it. ``options`` go to ``Study``. Trials that the space does not hold are skipped with a warning.

    Raises as ``optuna_trials``, and InputError for several studies or several objectives.
    """
    found = _studies(path, name)
    if len(found) > 1:
        names = ", ".join(s.study_name for s in found)
        raise InputError(f"has several studies, name one of {names}", file=path)
    theirs = found[0]
    if len(theirs.directions) != 1:
        raise InputError("has several objectives, which are not searched", file=path)
    trials = _trials(theirs)
    known = parse_space(space) if space is not None else _space(theirs, path)
    mode = "min" if theirs.directions[0].name == "MINIMIZE" else "max"
    study = Study(known, **{"mode": mode, **options})
    for trial in trials:
        try:
            config = matched(trial.config, known)
            study.add(config, trial.value, trial.status, trial.step)
        except InputError as error:
            log.warning("trial %s of %s is skipped: %s", trial.id, path, error)
    return study


def matched(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """``config`` with the space's own objects where Optuna stored their ``repr``."""
    flat = flatten(config, space.names)
    for p in space.parameters:
        if p.kind in ("choice", "constant") and isinstance(flat.get(p.name), str):
            text = flat[p.name]
            if text not in p.choices:
                flat[p.name] = next((v for v in p.choices if stored_choice(v) == text), text)
    return unflatten(flat)


def _studies(path: str | Path, name: str | None) -> list[Any]:
    """Optuna's studies, with their trials in memory."""
    optuna = optuna_module()
    if "://" not in str(path) and not Path(path).is_file():
        raise FormatError("cannot be read: there is no such file", file=path)
    with open_storage(path) as storage:
        names = optuna.get_all_study_names(storage)
        if name is not None and name not in names:
            raise InputError(f"has no study '{name}'; there are {', '.join(names)}", file=path)
        if not names:
            raise FormatError("has no study", file=path)
        return [_Stored(optuna, storage, n) for n in names if name in (None, n)]


class _Stored:
    """Name, directions and trials of one study, read while the storage was open."""

    def __init__(self, optuna: Any, storage: Any, name: str) -> None:
        study = optuna.load_study(study_name=name, storage=storage)
        self.study_name: str = name
        self.directions: list[Any] = list(study.directions)
        self.trials: list[Any] = study.get_trials()


def _trials(study: _Stored) -> list[Trial]:
    ended = [t for t in study.trials if t.state.is_finished()]
    if len(study.directions) != 1:
        return []
    complete = [max(t.intermediate_values) for t in ended
                if t.state.name == "COMPLETE" and t.intermediate_values]  # fmt: skip
    pruned = [max(t.intermediate_values) for t in ended
              if t.state.name == "PRUNED" and t.intermediate_values]  # fmt: skip
    full = max([*complete, *(step + 1 for step in pruned)], default=None)
    return [_trial(t, i, full) for i, t in enumerate(ended)]


def _trial(t: Any, number: int, full: int | None) -> Trial:
    status, value, step = "failed", None, None
    if t.state.name == "COMPLETE":
        status, value, step = "ok", t.value, full
    elif t.state.name == "PRUNED":
        status = "abandoned"
        if t.intermediate_values:
            step = max(t.intermediate_values)
            status, value = "ok", t.intermediate_values[step]
    elif t.user_attrs.get("status") in ("nan", "abandoned"):
        status = t.user_attrs["status"]
    if value is not None and not math.isfinite(value):
        status, value = "nan", None
    name = str(t.user_attrs.get("qcluster_trial", t.number))
    return Trial(id=name, config=unflatten(t.params), number=number, status=status,
                 value=value, step=step, arm=str(t.user_attrs.get("arm", "optuna")))  # fmt: skip


def _space(study: _Stored, path: str | Path) -> Space:
    """The union of what the trials were drawn from."""
    found: dict[str, Parameter] = {}
    runs: Sequence[Mapping[str, Any]] = [t.params for t in study.trials if t.distributions]
    for trial in study.trials:
        for name, distribution in trial.distributions.items():
            p = parse_space({name: distribution}).parameters[0]
            found[name] = p if name not in found else _union(found[name], p)
    if not found:
        raise FormatError(f"study '{study.study_name}' has no parameters", file=path)
    return space_of_runs(found, runs)


def _union(a: Parameter, b: Parameter) -> Parameter:
    if a == b:
        return a
    if a.kind != b.kind or a.kind == "choice" or (a.log, a.q) != (b.log, b.q):
        raise InputError("has different distributions in different trials", field=a.name)
    low = min(a.low, b.low)
    return Parameter(a.name, a.kind, low, max(a.high, b.high), a.log, a.q,
                     origin=low if a.q else 0.0)  # fmt: skip
