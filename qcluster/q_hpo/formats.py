"""Files: spaces (JSON, YAML), history (JSON lines, CSV), best sets. Nothing is evaluated."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.journal import write_lines
from qcluster.q_hpo.space import Space, flatten
from qcluster.q_hpo.trial import Trial
from qcluster.record import encode
from qcluster.text_file import read_text

__all__ = ["load_space", "write_best", "write_history"]

# YAML 1.1 reads 1e-5 as text; a space is full of such numbers.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def load_space(path: str | Path) -> Space:
    """A space from a JSON or YAML file. Raises FormatError or InputError naming file and field."""
    path = Path(path)
    text = read_text(path)
    try:
        return parse_space(_document(text, path))
    except InputError as error:
        raise error.at(file=path) from None


def _document(text: str, path: Path) -> Any:
    import yaml

    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_no_duplicates)
        for name, at in _twice(yaml.compose(text, yaml.SafeLoader)):
            raise InputError("is named twice", field=name, row=at)
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


def _twice(node: Any) -> Iterator[tuple[str, int]]:
    """Keys that stand twice in one mapping of a YAML document, and their lines."""
    import yaml

    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    names = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
    for key, value in pairs:
        if isinstance(key, yaml.ScalarNode) and names.count(key.value) > 1:
            yield str(key.value), key.start_mark.line + 1
        yield from _twice(value)


def _exponents(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _exponents(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_exponents(value) for value in data]
    return float(data) if isinstance(data, str) and _EXPONENT.fullmatch(data) else data


def write_history(path: str | Path, trials: Iterable[Trial]) -> None:
    """All trials as JSON lines, or as CSV if ``path`` ends in ``.csv``; atomically."""
    path = Path(path)
    if path.suffix.lower() != ".csv":
        write_lines(path, (trial.to_dict() for trial in trials))
        return
    rows = []
    for t in trials:
        row = {"trial": t.id, "status": t.status, "value": t.value, "training_iteration": t.step}
        config = {f"config/{name}": "null" if value is None else value
                  for name, value in flatten(t.config).items()}  # fmt: skip
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
