"""Files: spaces (JSON, YAML), earlier trials (CSV), history (JSON lines, CSV), best sets.

Nothing is evaluated: a CSV cell is read as JSON if it is JSON (numbers, true, false, null, lists)
and as text otherwise, and matched to the space's own values.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.journal import write_lines
from qcluster.q_hpo.parameter import Parameter, same_value
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.space import Space, flatten, unflatten
from qcluster.q_hpo.trial import Trial
from qcluster.record import encode

__all__ = ["load_prior", "load_space", "write_best", "write_history"]

_PREFIXES = ("", "config/", "config.", "cfg-", "params_", "param_")
_METRICS = ("value", "loss", "val_loss", "objective", "metric", "score", "accuracy")
_FAILED = {"error", "errored", "fail", "failed", "nan", "crashed"}
# YAML 1.1 reads 1e-5 as text; a space is full of such numbers.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def load_space(path: str | Path) -> Space:
    """A space from a JSON or YAML file. Raises FormatError or InputError naming file and field."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read: {error}", file=path) from None
    try:
        return parse_space(_document(text, path))
    except InputError as error:
        raise error.at(file=path) from None


def _document(text: str, path: Path) -> Any:
    import yaml

    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_no_duplicates)
        return _exponents(yaml.safe_load(text))
    except InputError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise FormatError(f"is neither JSON nor YAML: {first}", file=path) from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError("is named twice", field=name)
    return dict(pairs)


def _exponents(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _exponents(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_exponents(value) for value in data]
    return float(data) if isinstance(data, str) and _EXPONENT.fullmatch(data) else data


def load_prior(
    path: str | Path,
    space: Space | Mapping[str, Any],
    *,
    metric: str | None = None,
    full_step: int | None = None,
) -> Prior:
    """Earlier trials from a CSV file (``.gz`` too): one column per parameter, one for the metric.

    Parameter columns may be prefixed as Ray's (``config/``), Optuna's (``params_``) or LLMSYS's
    (``cfg-``). Optional columns: ``status``, ``task`` (several tasks in one file) and
    ``training_iteration`` (rows below ``full_step``, or below the largest, are left out). Rows that
    the space does not hold are left out and counted in ``skipped``.
    Raises FormatError if a parameter or the metric has no column.
    """
    path, space = Path(path), parse_space(space)
    rows = _read_csv(path)
    header = list(rows[0]) if rows else []
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
        if config is None or (_step(row) < full_step and "training_iteration" in row):
            skipped += 1
            continue
        configs.append(config)
        values.append(_value_of_row(row, metric))
        names.append(row.get("task") or path.stem)
    return Prior(configs=configs, values=values, names=names, skipped=skipped)


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read: {error}", file=path) from None
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        if not reader.fieldnames:
            raise FormatError("is empty", file=path)
        return [{k: v or "" for k, v in row.items() if isinstance(k, str)} for row in reader]
    except csv.Error as error:
        raise FormatError(f"is not CSV: {error}", file=path) from None


def _parameter_columns(space: Space, header: Sequence[str], path: Path) -> dict[str, str]:
    columns: dict[str, str] = {}
    for p in space.parameters:
        for prefix in _PREFIXES:
            if prefix + p.name in header:
                columns[p.name] = prefix + p.name
                break
        else:
            if p.kind != "constant" and header:
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
    for name in _METRICS:
        if name in free:
            return name
    if header:
        raise FormatError(f"name the metric's column; there are {', '.join(free)}", file=path)
    return "value"


def _step(row: Mapping[str, str]) -> int:
    try:
        return int(float(row.get("training_iteration") or 0))
    except (ValueError, OverflowError):
        return 0


def _value_of_row(row: Mapping[str, str], metric: str) -> float | None:
    if row.get("status", "").strip().lower() in _FAILED:
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
    except ValueError:
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


def write_history(path: str | Path, trials: Iterable[Trial]) -> None:
    """All trials as JSON lines, or as CSV if ``path`` ends in ``.csv``; atomically."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        write_lines(path, (trial.to_dict() for trial in trials))
        return
    rows = []
    for t in trials:
        row = {"trial": t.id, "status": t.status, "value": t.value, "training_iteration": t.step}
        config = {f"config/{name}": value for name, value in flatten(t.config).items()}
        rows.append({**row, "arm": t.arm, **config})
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names or ["trial"], restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: _shown(v) for k, v in row.items()})
    _write_text(path, text.getvalue())


def write_best(path: str | Path, trials: Sequence[Trial]) -> None:
    """The best trials, best first, as JSON; atomically."""
    rows = [{"trial": t.id, "value": t.value, "config": encode(t.config)} for t in trials]
    _write_text(Path(path), json.dumps({"best": rows}, indent=1) + "\n")


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else (
        json.dumps(encode(value), default=repr)
    )  # fmt: skip


def _write_text(path: Path, text: str) -> None:
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)
