"""JSON from strangers: read without surprises, and values checked with the field's name.

Python's parser takes NaN, infinities, duplicate keys and lone surrogates; a cluster's telemetry
takes none of them. Every refusal is one FormatError in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError

__all__ = ["load_json", "load_lines", "name_text", "number", "numbers", "only"]


def load_json(text: bytes | str) -> Any:
    """JSON without NaN, infinities, duplicate keys or lone surrogates.

    Raises FormatError in one line, also where the nesting is too deep for the parser.
    """
    try:
        return json.loads(_decoded(text), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except RecursionError:
        raise FormatError("is nested too deeply") from None
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"is not JSON: {error}") from None


def load_lines(data: bytes | str) -> Iterator[tuple[int | None, Any]]:
    """One JSON document, or those that stand one a line, with their lines; read as they are asked.

    Raises FormatError naming the line.
    """
    text = _decoded(data)
    # Not splitlines: U+2028 and its like are no ends of lines in JSON.
    lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise FormatError("holds no samples")
    row, first = lines[0]
    if len(lines) == 1 or not first.rstrip().endswith("}"):
        yield None, load_json(text)
        return
    try:
        document = load_json(first)
    except FormatError as error:
        try:
            document = load_json(text)  # one document over several lines
        except FormatError:
            raise error.at(row=row) from None
        yield None, document
        return
    yield row, document
    for row, line in lines[1:]:
        try:
            document = load_json(line)
        except FormatError as error:
            raise error.at(row=row) from None
        yield row, document


def _decoded(data: bytes | str) -> str:
    try:
        return data.decode("utf-8") if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8") from None


def name_text(value: Any, field: str) -> str:
    """A name of an entity: 1 to 256 printable characters."""
    if not isinstance(value, str) or not value or len(value) > 256 or not value.isprintable():
        raise FormatError(f"wants a name of 1 to 256 printable characters, got {str(value)[:40]!a}",
                          field=field)  # fmt: skip
    return value


def number(value: Any, field: str) -> float:
    """A finite number; null is NaN, a missing value (but not for a time)."""
    if value is None and field != "ts_s":
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError(f"wants a number, got {str(value)[:40]!a}", field=field)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise FormatError("wants a finite number", field=field)
    return result


def numbers(values: list[Any], name: str) -> NDArray[np.float64]:
    """Numbers or null, checked as a whole where their types allow it."""
    if set(map(type, values)) <= {int, float}:
        try:
            array = np.array(values, dtype=np.float64)
        except OverflowError:
            array = np.array([math.inf])
        if np.isfinite(array).all():
            return array
    return np.array([number(value, name) for value in values])


def only(document: Mapping[str, Any], known: set[str]) -> None:
    """Refuse fields that are not known here."""
    for name in document:
        if name not in known:
            raise FormatError("no such field here", field=name[:64])


def _no_constant(name: str) -> None:
    raise FormatError(f"{name} is no JSON number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise FormatError("stands twice", field=name[:64])
            seen.add(name)
    return out
