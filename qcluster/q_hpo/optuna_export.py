"""A study as an Optuna study: what optuna-dashboard opens, and Optuna's own tools read.

Written through the optuna library itself. Numbers keep their bounds, steps and logarithms; a step
on a logarithmic scale, which Optuna does not know, is left out. A category that Optuna cannot
store (a list, a function) is stored as its ``repr``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError, MissingDependency
from qcluster.q_hpo.parameter import Parameter
from qcluster.q_hpo.space import flatten
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = [
    "OptunaExport", "export_optuna", "is_optuna_head", "open_storage", "optuna_module",
    "stored_choice",
]  # fmt: skip

_SQLITE = (".db", ".sqlite", ".sqlite3")


def optuna_module() -> Any:
    """The optuna library. Raises MissingDependency."""
    try:
        import optuna
    except ImportError:
        raise MissingDependency(
            "optuna", needed_for="reading and writing Optuna studies", extra="optuna"
        ) from None
    return optuna


@contextlib.contextmanager
def open_storage(path: str | Path) -> Iterator[Any]:
    """An Optuna storage, closed at the end: a URL, an SQLite file, or a journal file.

    A file that does not exist is an SQLite one if its name ends in .db, .sqlite or .sqlite3.
    Raises FormatError if it is neither.
    """
    optuna = optuna_module()
    text = str(path)
    storage = None
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" in text:
            storage = optuna.storages.RDBStorage(text)
        else:
            file = Path(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            storage = _of_file(optuna, file)
        yield storage
    except (InputError, MissingDependency):
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise FormatError(
            f"is not an Optuna storage: {type(error).__name__} {first}", file=text
        ) from None
    finally:
        optuna.logging.set_verbosity(verbosity)
        if storage is not None:
            storage.remove_session()
            if hasattr(storage, "engine"):
                storage.engine.dispose()


def is_optuna_head(head: bytes) -> bool:
    """Whether a file that begins so looks like an Optuna storage: SQLite, or its own journal."""
    return head.startswith(b"SQLite format 3") or b'"op_code"' in head.split(b"\n", 1)[0]


def _of_file(optuna: Any, path: Path) -> Any:
    head = b""
    if path.exists():
        with path.open("rb") as file:
            head = file.read(4096)
        if head and not is_optuna_head(head):
            raise FormatError("is not an Optuna storage", file=path)
    if head.startswith(b"SQLite format 3") or (not head and path.suffix.lower() in _SQLITE):
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    journal = optuna.storages.journal
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path)))


def export_optuna(study: Study, path: str | Path, *, name: str = "qcluster") -> int:
    """Write the finished trials of ``study`` to an Optuna storage; how many were new.

    ``path``: an SQLite file, a journal file or a URL of Optuna's. Called again it adds what is new.
    A trial below full fidelity is PRUNED with its value as an intermediate one; failed, nan and
    abandoned trials are FAIL, with the status as a user attribute. Optuna's times are those of the
    export.

    Raises MissingDependency without optuna, FormatError if ``path`` is something else, and
    InputError if the storage has another study of that name.
    """
    return OptunaExport(path, name).update(study)


class OptunaExport:
    """Keeps an Optuna study of ``name`` in the storage at ``path`` up to date with one of ours."""

    def __init__(self, path: str | Path, name: str = "qcluster") -> None:
        optuna_module()
        self.path, self.name = path, name

    def update(self, study: Study) -> int:
        """Add the finished trials that are not there yet; how many those were."""
        optuna = optuna_module()
        with open_storage(self.path) as storage:
            there = self._study(optuna, storage, study)
            known = {t.user_attrs.get("qcluster_trial") for t in there.get_trials(deepcopy=False)}
            fresh = [t for t in study.history if t.status != "running" and t.id not in known]
            full = study.full_step
            for trial in fresh:
                there.add_trial(_frozen(optuna, study, trial, full))
        return len(fresh)

    def _study(self, optuna: Any, storage: Any, study: Study) -> Any:
        direction = "minimize" if study.mode == "min" else "maximize"
        there = optuna.create_study(
            storage=storage, study_name=self.name, direction=direction, load_if_exists=True
        )
        if there.user_attrs.get("qcluster_seed", study.seed) != study.seed or (
            [d.name.lower() for d in there.directions] != [direction]
        ):
            raise InputError(f"holds another study named '{self.name}'", file=self.path)
        there.set_user_attr("qcluster_seed", study.seed)
        return there


def _frozen(optuna: Any, study: Study, trial: Trial, full: int | None) -> Any:
    states = optuna.trial.TrialState
    given = flatten(trial.config, study.space.names)
    params, distributions = {}, {}
    for p in study.space.parameters:
        if p.name in given:
            distributions[p.name] = _distribution(optuna, p, given[p.name])
            params[p.name] = stored_choice(given[p.name]) if _is_listed(p) else given[p.name]
    early = trial.step is not None and full is not None and trial.step < full
    state = states.FAIL if trial.value is None else states.PRUNED if early else states.COMPLETE
    steps = {} if trial.value is None or trial.step is None else {trial.step: trial.value}
    return optuna.trial.create_trial(
        state=state,
        value=None if trial.value is None else trial.value,
        params=params,
        distributions=distributions,
        intermediate_values=steps,
        user_attrs={"qcluster_trial": trial.id, "arm": trial.arm, "status": trial.status},
    )


def _is_listed(p: Parameter) -> bool:
    return p.kind in ("choice", "constant")


def stored_choice(value: Any) -> Any:
    """A category as Optuna stores it: itself if it is a plain value, otherwise its ``repr``."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)


def _distribution(optuna: Any, p: Parameter, value: Any) -> Any:
    made = optuna.distributions
    if _is_listed(p):
        return made.CategoricalDistribution([stored_choice(v) for v in p.choices])
    if p.kind == "normal":
        low, high = p.low - 4 * p.high, p.low + 4 * p.high
        return made.FloatDistribution(min(low, value), max(high, value))
    low, high = p.low, p.high
    if p.step is not None and p.levels is not None:
        low, high = p.value_at(0), p.value_at(p.levels - 1)
    if p.kind == "int":
        step = 1 if p.log else int(p.step or 1)
        return made.IntDistribution(int(low), int(high), p.log, step)
    # Values may lie outside the bounds by the rounding that the space allows.
    low, high = min(low, value), max(high, value)
    return made.FloatDistribution(low, high, p.log, None if p.log else p.q)
