"""Power readings a line: JSON lines, and the power logs of MLPerf training and inference."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qcluster.errors import FormatError
from qcluster.q_energy.format_csv import ENERGY, NODE, POWER, TIME, stamp
from qcluster.q_energy.readings import Counters, Lines, Readings, is_blank_text
from qcluster.telemetry.schema import METRICS, is_blank
from qcluster.telemetry.sources.exposition import Series
from qcluster.telemetry.sources.prometheus import general

__all__ = [
    "is_inference_log",
    "read_inference_log",
    "read_json",
    "read_json_lines",
    "read_training_log",
]

_MARK = ":::MLLOG"
# What telemetry as others send it has beside samples of power.
_OTHER = {*METRICS, "topology", "jobs", "event", "expert_load"}


def read_training_log(lines: Lines, readings: Readings, node: str) -> None:
    """MLPerf training: one ``power_reading`` event a line, watts, after whatever prefix.

    Lines that are broken are left out, as processes that share an output break each other's.
    """
    broken: FormatError | None = None
    for line in lines:
        _, found, rest = line.partition(_MARK)
        if not found:
            continue
        try:
            event = _object(rest, lines.row, readings.file)
        except FormatError as error:
            broken = broken or error
            readings.skip("it is not JSON", lines.row)
            continue
        if event.get("key") != "power_reading":
            continue
        if _is_none(event.get("value")):
            readings.skip("there is no power reading", lines.row)
            continue
        ts_s = _number(event, "time_ms", lines.row, readings.file) * 1e-3
        readings.add(node, ts_s, _number(event, "value", lines.row, readings.file), lines.row)
    if not len(readings):
        raise broken or FormatError("has no power_reading events", file=readings.file)


def is_inference_log(first: str) -> bool:
    """Whether a text begins like the power log of MLPerf inference (SPEC's PTDaemon)."""
    cells = first.split(",")
    return len(cells) > 3 and cells[0] == "Time" and cells[2] == "Watts"


def read_inference_log(lines: Lines, readings: Readings, node: str) -> None:
    """MLPerf inference: ``Time,08-23-2021 20:34:21.124,Watts,145.3,Volts,...`` a line.

    The log has local time without a zone; it is read as UTC.
    """
    for line in lines:
        cells = line.strip().split(",")
        if len(cells) < 4 or cells[0] != "Time" or cells[2] != "Watts":
            if line.strip():
                readings.skip("it is no line of a meter", lines.row)
            continue
        try:
            when = dt.datetime.strptime(cells[1], "%m-%d-%Y %H:%M:%S.%f")
        except ValueError:
            message = f"wants MM-DD-YYYY HH:MM:SS.mmm, got '{cells[1][:40]}'"
            raise FormatError(message, file=readings.file, row=lines.row, field="Time") from None
        watts = _watts(cells[3], lines.row, readings)
        if watts is not None:
            readings.add(node, when.replace(tzinfo=dt.UTC).timestamp(), watts, lines.row)


def _watts(cell: str, row: int, readings: Readings) -> float | None:
    try:
        watts = float(cell)
    except ValueError:
        message = f"wants a number, got '{cell[:40]}'"
        raise FormatError(message, file=readings.file, row=row, field="Watts") from None
    if watts == -1.0:  # the daemon's word for a reading that is not valid
        readings.skip("there is no power reading", row)
        return None
    return watts


def read_json_lines(lines: Lines, readings: Readings, node: str) -> None:
    """JSON objects, one a line, as ``Documents`` reads them; a cut last line is left out."""
    documents = _Documents(readings, node)
    for line in lines:
        if not line.strip():
            continue
        try:
            item = _object(line, lines.row, readings.file)
        except FormatError as error:
            cut = not lines.whole and error.message.startswith("is not JSON")
            if not cut or not len(readings):
                raise
            readings.skip("the last line is cut", lines.row)
            continue
        documents.take(item, lines.row)
    documents.done()


def read_json(text: str, readings: Readings, node: str) -> None:
    """One JSON text: a list of objects as in JSON lines, one object, or an answer of Prometheus."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"is not JSON: {error.msg}"
        raise FormatError(message, file=readings.file, row=error.lineno) from None
    except RecursionError:
        raise FormatError("is nested too deeply", file=readings.file) from None
    if isinstance(data, Mapping) and ("data" in data or "resultType" in data):
        _prometheus(data.get("data", data), readings)
        return
    documents = _Documents(readings, node)
    for row, item in enumerate(data if isinstance(data, list) else [data], 1):
        if not isinstance(item, Mapping):
            message = "wants a list of JSON objects"
            raise FormatError(message, file=readings.file, row=row)
        documents.take(item, row)
    documents.done()


class _Documents:
    """Turns samples as telemetry takes them into readings; other documents pass."""

    def __init__(self, readings: Readings, node: str) -> None:
        self._readings, self._node, self._file = readings, node, readings.file
        self._counters = Counters(readings)
        self._other = 0

    def take(self, item: Mapping[str, Any], row: int) -> None:
        """Readings of one document.

        Raises FormatError naming row and field.
        """
        if "columns" in item and isinstance(item["columns"], Mapping):
            for one in self._split(item, row):
                self.take(one, row)
            return
        power = next((name for name in POWER if name in item), None)
        energy = next((name for name in ENERGY if name in item), None)
        if power is None and energy is None:
            if not _OTHER & item.keys():
                wanted = ", ".join(POWER)
                message = f"has no power; wants one of {wanted}"
                raise FormatError(message, file=self._file, row=row)
            self._other += 1
            return
        ts_s = self._time(item, row)
        name = next((str(item[k]) for k in NODE if k in item), self._node)
        name = f"{name}/{item['gpu']}" if "gpu" in item else name
        field = power or energy or ""
        if _is_none(item[field]):
            self._readings.skip("there is no power reading", row)
        elif power is not None:
            watts = _number(item, power, row, self._file) * POWER[power]
            self._readings.add(name, ts_s, watts, row)
        else:
            joules = _number(item, field, row, self._file) * ENERGY[field]
            self._counters.add(name, ts_s, joules, row)

    def done(self) -> None:
        """Raises FormatError when there were documents, none of them with power."""
        if self._other and not len(self._readings):
            message = f"has no power readings among {self._other} documents"
            raise FormatError(message, file=self._file)

    def _time(self, item: Mapping[str, Any], row: int) -> float:
        field = next((name for name in TIME if name in item), None)
        if field is None:
            wanted = ", ".join(TIME)
            raise FormatError(f"has no time; wants one of {wanted}", file=self._file, row=row)
        value = item[field]
        if isinstance(value, str):
            return stamp(value, row, self._file, field)
        return _number(item, field, row, self._file) * TIME[field]

    def _split(self, item: Mapping[str, Any], row: int) -> Iterable[Mapping[str, Any]]:
        ids, columns = item.get("ids"), item["columns"]
        if not isinstance(ids, list):
            raise FormatError("wants a list of names", file=self._file, row=row, field="ids")
        times = {name: item[name] for name in TIME if name in item}
        for name, values in columns.items():
            if name not in POWER and name not in ENERGY:
                self._other += 1
                continue
            if not isinstance(values, list) or len(values) != len(ids):
                message = f"wants {len(ids)} numbers"
                raise FormatError(message, file=self._file, row=row, field=str(name))
            for who, value in zip(ids, values, strict=True):
                yield {**times, "node": who, name: value}


def _prometheus(data: Any, readings: Readings) -> None:
    """The ``data`` of an answer to a query of Prometheus: a matrix of ranges, or a vector."""
    found = data.get("result") if isinstance(data, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise FormatError("has no result of a query", file=readings.file, field="data.result")
    known = False
    for row, one in enumerate(found, 1):
        labels = one.get("metric") if isinstance(one, Mapping) else None
        if not isinstance(labels, Mapping):
            raise FormatError("has no labels", file=readings.file, row=row, field="metric")
        texts = {str(k): str(v) for k, v in labels.items()}
        target = general(Series(texts.get("__name__", ""), texts), texts.get("instance", "node_0"))
        if target is None or target.metric not in ("power_w", "node_power_w"):
            continue
        known = True
        for pair in one.get("values") or [one.get("value")]:
            ts_s, watts = _sample(pair, row, readings.file)
            if math.isnan(watts) or bool(is_blank(*_lone(watts))):
                readings.skip("there is no power reading", row)
            else:
                readings.add(target.id, ts_s, watts * target.scale, row)
    if not known:
        message = "no series is a GPU's or node's power by its __name__ and labels"
        raise FormatError(message, file=readings.file, field="data.result")


def _lone(watts: float) -> tuple[Any, Any]:
    import numpy as np

    return np.array([watts]), np.array([False])


def _sample(pair: Any, row: int, file: object) -> tuple[float, float]:
    try:
        ts_s, value = pair
        return float(ts_s), float(value)
    except (TypeError, ValueError):
        message = f"wants [time, value], got {pair!r:.40}"
        raise FormatError(message, file=file, row=row, field="values") from None


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and is_blank_text(value))


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


def _number(item: Mapping[str, Any], name: str, row: int, file: object) -> float:
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
