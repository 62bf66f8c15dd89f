"""Power readings in CSV of any origin, and in the logs of nvidia-smi."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.csv_table import decimal_point, is_number, rows_of, separator
from qcluster.errors import FormatError
from qcluster.q_energy.readings import Counters, Lines, Readings, is_blank_text
from qcluster.telemetry.sources.replay.smi import is_smi_log, smi_columns

__all__ = ["ENERGY", "NODE", "POWER", "TIME", "read_csv", "stamp"]

# Name to factor to base units (seconds, watts, joules).
TIME = {"ts_s": 1.0, "time_s": 1.0, "t_s": 1.0, "time_ms": 1e-3, "ts_ms": 1e-3, "timestamp": 1.0,
        "time": 1.0, "ts": 1.0}  # fmt: skip
POWER = {"power_w": 1.0, "node_power_w": 1.0, "power_mw": 1e-3, "power_kw": 1e3, "power": 1.0,
         "power_watts": 1.0, "watts": 1.0}  # fmt: skip
ENERGY = {"energy_j": 1.0, "energy_mj": 1e-3}
NODE = ("node", "hostname", "host")
# These carry no unit, so their cells may be time stamps as people write them.
_PLAIN_TIMES = ("timestamp", "time", "ts")
_CHUNK = 65_536

Rows = list[tuple[int, list[str]]]


def read_csv(lines: Lines, readings: Readings, node: str) -> None:
    """All readings of a table with a header; ``node`` names those of no node.

    Raises FormatError naming row and column; csv.Error for what is no CSV.
    """
    first = next((line for line in lines if line.strip() and not line.startswith("#")), None)
    if first is None:
        raise FormatError("has no header", file=readings.file)
    head_row = lines.row
    mark = separator(first)
    header = [name.strip().lower() for name in next(rows_of([first], mark))]
    file = readings.file
    table = rows_of(lines, mark)
    is_log = is_smi_log(header)
    for name in {name for name in header if header.count(name) > 1}:
        if name in (*TIME, *POWER, *NODE, "gpu", "index"):
            raise FormatError(f"column '{name}' stands twice", file=file, row=head_row)
    columns = _Columns(header, readings, node, is_log)
    for rows in _chunks(table, header, lines, readings, is_log):
        columns.take(rows, comma=mark == ";")


def _chunks(
    table: Iterator[list[str]], header: Sequence[str], lines: Lines, readings: Readings, log: bool
) -> Iterator[Rows]:
    """Rows with as many cells as the header, with their numbers, some at a time."""
    held: Rows = []
    short: tuple[int, int] | None = None
    for cells in table:
        row = lines.row
        if short is not None:
            raise _wrong(short, header, readings.file)
        if not cells or cells[0].startswith("#"):
            continue
        if len(cells) != len(header):
            if log:
                readings.skip("it is a message or cut", row)
            else:
                short = row, len(cells)
        elif [cell.strip().lower() for cell in cells] == header:
            readings.skip("it repeats the header", row)
        else:
            held.append((row, cells))
        if len(held) >= _CHUNK:
            yield held
            held = []
    if short is not None:
        if lines.whole:
            raise _wrong(short, header, readings.file)
        readings.skip("the last line is cut", short[0])
    if log and held and not lines.whole and _loses_unit(held[0][1], held[-1][1]):
        readings.skip("the last line is cut", held.pop()[0])
    if held:
        yield held


def _wrong(short: tuple[int, int], header: Sequence[str], file: object) -> FormatError:
    message = f"has {short[1]} cells where the header has {len(header)}"
    return FormatError(message, file=file, row=short[0])


def _loses_unit(first: Sequence[str], last: Sequence[str]) -> bool:
    """Whether a cell of the last row lacks the unit that the column had before."""
    pairs = [(a.strip(), b.strip()) for a, b in zip(first[1:], last[1:], strict=True)]
    units = [(a.partition(" ")[2], b) for a, b in pairs if a[:1].isdigit()]
    return any(unit and not b.endswith(unit) and not is_blank_text(b) for unit, b in units)


class _Columns:
    """Turns rows under one header into readings."""

    def __init__(self, header: list[str], readings: Readings, node: str, is_log: bool) -> None:
        self._header, self._readings, self._node = header, readings, node
        self._file, self._is_log = readings.file, is_log
        self._devices: dict[str, str] = {}
        self._counters = Counters(readings)
        if not is_log:
            _name(header, TIME, "time", self._file)
            if not any(name in header for name in ENERGY):
                _name(header, POWER, "power", self._file)

    def take(self, rows: Rows, *, comma: bool) -> None:
        """Readings of these rows; ``comma`` where numbers may have a decimal comma.

        Raises FormatError naming row and column.
        """
        numbers = np.array([row for row, _ in rows], np.int64)
        names = zip(self._header, zip(*(cells for _, cells in rows), strict=True), strict=True)
        cells: Mapping[str, Sequence[str]] = dict(names)
        if self._is_log:
            path = Path(str(self._file or "log"))
            cells = smi_columns(cells, path, rows=numbers.tolist(), devices=self._devices)
        time_name, unit = _name(cells, TIME, "time", self._file)
        counted = not any(name in cells for name in POWER)
        power_name, scale = _name(cells, ENERGY if counted else POWER, "power", self._file)
        values, blank = self._floats(cells[power_name], power_name, numbers, comma)
        for row in numbers[blank]:
            self._readings.skip("there is no power reading", int(row))
        kept = np.flatnonzero(~blank)
        times = self._times(
            [cells[time_name][i] for i in kept.tolist()], time_name, numbers[kept], comma
        )
        who = self._names(cells, kept, numbers)
        runs = [cells["run"][i].strip() for i in kept.tolist()] if "run" in cells else []
        if counted:
            for i, name in enumerate(who):
                self._counters.add(
                    name, float(times[i]) * unit, float(values[kept[i]]) * scale,
                    int(numbers[kept[i]]), runs[i] if runs else "",
                )  # fmt: skip
        else:
            self._readings.extend(who, times * unit, values[kept] * scale, numbers[kept], runs)

    def _names(
        self,
        cells: Mapping[str, Sequence[str]],
        kept: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> list[str]:
        who = next((cells[name] for name in NODE if name in cells), None)
        gpu = next((cells[name] for name in ("gpu", "gpu_id", "gpu_index") if name in cells), None)
        index: list[int] = kept.tolist()
        hosts = [self._node if who is None else who[i].strip() for i in index]
        if "" in hosts:
            row = int(numbers[index[hosts.index("")]])
            raise FormatError("is empty", file=self._file, row=row, field="node")
        if gpu is None:
            return hosts
        return [f"{host}/{gpu[i].strip()}" for host, i in zip(hosts, index, strict=True)]

    def _times(
        self, cells: Sequence[str], name: str, rows: NDArray[np.int64], comma: bool
    ) -> NDArray[np.float64]:
        if name in _PLAIN_TIMES and cells and not is_number(decimal_point(cells[0])):
            pairs = zip(cells, rows.tolist(), strict=True)
            return np.array([stamp(cell, row, self._file, name) for cell, row in pairs])
        times, blank = self._floats(cells, name, rows, comma)
        if blank.any():
            row = int(rows[np.argmax(blank)])
            raise FormatError("wants a time, the cell is empty", file=self._file, row=row,
                              field=name)  # fmt: skip
        return times

    def _floats(
        self, cells: Sequence[str], name: str, rows: NDArray[np.int64], comma: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Numbers, and which cells say that there is none."""
        if comma:
            cells = [decimal_point(cell) for cell in cells]
        blank = np.zeros(len(cells), bool)
        try:
            if "_" not in "".join(cells):  # 1_000 is a number in Python only
                return np.array(cells, dtype=np.float64), blank
        except ValueError:
            pass
        out = np.zeros(len(cells))
        for i, cell in enumerate(cells):
            blank[i] = is_blank_text(cell)
            if blank[i]:
                continue
            if not is_number(cell):
                message = f"wants a number, got '{cell[:40]}'"
                raise FormatError(message, file=self._file, row=int(rows[i]), field=name)
            out[i] = float(cell)
        return out, blank


def _name(
    names: Mapping[str, object] | Sequence[str], known: Mapping[str, float], kind: str, file: object
) -> tuple[str, float]:
    for name, unit in known.items():
        if name in names:
            return name, unit
    wanted = ", ".join(known)
    raise FormatError(f"has no {kind} column; wants one of {wanted}", file=file, row=1)


def stamp(cell: str, row: int, file: object, field: str = "timestamp") -> float:
    """Unix seconds of a time stamp in ISO 8601 with its zone.

    Raises FormatError naming row and field, also where the zone is missing.
    """
    try:
        when = dt.datetime.fromisoformat(cell.strip())
    except ValueError:
        message = f"wants ISO 8601, got '{cell[:40]}'"
        raise FormatError(message, file=file, row=row, field=field) from None
    if when.tzinfo is None:
        message = f"'{cell[:40]}' has no time zone; add one, such as Z"
        raise FormatError(message, file=file, row=row, field=field)
    return when.timestamp()
