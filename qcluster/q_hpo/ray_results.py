"""Ray Tune's own result directories: ``EXPERIMENT/TRIAL/{params.json,result.json,error.txt}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError
from qcluster.q_hpo.space import flatten

__all__ = ["is_ray_results", "ray_rows"]


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
