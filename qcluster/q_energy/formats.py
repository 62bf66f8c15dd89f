"""Readers of power telemetry: CSV, logs of nvidia-smi, JSON lines, power logs of MLPerf training
and inference, saved scrapes of Prometheus exporters (DCGM's and others) and answers of Prometheus'
API, plain or gzipped, from a file or a pipe.

All give a ``PowerTrace`` in watts and seconds. Columns and keys are recognised by the names that
exporters use; a unit in the name (``power_mw``, ``time_ms``) is converted, a unit that the values
contradict is refused. Rows that say they have no reading (``[N/A]``, an empty cell, null) and a
last line that was cut are left out and counted in the trace's warnings.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from qcluster.errors import FormatError
from qcluster.q_energy.format_csv import read_csv
from qcluster.q_energy.format_lines import (
    is_inference_log,
    read_inference_log,
    read_json,
    read_json_lines,
    read_training_log,
)
from qcluster.q_energy.format_scrape import read_scrape_text
from qcluster.q_energy.readings import Lines, Readings
from qcluster.q_energy.trace import PowerTrace
from qcluster.text_file import decoded

__all__ = ["parse_trace", "read_trace"]

# How Prometheus' text begins: a comment about a metric, or a sample with labels.
_SCRAPE = re.compile(r"# (HELP|TYPE|UNIT|EOF)\b|[A-Za-z_:][\w:]*\{")
# How far to look for what kind of log this is: programs print before they log.
_HEAD_LINES = 2_000
_LOG = ":::MLLOG"
# Longest line: a document of a whole cluster; what is longer is no text of readings.
_LONGEST = 64 * 1024**2
_TABLES = {
    "+--": "is a table for people; wants nvidia-smi --query-gpu=timestamp,index,power.draw "
    "--format=csv",
    "# gpu": "is an output of nvidia-smi dmon; wants nvidia-smi --query-gpu=timestamp,index,"
    "power.draw --format=csv",
    "#Entity": "is an output of dcgmi dmon; wants CSV, JSON lines or dcgm-exporter's text",
    "<": "is HTML or XML; wants CSV, JSON lines or an exporter's text",
}


def read_trace(path: str | Path, *, last_s: float | None = None) -> PowerTrace:
    """The power trace in a file or pipe, ``-`` for standard input; ``.gz`` is unpacked.

    The format is told by content, not by ending. With ``last_s`` a long stream is read in little
    memory: each entity's last seconds are sure to be kept, and its highest reading.

    Raises FormatError naming file, row and field.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    if str(path) == "-":
        return _of_raw(cast(io.BufferedReader, sys.stdin.buffer), path, "node_0", last_s)
    try:
        with path.open("rb") as raw:
            return _of_raw(raw, path, name, last_s)
    except OSError as error:
        raise FormatError(error.strerror or "cannot be read", file=path) from None


def parse_trace(
    text: str, *, file: object = None, node: str = "node_0", last_s: float | None = None
) -> PowerTrace:
    """The power trace in a text; ``node`` names the one node of a log that names none."""
    return _parsed(io.StringIO(text, newline=""), file, node, last_s)


def _of_raw(raw: io.BufferedReader, path: Path, node: str, last_s: float | None) -> PowerTrace:
    with decoded(raw, path) as text:
        return _parsed(text, path, node, last_s)


def _parsed(text: Iterable[str], file: object, node: str, last_s: float | None) -> PowerTrace:
    lines = Lines(_bounded(text, file))
    readings = Readings(file=file, last_s=last_s)
    first, is_log = _looked_at(lines)
    if not first:
        raise FormatError("is empty", file=file)
    if is_log:
        read_training_log(lines, readings, node)
    elif _SCRAPE.match(first):
        return read_scrape_text("".join(lines), file)
    elif is_inference_log(first):
        read_inference_log(lines, readings, node)
    elif first[0] == "[" or first == "{" or (first[0] == "{" and '"resultType"' in first[:400]):
        read_json("".join(lines), readings, node)
    elif first[0] == "{":
        read_json_lines(lines, readings, node)
    else:
        _table(lines, readings, node, first)
    return readings.trace()


def _table(lines: Lines, readings: Readings, node: str, first: str) -> None:
    for start, message in _TABLES.items():
        if first.startswith(start):
            raise FormatError(message, file=readings.file)
    try:
        read_csv(lines, readings, node)
    except csv.Error as error:
        raise FormatError(f"is not CSV: {error}", file=readings.file, row=lines.row) from None


def _looked_at(lines: Lines) -> tuple[str, bool]:
    """The first line that is not blank, and whether this is a log of MLPerf training."""
    head: list[str] = []
    first = ""
    for line in lines:
        head.append(line)
        first = first or line.strip()
        if _LOG in line or len(head) >= _HEAD_LINES or (first and not _may_be_log(first)):
            break
    is_log = bool(head) and _LOG in head[-1]
    for line in reversed(head):
        lines.back(line)
    return first, is_log


def _may_be_log(first: str) -> bool:
    """Whether a text that begins so may be a program's output with a log's lines in it."""
    return not (first[0] in "{[" or _SCRAPE.match(first) or "," in first)


def _bounded(text: Iterable[str], file: object) -> Iterable[str]:
    read = getattr(text, "readline", None)
    if read is None:
        yield from text
        return
    row = 0
    while line := read(_LONGEST):
        row += 1
        if len(line) >= _LONGEST:
            raise FormatError(f"is longer than {_LONGEST} characters", file=file, row=row)
        if "\x00" in line:
            raise FormatError("holds NUL bytes: not a text, or cut by a crash", file=file, row=row)
        yield line
