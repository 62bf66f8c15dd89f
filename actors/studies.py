"""Studies for trainers that are not in Python: kept on disk, asked and told by name.

Each study is a journal of its own under ``state_dir/studies``: a host that died takes them all up
again where they were, with the same suggestions. A study asked twice with the same request id gives
the same trials: the answer that was lost on the way is not a trial that nobody runs.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import InputError, NotFound, Refused
from qcluster.q_hpo import Study
from qcluster.q_hpo.journal import has_lines

__all__ = ["StudyHost"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_OPEN = 200  # each holds a file open
_OPTIONS = {"strategy", "mode", "seed", "points", "pool", "max_step"}


class StudyHost:
    """Creates studies and serves ``ask`` and ``tell``. Thread-safe.

    ``limit``: studies that may exist; the next is refused.
    """

    def __init__(self, state_dir: str, *, limit: int = 1000) -> None:
        self._directory = Path(state_dir) / "studies"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._limit = limit
        self._lock = threading.RLock()
        self._open: dict[str, Study] = {}

    def create(
        self, name: str, space: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A new study. The same request again finds it; another one under its name is refused.

        Raises InputError naming the field, and Refused.
        """
        if not _NAME.fullmatch(name):
            raise InputError("wants letters, digits, '.', '_' and '-', at most 64", field="id")
        unknown = set(options) - _OPTIONS
        if unknown:
            raise InputError(f"is not one of {', '.join(sorted(_OPTIONS))}", field=min(unknown))
        with self._lock:
            path = self._path(name)
            wanted = Study(space, **options)
            if has_lines(path):
                there = next(iter(self._study(name).records()))
                if there != next(iter(wanted.records())):
                    raise Refused(f"study '{name}' exists and is another one")
                return self.show(name)
            if sum(1 for _ in self._directory.glob("*.jsonl")) >= self._limit:
                raise Refused(f"there are {self._limit} studies; delete some")
            self._keep(name, Study(space, **options, journal=path))
            return self.show(name)

    def ask(self, name: str, n: int = 1, request: str | None = None) -> list[dict[str, Any]]:
        """The next ``n`` trials; with a ``request`` id, the same ones when asked again."""
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 256:
            raise InputError(f"wants a whole number from 1 to 256, got {n!r}", field="n")
        with self._lock:
            study = self._study(name)
            if request is None:
                return [trial.to_dict() for trial in study.ask(n)]
            if not isinstance(request, str) or not _NAME.fullmatch(request):
                raise InputError("wants letters, digits, '.', '_' and '-'", field="request")
            known = {trial.id: trial for trial in study.history}
            ids = [f"{request}.{i}" for i in range(n)]
            return [(known.get(i) or study.ask(id=i)).to_dict() for i in ids]

    def tell(
        self, name: str, trial: str, value: Any, status: str = "ok", step: int | None = None
    ) -> dict[str, Any]:
        """What a trial gave; the same again changes nothing."""
        with self._lock:
            return self._study(name).tell(trial, value, status, step).to_dict()

    def show(self, name: str, top: int = 1) -> dict[str, Any]:
        """Its counts, its best trials and those that are running."""
        with self._lock:
            study = self._study(name)
            history = study.history
            return {
                "id": name,
                "mode": study.mode,
                "trials": len(history),
                "statuses": {s: sum(t.status == s for t in history) for s in
                             sorted({t.status for t in history})},
                "best": [trial.to_dict() for trial in study.top(top)],
                "running": [trial.to_dict() for trial in study.running],
            }  # fmt: skip

    def history(self, name: str) -> list[dict[str, Any]]:
        """All of its trials, in order."""
        with self._lock:
            return [trial.to_dict() for trial in self._study(name).history]

    def list(self) -> list[str]:
        """Names of all studies."""
        return sorted(path.stem for path in self._directory.glob("*.jsonl"))

    def close(self) -> None:
        """Close all journals."""
        with self._lock:
            for study in self._open.values():
                study.close()
            self._open.clear()

    def _study(self, name: str) -> Study:
        study = self._open.pop(name, None)
        if study is None:
            path = self._path(name)
            if not _NAME.fullmatch(name) or not path.exists():
                raise NotFound(f"no study '{name}'")
            study = Study.load(path, journal=True)
        return self._keep(name, study)

    def _keep(self, name: str, study: Study) -> Study:
        """The study as the one used last; of too many open ones the one used first is closed."""
        self._open[name] = study
        while len(self._open) > _MOST_OPEN:
            self._open.pop(next(iter(self._open))).close()
        return study

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.jsonl"
