"""Reading loads, traces, tokens and model graphs; writing placements for serving engines.

Loads are layers x experts: CSV (with or without a header), JSON (a list of lists, or a mapping
with ``load`` or ``logical_count``), or npz/npy. An npz with ``expert_ids`` (tokens, layers, k) is a
router trace; its load is the count of picks. Nothing here knows how anything is solved.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.csv_table import is_number, read_rows
from qcluster.errors import FormatError, InputError
from qcluster.q_routing.problem import Placement, read_load
from qcluster.text_file import read_text

__all__ = [
    "count_picks",
    "read_arrays",
    "read_load_file",
    "read_model_graph",
    "read_placement",
    "read_tokens",
    "read_trace",
    "windows_of",
]

_LOAD_KEYS = ("load", "logical_count", "expert_load", "weight")


def read_load_file(path: str | Path) -> NDArray[np.float64]:
    """The loads in a file, (layers, experts) or (windows, layers, experts).

    Raises FormatError naming file, row and field.
    """
    path = Path(path)
    if path.suffix in (".npz", ".npy"):
        arrays = read_arrays(path)
        if "expert_ids" in arrays:
            return count_picks(_trace(arrays["expert_ids"], path))
        key = next((k for k in (*_LOAD_KEYS, "array") if k in arrays), None)
        if key is None and len(arrays) != 1:
            wanted = ", ".join(("expert_ids", *_LOAD_KEYS))
            raise FormatError(f"holds none of {wanted}", file=path)
        return _checked(arrays[key] if key else next(iter(arrays.values())), path)
    text = read_text(path)
    if path.suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _checked(_from_json(_json(text, path), path), path)
    return _checked(_from_csv(text, path), path)


def read_trace(path: str | Path) -> NDArray[np.int64]:
    """Router decisions (tokens, layers, k) of an npz with ``expert_ids``."""
    arrays = read_arrays(Path(path))
    if "expert_ids" not in arrays:
        raise FormatError("holds no expert_ids", file=path)
    return _trace(arrays["expert_ids"], path)


def count_picks(expert_ids: NDArray[np.integer], experts: int | None = None) -> NDArray[np.float64]:
    """Load (layers, experts) of a trace (tokens, layers, k): how often each expert was picked."""
    size = int(expert_ids.max(initial=0)) + 1 if experts is None else experts
    layers = expert_ids.shape[1]
    keys = np.arange(layers)[None, :, None] * size + expert_ids
    return np.bincount(keys.ravel(), minlength=layers * size).reshape(layers, size).astype(float)


def windows_of(
    expert_ids: NDArray[np.integer], tokens: int, experts: int | None = None
) -> NDArray[np.float64]:
    """Loads (windows, layers, experts) of consecutive full windows of ``tokens`` tokens."""
    size = int(expert_ids.max(initial=0)) + 1 if experts is None else experts
    number = len(expert_ids) // tokens
    if not number:
        raise InputError(f"holds {len(expert_ids)} tokens, fewer than a window of {tokens}")
    parts = [expert_ids[i * tokens : (i + 1) * tokens] for i in range(number)]
    return np.stack([count_picks(part, size) for part in parts])


def read_placement(path: str | Path) -> Placement:
    """A placement written as JSON by ``qcluster place --json`` (a plan around it is understood)."""
    data = _json(read_text(Path(path)), path)
    if isinstance(data, Mapping) and isinstance(data.get("placement"), Mapping):
        data = data["placement"]
    if not isinstance(data, Mapping):
        raise FormatError("wants a placement", file=path)
    try:
        return Placement.from_dict(data)
    except InputError as error:
        raise error.at(file=path) from None


def read_tokens(source: Any) -> list[dict[str, Any]]:
    """Token records from a file (JSON list, JSON lines, CSV), a list of mappings, or a DataFrame.

    Empty cells are left out. Raises FormatError naming file and row.
    """
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        rows = source.to_dict("records")
        return [{str(k): v for k, v in row.items() if not _blank(v)} for row in rows]
    if isinstance(source, (str, Path)):
        path = Path(source)
        text = read_text(path)
        if path.suffix in (".csv", ".tsv"):
            return _token_table(text, path)
        if text.lstrip()[:1] == "[":
            source = _json(text, path)
        else:
            source = [
                _json(line, path, row)
                for row, line in enumerate(text.splitlines(), 1)
                if line.strip()
            ]
        return _records(source, path)
    return _records(source, None)


def read_model_graph(source: Any) -> dict[str, Any]:
    """A model graph as a node-link mapping with ``nodes``, ``edges`` and ``directed``.

    From a file, a mapping (``edges`` or ``links``), or a networkx graph. Raises FormatError.
    """
    file = source if isinstance(source, (str, Path)) else None
    if file is not None:
        source = _json(read_text(Path(file)), file)
    elif hasattr(source, "nodes") and hasattr(source, "edges") and hasattr(source, "is_directed"):
        return {
            "directed": source.is_directed(),
            "nodes": [{**data, "id": node} for node, data in source.nodes(data=True)],
            "edges": [{**data, "source": a, "target": b} for a, b, data in source.edges(data=True)],
        }
    if not isinstance(source, Mapping) or not isinstance(source.get("nodes"), list):
        raise FormatError("wants node-link JSON with a list of nodes", file=file, field="nodes")
    edges = source.get("edges", source.get("links", []))
    if not isinstance(edges, list):
        raise FormatError("wants a list", file=file, field="edges")
    for name, rows in (("nodes", source["nodes"]), ("edges", edges)):
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise FormatError("wants a mapping", file=file, field=f"{name}[{index}]")
    return {
        "directed": bool(source.get("directed", False)),
        "nodes": source["nodes"],
        "edges": edges,
    }


def _checked(values: Any, path: str | Path) -> NDArray[np.float64]:
    try:
        return read_load(values)
    except InputError as error:
        raise error.at(file=path) from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz by name, that of an npy as ``array``. Raises FormatError."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"is not an npz or npy file: {error}", file=path) from None


def _trace(ids: NDArray[Any], path: str | Path) -> NDArray[np.int64]:
    if ids.dtype.kind not in "iu" or ids.ndim != 3 or 0 in ids.shape:
        message = f"wants whole numbers (tokens, layers, k), got {ids.dtype} of {ids.shape}"
        raise FormatError(message, file=path, field="expert_ids")
    if ids.min() < 0 or ids.max() > 1_000_000:
        raise FormatError("holds an expert that is out of range", file=path, field="expert_ids")
    return ids.astype(np.int64)


def _json(text: str, path: str | Path | None, row: int | None = None) -> Any:
    def constant(name: str) -> None:
        raise FormatError(f"{name} is not a number that JSON has", file=path, row=row)

    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = error.lineno if row is None else row
        raise FormatError(f"is not JSON: {error.msg}", file=path, row=where) from None
    except RecursionError:
        raise FormatError("is nested too deeply", file=path, row=row) from None


def _from_json(data: Any, path: Path) -> Any:
    if isinstance(data, Mapping):
        key = next((k for k in _LOAD_KEYS if k in data), None)
        if key is None:
            raise FormatError(f"wants one of {', '.join(_LOAD_KEYS)}", file=path)
        data = data[key]
    try:
        array = np.array(data)
    except ValueError:
        raise FormatError("rows differ in length", file=path) from None
    if array.dtype.kind not in "iuf" or array.ndim == 0:
        raise FormatError("wants rows of numbers", file=path)
    return array


def _from_csv(text: str, path: Path) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    for index, (number, row) in enumerate(read_rows(text, file=path)):
        try:
            rows.append([float(cell) for cell in row])
        except ValueError:
            if not index:
                continue  # the header
            bad = next(i for i, cell in enumerate(row) if not is_number(cell))
            message = f"wants a number, got {row[bad]!r}"
            raise FormatError(message, file=path, row=number, field=f"column {bad + 1}") from None
        if len(rows[-1]) != len(rows[0]):
            message = f"has {len(rows[-1])} columns, the first row {len(rows[0])}"
            raise FormatError(message, file=path, row=number)
    if not rows:
        raise FormatError("holds no rows", file=path)
    return np.array(rows)


def _records(rows: Any, path: Path | None) -> list[dict[str, Any]]:
    if isinstance(rows, (str, bytes, Mapping)) or not hasattr(rows, "__iter__"):
        raise FormatError("wants a list of tokens", file=path)
    out = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise FormatError("wants a mapping with an id", file=path, row=number)
        out.append(dict(row))
    return out


def _token_table(text: str, path: Path) -> list[dict[str, Any]]:
    """Tokens of a CSV: numbers where they are numbers, ``interacts`` split at semicolons."""
    out = []
    (_, first), *table = read_rows(text, file=path) or [(1, [])]
    header = [name.strip() for name in first]
    for number, cells in table:
        if len(cells) != len(header):
            raise FormatError(
                "has another number of columns than the header", file=path, row=number
            )
        row = zip(header, cells, strict=True)
        token: dict[str, Any] = {name: cell for name, cell in row if cell != ""}
        for name in ("complexity", "bytes"):
            if name in token:
                if not is_number(token[name]):
                    message = f"wants a number, got {token[name]!r}"
                    raise FormatError(message, file=path, row=number, field=name)
                token[name] = float(token[name])
        if "interacts" in token:
            token["interacts"] = [part.strip() for part in token["interacts"].split(";")]
        out.append(token)
    return out


def _blank(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
