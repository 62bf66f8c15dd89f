"""What Ray Tune writes: trial directories with ``params.json``, ``result.json`` and ``error.txt``,
and snapshots of the experiment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError
from qcluster.q_hpo.space import flatten

__all__ = ["RayTrial", "is_ray_results", "ray_rows", "ray_trials"]


@dataclass(frozen=True)
class RayTrial:
    """One trial as Ray's experiment snapshot has it; ``result`` is its last one, perhaps empty."""

    id: str
    status: str
    config: dict[str, Any]
    result: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether Ray will not run it again by itself."""
        return self.status in ("TERMINATED", "ERROR")

    @property
    def error(self) -> bool:
        """Whether it ended with an error."""
        return self.status == "ERROR"


def ray_trials(directory: Path) -> list[RayTrial]:
    """The trials of the newest ``experiment_state-*.json``; none if there is no readable one."""
    newest = max(directory.glob("experiment_state-*.json"), default=None)
    try:
        rows = [] if newest is None else json.loads(newest.read_text())["trial_data"]
        return [_ray_trial(*map(_object, row)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _object(text: Any) -> dict[str, Any]:
    found = json.loads(text) if isinstance(text, str) else text
    return found if isinstance(found, dict) else {}


def _ray_trial(state: dict[str, Any], run: dict[str, Any]) -> RayTrial:
    return RayTrial(str(state["trial_id"]), str(state["status"]), state["config"] or {},
                    run.get("last_result") or {})  # fmt: skip


def is_ray_results(path: Path) -> bool:
    """Whether ``path`` is a directory with at least one trial of Ray Tune."""
    return path.is_dir() and next(path.glob("*/params.json"), None) is not None


def ray_rows(path: Path) -> list[dict[str, str]]:
    """One row a trial, as a CSV of Ray's has it: ``config/NAME``, metrics, ``status``.

    Metrics are those of the trial's last result. Raises FormatError naming a file that is broken.
    """
    rows = []
    for params in sorted(path.glob("*/params.json")):
        config = _read(params)
        last = _last_result(params.with_name("result.json"))
        failed = params.with_name("error.txt").exists()
        row = {name: _text(value) for name, value in last.items()
               if not isinstance(value, (dict, list))}  # fmt: skip
        row |= {f"config/{name}": _text(value) for name, value in flatten(config).items()}
        row["status"] = "ERROR" if failed else "TERMINATED"
        rows.append(row)
    # A trial that failed at once reported nothing: give every row all columns.
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in names} for row in rows]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read: {error}", file=path) from None
    if not isinstance(found, dict):
        raise FormatError("wants an object", file=path)
    return found


def _last_result(path: Path) -> dict[str, Any]:
    """The last whole line; nothing if the trial reported nothing."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # cut short by a crash
            continue
        if isinstance(found, dict):
            found.pop("config", None)
            return found
    return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
