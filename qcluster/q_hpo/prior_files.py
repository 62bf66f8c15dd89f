"""Earlier trials from files: CSV tables, Ray Tune's results, Optuna's storages.

Nothing is evaluated: a CSV cell is read as JSON if it is JSON (numbers, true, false, null, lists)
and as text otherwise, and matched to the space's own values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qcluster.csv_table import read_rows
from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.optuna_import import is_optuna_file, matched, optuna_trials
from qcluster.q_hpo.param_space import only_known
from qcluster.q_hpo.parameter import Parameter, same_value
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.ray_results import is_ray_results, ray_rows
from qcluster.q_hpo.space import Space, unflatten
from qcluster.text_file import read_text

__all__ = ["load_prior"]

# Ray also copies what a trial reports under plain names: its own come first.
_PREFIXES = ("config/", "", "config.", "cfg-", "params_", "param_")
_METRICS = ("value", "loss", "val_loss", "objective", "metric", "score", "accuracy")
_FAILED = {"error", "errored", "fail", "failed", "nan", "crashed"}
_STOPPED = {"pruned", "running", "abandoned", "waiting"}


def load_prior(
    path: str | Path,
    space: Space | Mapping[str, Any],
    *,
    metric: str | None = None,
    full_step: int | None = None,
) -> Prior:
    """Earlier trials: a CSV file (``.gz`` too), a directory of Ray Tune's, an Optuna storage.

    A CSV file has one column per parameter and one for the metric. Parameter columns may be
    prefixed as Ray's (``config/``), Optuna's (``params_``) or LLMSYS's (``cfg-``); one that is
    conditional may have none. Commas, semicolons or tabs separate the cells. Optional
    columns: ``status`` or ``state``, ``task`` (several tasks in one file) and
    ``training_iteration`` (rows below ``full_step``, or below the largest, are left out). Rows of
    trials that did not end, and rows that the space does not hold, are left out and counted in
    ``skipped``.

    A directory of Ray's gives the last result of each trial; the studies of an Optuna storage are
    tasks of their names. Raises FormatError if a parameter or the metric has no column.
    """
    path, space = Path(path), parse_space(space)
    if is_optuna_file(path):
        return _of_optuna(path, space)
    if is_ray_results(path):
        rows = ray_rows(path)
        header = list(rows[0]) if rows else []
    else:
        header, rows = _read_csv(path)
    columns = _parameter_columns(space, header, path)
    metric = _metric_column(metric, header, columns, path)
    if full_step is None:
        full_step = max((_step(row) for row in rows), default=0)
    configs: list[dict[str, Any]] = []
    values: list[float | None] = []
    names: list[str] = []
    skipped = 0
    for row in rows:
        config = _config_of_row(space, columns, row)
        value = _value_of_row(row, metric)
        # A trial that failed may never have reported a step; a stopped one has no final value.
        early = "training_iteration" in row and value is not None and _step(row) < full_step
        early |= _status(row) in _STOPPED
        if config is None or early:
            skipped += 1
            continue
        configs.append(config)
        values.append(value)
        names.append(row.get("task") or path.stem)
    return Prior(configs=configs, values=values, names=names, skipped=skipped)


def _of_optuna(path: Path, space: Space) -> Prior:
    """The values at full fidelity; configurations without what the space does not know."""
    configs: list[dict[str, Any]] = []
    values: list[float | None] = []
    names: list[str] = []
    skipped = 0
    for name, trials in optuna_trials(path).items():
        full = max((t.step for t in trials if t.step is not None), default=None)
        for trial in trials:
            try:
                config = matched(only_known(trial.config, space), space)
                config = space.config(space.point(config))
            except InputError:
                skipped += 1
                continue
            early = trial.value is not None and (trial.step or 0) < (full or 0)
            if early or trial.status == "abandoned":
                skipped += 1
                continue
            configs.append(config)
            values.append(trial.value)
            names.append(name)
    return Prior(configs=configs, values=values, names=names, skipped=skipped)


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns, and the rows; a row that is too short lacks its last cells."""
    table = read_rows(read_text(path), file=path)
    if not table:
        raise FormatError("is empty", file=path)
    header = [name.strip() for name in table[0][1]]
    for name in header:
        if name and header.count(name) > 1:
            raise FormatError("is the name of two columns", file=path, field=name)
    rows = [dict(zip(header, cells, strict=False)) for _, cells in table[1:]]
    return header, [{name: row.get(name, "") for name in header} for row in rows]


def _parameter_columns(space: Space, header: Sequence[str], path: Path) -> dict[str, str]:
    columns: dict[str, str] = {}
    for p in space.parameters:
        for prefix in _PREFIXES:
            found = {prefix + p.name, prefix + p.name.replace("/", ".")} & set(header)
            if found:
                columns[p.name] = max(found)
                break
        else:
            if p.kind != "constant" and p.when is None and header:
                raise FormatError("has no column for this parameter", file=path, field=p.name)
    return columns


def _metric_column(
    metric: str | None, header: Sequence[str], columns: Mapping[str, str], path: Path
) -> str:
    free = [name for name in header if name not in columns.values()]
    if metric is not None:
        if header and metric not in free:
            raise FormatError(f"has no such column; there are {', '.join(free)}", file=path,
                              field=metric)  # fmt: skip
        return metric
    plain = {name.lower(): name for name in reversed(free)}
    for known in _METRICS:
        if known in plain:
            return plain[known]
    if header:
        shown = ", ".join(free) or "none besides the parameters"
        raise FormatError(f"name the metric's column; there are {shown}", file=path)
    return "value"


def _step(row: Mapping[str, str]) -> int:
    try:
        return int(float(row.get("training_iteration") or 0))
    except (ValueError, OverflowError):
        return 0


def _status(row: Mapping[str, str]) -> str:
    """How the trial ended; Optuna's table calls the column ``state``."""
    return (row.get("status") or row.get("state") or "").strip().lower()


def _value_of_row(row: Mapping[str, str], metric: str) -> float | None:
    if _status(row) in _FAILED:
        return None
    try:
        value = float(row[metric])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _config_of_row(
    space: Space, columns: Mapping[str, str], row: Mapping[str, str]
) -> dict[str, Any] | None:
    flat = {}
    for p in space.parameters:
        text = row.get(columns.get(p.name, ""), "")
        if text != "":
            flat[p.name] = _cell(p, text)
    config = unflatten(flat)
    try:
        return space.config(space.point(config))
    except InputError:
        return None


def _cell(p: Parameter, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if p.kind in ("choice", "constant"):
        for choice in p.choices:
            if same_value(choice, value) or str(choice) == text:
                return choice
        return value
    try:
        return float(text) if isinstance(value, str) else value
    except ValueError:
        return value
