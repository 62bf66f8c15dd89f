"""CSV as programs write it: cells apart by comma, semicolon or tab, numbers with a decimal comma.

Where a comma is the decimal mark, spreadsheets put semicolons between cells. What stands in a
table is its reader's matter: here are rows of text, each with the number of its line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from qcluster.errors import FormatError

__all__ = ["decimal_point", "is_number", "read_rows", "rows_of", "separator"]

_MARKS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')
_DECIMAL_COMMA = re.compile(r"^\s*([-+]?\d*),(\d+(?:[eE][-+]?\d+)?)\s*$")


def separator(line: str) -> str:
    """What stands between the cells of a table with this first line: one of ``,;`` and tab.

    That which the line has most of outside quotes, unless semicolons or tabs leave numbers with a
    decimal comma between them.
    """
    bare = _QUOTED.sub("", line.rstrip("\n"))
    for mark in "\t;":
        cells = bare.split(mark)
        if len(cells) > 1 and all(is_number(decimal_point(cell)) for cell in cells):
            return mark
    return max(_MARKS, key=bare.count)


def decimal_point(cell: str) -> str:
    """A number's text with a point for its decimal comma; other text as it is."""
    return _DECIMAL_COMMA.sub(r"\1.\2", cell) if "," in cell else cell


def rows_of(lines: Iterable[str], mark: str) -> Iterator[list[str]]:
    """The rows of a table whose cells ``mark`` separates, as it comes; broken quotes are taken.

    Raises csv.Error for a cell beyond all measure.
    """
    return csv.reader(lines, delimiter=mark, skipinitialspace=True)


def read_rows(text: str, *, file: object = None) -> list[tuple[int, list[str]]]:
    """All rows of a table that are not blank, with their lines' numbers; the first may be a header.

    Lines before the first row that begin with ``# `` are comments. Where semicolons separate,
    decimal commas come out as points.

    Raises FormatError naming file and row for broken quotes and NUL bytes.
    """
    lines = io.StringIO(text, newline=None).readlines()
    for row, line in enumerate(lines, 1) if "\x00" in text else ():
        if "\x00" in line:
            raise FormatError("holds NUL bytes: not text, or cut by a crash", file=file, row=row)
    head = next((i for i, line in enumerate(lines) if line.strip() and line[:2] != "# "), None)
    if head is None:
        return []
    mark = separator(lines[head])
    table = csv.reader(lines[head:], delimiter=mark, skipinitialspace=True, strict=True)
    out: list[tuple[int, list[str]]] = []
    try:
        for cells in table:
            if cells and (cells[0] or any(map(str.strip, cells))):
                out.append((head + table.line_num, cells))  # noqa: PERF401 - line_num goes on
    except csv.Error as error:
        row = head + table.line_num
        raise FormatError(f"is not CSV: {error}", file=file, row=row) from None
    if mark == ";":
        return [(row, [decimal_point(cell) for cell in cells]) for row, cells in out]
    return out


def is_number(cell: str) -> bool:
    """Whether a cell is a number with a point; digits in groups (1_000) are Python's alone."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
