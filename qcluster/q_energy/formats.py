"""Readers of power telemetry: CSV, logs of nvidia-smi, JSON lines, MLPerf power logs and saved
scrapes of Prometheus exporters (DCGM's and others), plain or gzipped.

All give a ``PowerTrace`` in watts and seconds. Columns and keys are recognised by the names that
exporters use; a unit in the name (``power_mw``, ``time_ms``) is converted, a unit that the values
contradict is refused.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.q_energy.trace import PowerTrace
from qcluster.telemetry.sources.replay.logs import read_scrape
from qcluster.telemetry.sources.replay.smi import is_smi_log, smi_columns

__all__ = ["parse_trace", "read_trace"]

# Name to factor to base units (seconds, watts).
_TIME = {"ts_s": 1.0, "time_s": 1.0, "t_s": 1.0, "time_ms": 1e-3, "ts_ms": 1e-3, "timestamp": 1.0}
_POWER = {"power_w": 1.0, "node_power_w": 1.0, "power_mw": 1e-3, "power_kw": 1e3, "power": 1.0}
_NODE = ("node", "hostname", "host")
_MAX_BYTES = 2 * 1024**3
# How Prometheus' text begins: a comment about a metric, or a sample with labels.
_SCRAPE = re.compile(r"# (HELP|TYPE) |[A-Za-z_:][\w:]*\{")


def read_trace(path: str | Path) -> PowerTrace:
    """The power trace in a file; ``.gz`` is unpacked. Format by content, not by ending.

    Raises FormatError naming file, row and field.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
                raw = packed.read(_MAX_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FormatError(f"is not a whole gzip file: {error}", file=path) from None
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8 text", file=path) from None
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return parse_trace(text, file=path, node=name)


def parse_trace(text: str, *, file: object = None, node: str = "node_0") -> PowerTrace:
    """The power trace in a text; ``node`` names the one node of a log that names none."""
    head = text.lstrip()[:64]
    if not head:
        raise FormatError("is empty", file=file)
    if head.startswith(":::MLLOG"):
        return _trace(_mllog(text, node, file), file)
    if _SCRAPE.match(head):
        return _scrape(text, file)
    if head.startswith("{"):
        return _trace(_json_lines(text, node, file), file)
    return _csv(text, node, file)


def _csv(text: str, node: str, file: object) -> PowerTrace:
    rows = csv.reader(io.StringIO(text))
    try:
        header = [name.strip().lower() for name in next(rows)]
        table = [row for row in rows if row]
    except csv.Error as error:
        raise FormatError(f"is not CSV: {error}", file=file) from None
    for number, row in enumerate(table, 2):
        if len(row) != len(header):
            message = f"has {len(row)} cells where the header has {len(header)}"
            raise FormatError(message, file=file, row=number)
    if is_smi_log(header) and table:
        header, table = _of_smi(header, table, file)
    time_at, time_unit = _column(header, _TIME, "time", file)
    power_at, power_unit = _column(header, _POWER, "power", file)
    who = next((header.index(name) for name in _NODE if name in header), None)
    gpu = header.index("gpu") if "gpu" in header else None
    names = _names(table, who, gpu, node)
    times = _times([row[time_at] for row in table], header[time_at], file)
    watts = _floats([row[power_at] for row in table], header[power_at], file)
    run = header.index("run") if "run" in header else None
    runs = None if run is None else np.array([row[run] for row in table])
    return PowerTrace.of(names, times * time_unit, watts * power_unit, runs=runs, file=file)


def _scrape(text: str, file: object) -> PowerTrace:
    """One reading of everything whose power a scrape tells; blanks are left out with a warning."""
    out: list[Reading] = []
    blank = 0
    for batch in read_scrape(text, Path(str(file or "scrape")), "file"):
        for block in batch.blocks:
            name = next((m for m in ("power_w", "node_power_w") if m in block.metrics), None)
            if name is None:
                continue
            watts = block.values[:, block.metrics.index(name)]
            kept = np.isfinite(watts)
            blank += int((~kept).sum())
            ids = zip(block.ids, watts, kept, strict=True)
            out += [(who, batch.ts_s, float(w), 1) for who, w, ok in ids if ok]
    if not out:
        raise FormatError("has no power readings", file=file)
    trace = _trace(out, file)
    if not blank:
        return trace
    line = f"{blank} power readings are blank or out of range and left out"
    return dataclasses.replace(trace, warnings=(*trace.warnings, line))


def _of_smi(
    header: Sequence[str], table: Sequence[Sequence[str]], file: object
) -> tuple[list[str], list[list[str]]]:
    """A log of nvidia-smi under the names and in the units of other CSV files."""
    cells = dict(zip(header, zip(*table, strict=True), strict=True))
    columns = smi_columns(cells, Path(str(file or "log")))
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _names(
    table: Sequence[Sequence[str]], who: int | None, gpu: int | None, node: str
) -> NDArray[np.str_]:
    if who is None and gpu is None:
        return np.full(len(table), node)
    hosts = [node if who is None else row[who] for row in table]
    if gpu is None:
        return np.array(hosts)
    return np.array([f"{host}/{row[gpu]}" for host, row in zip(hosts, table, strict=True)])


def _column(
    header: Sequence[str], known: Mapping[str, float], kind: str, file: object
) -> tuple[int, float]:
    for name, unit in known.items():
        if name in header:
            return header.index(name), unit
    wanted = ", ".join(known)
    raise FormatError(f"has no {kind} column; wants one of {wanted}", file=file, row=1)


def _times(cells: Sequence[str], name: str, file: object) -> NDArray[np.float64]:
    if name != "timestamp" or not cells or _is_number(cells[0]):
        return _floats(cells, name, file)
    return np.array([_stamp(cell, row, file) for row, cell in enumerate(cells, 2)])


def _stamp(cell: str, row: int, file: object) -> float:
    try:
        when = dt.datetime.fromisoformat(cell.strip())
    except ValueError:
        message = f"wants ISO 8601, got '{cell[:40]}'"
        raise FormatError(message, file=file, row=row, field="timestamp") from None
    if when.tzinfo is None:
        message = f"'{cell[:40]}' has no time zone; add one, such as Z"
        raise FormatError(message, file=file, row=row, field="timestamp")
    return when.timestamp()


def _floats(cells: Sequence[str], name: str, file: object) -> NDArray[np.float64]:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        row = next(i for i, cell in enumerate(cells) if not _is_number(cell))
        message = f"wants a number, got '{cells[row][:40]}'"
        raise FormatError(message, file=file, row=row + 2, field=name) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


Reading = tuple[str, float, float, int]


def _mllog(text: str, node: str, file: object) -> list[Reading]:
    """MLPerf training power logs: one ``power_reading`` event a line, watts."""
    out: list[Reading] = []
    for row, line in enumerate(text.splitlines(), 1):
        if not line.startswith(":::MLLOG"):
            continue
        event = _object(line.removeprefix(":::MLLOG"), row, file)
        if event.get("key") == "power_reading":
            out.append((node, _num(event, "time_ms", row, file) * 1e-3,
                        _num(event, "value", row, file), row))  # fmt: skip
    if not out:
        raise FormatError("has no power_reading events", file=file)
    return out


def _json_lines(text: str, node: str, file: object) -> list[Reading]:
    out: list[Reading] = []
    for row, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        item = _object(line, row, file)
        time_name = _key(item, _TIME, "time", row, file)
        power_name = _key(item, _POWER, "power", row, file)
        stamp = item[time_name]
        when = _stamp(stamp, row, file) if isinstance(stamp, str) else (
            _num(item, time_name, row, file) * _TIME[time_name])  # fmt: skip
        watts = _num(item, power_name, row, file) * _POWER[power_name]
        name = next((str(item[k]) for k in _NODE if k in item), node)
        out.append((f"{name}/{item['gpu']}" if "gpu" in item else name, when, watts, row))
    return out


def _object(line: str, row: int, file: object) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", file=file, row=row) from None
    except RecursionError:
        raise FormatError("is nested too deeply", file=file, row=row) from None
    if not isinstance(item, dict):
        raise FormatError("wants a JSON object a line", file=file, row=row)
    return item


def _key(item: Mapping[str, Any], known: Iterable[str], kind: str, row: int, file: object) -> str:
    for name in known:
        if name in item:
            return name
    raise FormatError(f"has no {kind}; wants one of {', '.join(known)}", file=file, row=row)


def _num(item: Mapping[str, Any], name: str, row: int, file: object) -> float:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError(f"wants a number, got {value!r}"[:80], file=file, row=row, field=name)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormatError(f"{number} is not a reading", file=file, row=row, field=name)
    return number


def _trace(readings: Sequence[Reading], file: object) -> PowerTrace:
    if not readings:
        raise FormatError("holds no readings", file=file)
    names, times, watts, rows = zip(*readings, strict=True)
    return PowerTrace.of(
        np.array(names), np.array(times), np.array(watts), file=file, first_row=rows[0]
    )
