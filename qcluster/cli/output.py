"""How verbs speak: results on stdout, everything else on stderr, one line per error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qcluster import text_file
from qcluster.errors import FormatError, InputError
from qcluster.record import encode

__all__ = [
    "emit_json",
    "emit_table",
    "fail",
    "note",
    "progress",
    "read_json",
    "read_text",
    "write_atomic",
]


def fail(message: str, *, status: int) -> int:
    """Print one line to stderr and return the exit status."""
    # What a file held may not be text that a terminal can show.
    line = " ".join(str(message).split()).encode("utf-8", "backslashreplace").decode()
    print(f"qcluster: {line}", file=sys.stderr)  # noqa: T201
    return status


def note(message: str) -> None:
    """Progress or a remark, on stderr."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


def progress(done: int, total: int, name: str) -> None:
    """How far work has come, on one line of stderr that is written over."""
    if sys.stderr.isatty():
        of = f"/{total}" if total else ""
        print(f"\r\x1b[K{done}{of} {name[:60]}", end="", file=sys.stderr, flush=True)  # noqa: T201


def emit_json(result: Any) -> None:
    """A result as one JSON document on stdout; NaN and infinities as null."""
    sys.stdout.write(json.dumps(encode(result), allow_nan=False) + "\n")


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A result as a plain table on stdout: aligned and never wrapped, so it can be searched."""
    shown = [[_cell(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *shown]) for i in range(len(columns))]
    lines = [title] if title else []
    for row in [list(columns), *shown]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def read_text(path: str | Path) -> str:
    """A text file, see ``qcluster.text_file``; ``-`` is stdin.

    Raises FormatError naming the file.
    """
    return sys.stdin.read() if str(path) == "-" else text_file.read_text(path)


def read_json(path: str | Path) -> Any:
    """A JSON file; refuses NaN, Infinity and numbers beyond double range.

    Raises FormatError naming file and row.
    """

    def constant(name: str) -> None:
        raise InputError(f"{name} is not a number that JSON has")

    text = read_text(path)
    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", file=path, row=error.lineno) from None
    except RecursionError:
        raise FormatError("is nested too deeply", file=path) from None
    except InputError as error:
        raise error.at(file=path) from None


def write_atomic(path: str | Path, data: Mapping[str, Any] | str) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    path = Path(path)
    text = data if isinstance(data, str) else json.dumps(encode(data), allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise FormatError(error.strerror or "cannot be written", file=path) from None
