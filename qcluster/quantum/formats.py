"""Ising problems in files: JSON, COO text, G-set and DIMACS, recognised by their content.

- JSON: ``{"h": [...], "J": [[i, j, v], ...], "offset": 0, "groups": [[...], ...]}`` or a list of
  these, 0-based. ``h`` may be left out when ``n`` is given. Unknown keys are refused, since a
  mistyped ``ofset`` would silently change the problem; only an item with an ``id`` is a record of
  an instance collection, whose further keys (kind, ground_energy, ...) are annotations and ignored.
- COO: lines ``i j value``, 0-based, ``i i value`` is a field; ``#`` begins a comment, and the
  comment ``# vartype=BINARY`` makes it a QUBO with x = (1 - z) / 2 (default SPIN), as dimod writes.
- G-set (Helmberg and Rendl, 2000): a line ``n m``, then m lines ``i j w``, 1-based. MaxCut:
  E = sum w z z, cut = (sum w - E) / 2.
- DIMACS: ``p edge n m``, then ``e i j [w]``, 1-based, ``c`` begins a comment. MaxCut likewise.

Text may be UTF-8 or UTF-16 with a byte-order mark, with any line ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qcluster.errors import FormatError, InputError
from qcluster.quantum.convert import (
    binary_to_spin,
    from_bqm,
    from_networkx,
    from_qubo,
    to_bqm,
    to_networkx,
    to_qubo,
)
from qcluster.quantum.problem import IsingProblem
from qcluster.text_file import read_text

__all__ = [
    "from_bqm",
    "from_networkx",
    "from_qubo",
    "parse_problems",
    "problem_from_json",
    "problem_to_json",
    "read_problems",
    "to_bqm",
    "to_networkx",
    "to_qubo",
    "write",
]

KEYS = frozenset({"h", "J", "offset", "groups", "n"})
# A file may announce any number of variables; beyond this the announcement alone eats memory.
MAX_VARIABLES = 10_000_000

Lines = list[tuple[int, list[str]]]


def read_problems(path: str | Path) -> list[IsingProblem]:
    """All problems in a file, at least one.

    Raises FormatError naming file, row or field.
    """
    text = read_text(path)
    try:
        return parse_problems(text)
    except InputError as error:
        raise FormatError(error.message, file=path, row=error.row, field=error.field) from None


def parse_problems(text: str) -> list[IsingProblem]:
    """All problems in a text of any of the formats. Raises InputError naming row or field."""
    start = text.lstrip()[:1]
    if not start:
        raise FormatError("is empty")
    if start in "[{":
        return _parse_json(text)
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, words) for number, words in rows if words]
    data = [(number, words) for number, words in rows if not words[0].startswith("#")]
    if rows[0][1][0] in ("c", "p"):
        return [_parse_dimacs(rows)]
    if not data:
        raise FormatError("holds only comments")
    if len(data[0][1]) == 2:
        return [_parse_gset(data)]
    return [_parse_coo(text, data)]


def problem_from_json(item: Any, where: str = "") -> IsingProblem:
    """The problem in a mapping read from JSON; ``where`` is put before field names.

    Raises InputError naming the field.
    """
    if not isinstance(item, Mapping):
        raise FormatError(f"wants an object with h and J, got {type(item).__name__}",
                          field=where.rstrip(".") or None)  # fmt: skip
    unknown = sorted(set(item) - KEYS)
    if unknown and "id" not in item:
        raise FormatError("is not a field of an Ising problem", field=f"{where}{unknown[0]}")
    try:
        return _build(item)
    except InputError as error:
        raise FormatError(error.message, field=f"{where}{error.field or ''}".rstrip(".")) from None


def problem_to_json(problem: IsingProblem) -> dict[str, Any]:
    """The mapping that ``problem_from_json`` reads back to an equal problem."""
    return {
        "h": problem.h.tolist(),
        "J": [
            [int(i), int(j), float(w)]
            for (i, j), w in zip(problem.edges, problem.weights, strict=True)
        ],
        "offset": problem.offset,
        "groups": [list(group) for group in problem.groups],
    }


def write(problem: IsingProblem, path: str | Path) -> None:
    """Write a problem; the suffix chooses the format: ``.json``, ``.coo``, ``.dimacs``/``.col``,
    anything else G-set.

    Raises FormatError when the format cannot hold the problem (only JSON holds groups and an
    offset, only JSON and COO hold fields) or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    make = {".json": _json_text, ".coo": _coo_text, ".dimacs": _dimacs_text, ".col": _dimacs_text}
    try:
        text = make.get(suffix, _gset_text)(problem)
        Path(path).write_text(text, encoding="utf-8")
    except InputError as error:
        raise FormatError(error.message, file=path, field=error.field) from None
    except OSError as error:
        raise FormatError(error.strerror or "cannot be written", file=path) from None


def _parse_json(text: str) -> list[IsingProblem]:
    def constant(name: str) -> None:
        raise FormatError(f"{name} is not a number that JSON has")

    try:
        data = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", row=error.lineno) from None
    except RecursionError:
        raise FormatError("is nested too deeply") from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise FormatError(str(error).partition(";")[0]) from None
    if isinstance(data, Mapping):
        return [problem_from_json(data)]
    if not data:
        raise FormatError("holds no problem")
    return [problem_from_json(item, f"[{k}].") for k, item in enumerate(data)]


def _build(item: Mapping[str, Any]) -> IsingProblem:
    size = item.get("n")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise FormatError(f"wants a whole number, got {size!r}", field="n")
    if size is not None and size > MAX_VARIABLES:
        raise FormatError(f"{size} is more than {MAX_VARIABLES} variables", field="n")
    if "h" not in item and size is None:
        raise FormatError("is missing", field="h")
    h = item.get("h")
    h = [0.0] * (size or 0) if h is None else h
    if not isinstance(h, list):
        raise FormatError(f"wants a list of numbers, got {type(h).__name__}", field="h")
    if size is not None and size != len(h):
        raise FormatError(f"says {size}, but h has {len(h)} values", field="n")
    pairs, values = _triplets([] if item.get("J") is None else item["J"])
    groups = [] if item.get("groups") is None else item["groups"]
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        raise FormatError("wants lists of variables", field="groups")
    offset = item.get("offset", 0.0)
    return IsingProblem(h, offset=offset, groups=groups, edges=pairs, weights=values)


def _triplets(entries: Any) -> tuple[list[list[int]], list[float]]:
    if not isinstance(entries, list):
        raise FormatError(f"wants a list of [i, j, value], got {type(entries).__name__}", field="J")
    for k, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 3:
            raise FormatError(f"wants [i, j, value], got {_short(entry)}", field=f"J[{k}]")
        if not all(type(i) is int and abs(i) < 2**62 for i in entry[:2]):
            raise FormatError(f"wants whole numbers i, j, got {_short(entry)}", field=f"J[{k}]")
        if type(entry[2]) not in (int, float):
            raise FormatError(f"wants a number, got {_short(entry[2])}", field=f"J[{k}]")
    return [entry[:2] for entry in entries], [entry[2] for entry in entries]


def _parse_gset(rows: Lines) -> IsingProblem:
    number, head = rows[0]
    n, m = (_whole(word, number) for word in head)
    if len(rows) - 1 != m:
        raise FormatError(f"announces {m} edges, {len(rows) - 1} follow", row=number)
    return _maxcut(n, rows[1:], number, first=0)


def _parse_dimacs(rows: Lines) -> IsingProblem:
    heads = [(number, words) for number, words in rows if words[0] == "p"]
    if len(heads) != 1 or len(heads[0][1]) != 4:
        raise FormatError("wants one line 'p edge N M'", row=heads[-1][0] if heads else None)
    number, words = heads[0]
    n, m = _whole(words[2], number), _whole(words[3], number)
    edges = [row for row in rows if row[1][0] in ("e", "a")]
    for other, words in rows:
        if words[0] not in ("c", "p", "e", "a", "n"):
            raise FormatError(f"begins with '{words[0]}', wants c, p, e, a or n", row=other)
    if len(edges) != m:
        raise FormatError(f"announces {m} edges, {len(edges)} follow", row=number)
    return _maxcut(n, edges, number, first=1)


def _maxcut(n: int, rows: Lines, head: int, *, first: int) -> IsingProblem:
    if n > MAX_VARIABLES:
        raise FormatError(f"announces {n} vertices, more than {MAX_VARIABLES}", row=head)
    edges, weights = [], []
    for number, words in rows:
        cells = words[first:]
        if len(cells) not in (2, 3):
            raise FormatError(f"wants 'i j [weight]', got {len(cells)} values", row=number)
        i, j = (_whole(word, number) for word in cells[:2])
        if not (1 <= i <= n and 1 <= j <= n):
            raise FormatError(f"edge {i} {j}, but vertices are 1 to {n}", row=number)
        edges.append((i - 1, j - 1))
        weights.append(_real(cells[2], number) if len(cells) == 3 else 1.0)
    # A loop is never cut; as a coupling it would only move the offset.
    kept = [k for k, (i, j) in enumerate(edges) if i != j]
    return IsingProblem(
        np.zeros(n), edges=[edges[k] for k in kept], weights=[weights[k] for k in kept]
    )


def _parse_coo(text: str, rows: Lines) -> IsingProblem:
    comments = " ".join(line for line in text.splitlines() if line.lstrip().startswith("#"))
    kind = re.search(r"vartype\s*=\s*(\w+)", comments)
    if kind and kind[1].upper() not in ("SPIN", "BINARY"):
        raise FormatError(f"vartype is SPIN or BINARY, not {kind[1]}")
    fields: dict[int, float] = {}
    edges, weights = [], []
    top = -1
    for number, words in rows:
        if len(words) != 3:
            raise FormatError(f"wants 'i j value', got {len(words)} values", row=number)
        i, j = (_whole(word, number) for word in words[:2])
        value = _real(words[2], number)
        top = max(top, i, j)
        if top >= MAX_VARIABLES:
            raise FormatError(f"variable {top}: more than {MAX_VARIABLES} variables", row=number)
        if i == j:
            fields[i] = fields.get(i, 0.0) + value
        else:
            edges.append((i, j))
            weights.append(value)
    h = np.zeros(top + 1)
    h[list(fields)] = list(fields.values())
    problem = IsingProblem(h, edges=edges, weights=weights)
    if kind and kind[1].upper() == "BINARY":
        return binary_to_spin(problem.h, problem.edges, problem.weights, 0.0)
    return problem


def _whole(word: str, row: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,18}", word) or int(word) < 0:
        raise FormatError(f"wants a whole number, got '{word[:40]}'", row=row)
    return int(word)


def _real(word: str, row: int) -> float:
    try:
        value = float(word)
    except ValueError:
        raise FormatError(f"wants a number, got '{word[:40]}'", row=row) from None
    if not np.isfinite(value):
        raise FormatError(f"{word[:40]} is not finite", row=row)
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _json_text(problem: IsingProblem) -> str:
    return json.dumps(problem_to_json(problem)) + "\n"


def _coo_text(problem: IsingProblem) -> str:
    _only_couplings(problem, fields=True)
    lines = ["# vartype=SPIN"]
    # The last variable is always written, so that n survives when it is isolated.
    last = problem.n - 1
    lines += [f"{i} {i} {float(v)!r}" for i, v in enumerate(problem.h) if v or i == last]
    return "\n".join(lines + _edge_lines(problem, 0)) + "\n"


def _gset_text(problem: IsingProblem) -> str:
    _only_couplings(problem, fields=False)
    return "\n".join([f"{problem.n} {len(problem.edges)}", *_edge_lines(problem, 1)]) + "\n"


def _dimacs_text(problem: IsingProblem) -> str:
    _only_couplings(problem, fields=False)
    edges = [f"e {line}" for line in _edge_lines(problem, 1)]
    return "\n".join([f"p edge {problem.n} {len(problem.edges)}", *edges]) + "\n"


def _edge_lines(problem: IsingProblem, base: int) -> list[str]:
    def number(value: float) -> str:
        return repr(int(value) if value == int(value) else value)

    return [
        f"{i + base} {j + base} {number(w)}"
        for (i, j), w in zip(problem.edges.tolist(), problem.weights.tolist(), strict=True)
    ]


def _only_couplings(problem: IsingProblem, *, fields: bool) -> None:
    if problem.groups:
        raise FormatError("this format cannot hold one-hot groups; use .json", field="groups")
    if problem.offset:
        raise FormatError("this format cannot hold an offset; use .json", field="offset")
    if not fields and problem.h.any():
        raise FormatError("this format cannot hold fields; use .json or .coo", field="h")
