"""Telemetry that others send: JSON documents, JSON lines and columns, strictly checked.

A document is one of these, or a list of them, or one a line:

    {"ts_s": 1763.0, "node": "a", "gpu": 0, "power_w": 512.0, "sm_clock_mhz": 1980}
    {"ts_s": 1763.0, "node": "a", "node_power_w": 5200}
    {"ts_s": 1763.0, "link": "a/0->a/nvswitch", "link_up": 1}
    {"ts_s": 1763.0, "entity": "gpu", "ids": ["a/0", "a/1"], "columns": {"power_w": [512, null]}}
    {"ts_s": 1763.0, "expert_load": [[3, 1], [2, 2]]}       layers x experts
    {"topology": {...}}  {"jobs": [...]}  {"event": {"kind": "alarm", "subject": "a/0"}}

``ts_s`` is Unix seconds and may be left out (now). null is a missing value; NaN, infinities,
booleans, unknown fields and duplicate keys are refused, each by name. Samples of one time become
one batch. A time stamp ahead of our clock by more than a period is set to now and marked SKEW,
because one fast clock must not make everybody else's samples look stale.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality
from qcluster.telemetry.topology import Topology

__all__ = ["Push", "load_json", "parse_samples"]

MAX_DEPTH_HINT = "is nested too deeply"
QUEUE = 1024
# Year 5138 in seconds; milliseconds since 1970 passed it in 1973.
MAX_TS_S = 1e11
_UNITS = (
    *("_w", "_j", "_mhz", "_c", "_bytes", "_s", "_mw", "_kw", "_mj", "_khz", "_hz", "_ghz"),
    *("_gb", "_mb", "_mib", "_gib", "_ms", "_ns", "_us", "_pct", "_percent", "_f", "_k"),
)
_EVENTS = ("link_down", "link_up", "gpu_lost", "gpu_back", "hot_expert", "power_step", "gap",
           "alarm", "clear")  # fmt: skip


def parse_samples(
    data: bytes | str | Mapping[str, Any] | list[Any],
    *,
    source: str = "push",
    period_s: float = 1.0,
    now: float | None = None,
) -> list[Batch]:
    """Batches of what was sent, in order of time.

    ``now`` is our clock in Unix seconds (the time of day if None).
    Raises FormatError naming row and field for anything that is not as above.
    """
    now = time.time() if now is None else now
    by_time: dict[float, _Gather] = {}
    for row, document in _documents(data):
        try:
            ts_s = _time(document, now)
            late = ts_s > now + period_s
            gather = by_time.setdefault(now if late else ts_s, _Gather())
            gather.take(document, ts_s, Quality.SKEW if late else Quality.OK)
        except FormatError as error:
            raise error.at(row=row) from None
    return [by_time[ts].batch(source, ts, period_s) for ts in sorted(by_time)]


def load_json(text: bytes | str) -> Any:
    """JSON without NaN, infinities, duplicate keys or lone surrogates.

    Raises FormatError in one line, also where the nesting is too deep for the parser.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except UnicodeDecodeError:
        raise FormatError("is not UTF-8") from None
    except RecursionError:
        raise FormatError(MAX_DEPTH_HINT) from None
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"is not JSON: {error}") from None


class Push:
    """A source fed by ``offer``: a bounded queue that drops its oldest batch when full.

    ``dropped`` counts what was lost, so that the sender's side can be told.
    """

    def __init__(self, argument: str = "", *, queue: int = QUEUE) -> None:
        if argument:
            raise FormatError("takes no argument", field="push")
        self.name = "push"
        self.dropped = 0
        self._queue: deque[Batch] = deque()
        self._limit, self._ready, self._closed = queue, asyncio.Event(), False

    def offer(self, batch: Batch) -> bool:
        """Hand a batch over; False when an older one had to go for it. Never blocks."""
        full = len(self._queue) >= self._limit
        if full:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(batch)
        self._ready.set()
        return not full

    def close(self) -> None:
        """End ``batches`` once the queue is empty."""
        self._closed = True
        self._ready.set()

    async def batches(self) -> AsyncIterator[Batch]:
        """What is offered, in that order."""
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._closed:
                return
            self._ready.clear()
            await self._ready.wait()


class _Gather:
    """What came for one time."""

    def __init__(self) -> None:
        self._rows: dict[Entity, dict[str, dict[str, float]]] = {"gpu": {}, "node": {}, "link": {}}
        self._marks: dict[tuple[Entity, str, str], Quality] = {}
        self._blocks: list[Block] = []
        self._fields: dict[str, Any] = {}
        self._events: list[Event] = []

    def take(self, document: Mapping[str, Any], ts_s: float, mark: Quality) -> None:
        if "columns" in document or "entity" in document:
            self._blocks.append(_columns(document, mark))
            return
        special = document.keys() & {"expert_load", "topology", "jobs", "event"}
        if not special:
            self._sample(document, mark)
            return
        _only(document, {"ts_s", "expert_load", "topology", "jobs", "event"})
        if "expert_load" in document:
            load = _load(document["expert_load"])
            held = self._fields.get("expert_load")
            if held is not None and held.shape == load.shape:
                load = load + held
            self._fields["expert_load"] = load
        if "topology" in document:
            self._fields["topology"] = _within("topology", Topology.parse, document["topology"])
        if "jobs" in document:
            self._fields["jobs"] = _within("jobs", Job.parse_all, document["jobs"])
        if "event" in document:
            self._events.append(_event(document["event"], ts_s))

    def batch(self, source: str, ts_s: float, period_s: float) -> Batch:
        blocks = [_block(entity, rows, self._marks) for entity, rows in self._rows.items() if rows]
        return Batch(
            source=source,
            ts_s=ts_s,
            period_s=period_s,
            blocks=(*blocks, *self._blocks),
            events=tuple(self._events),
            **self._fields,
        )

    def _sample(self, document: Mapping[str, Any], mark: Quality) -> None:
        entity, name = _subject(document)
        row = self._rows[entity].setdefault(name, {})
        for metric, value in document.items():
            if metric in ("ts_s", "node", "gpu", "link"):
                continue
            known = METRICS.get(metric)
            if known is None or known.entity != entity:
                raise _unknown(metric, entity)
            number = _number(value, metric)
            if metric in row:
                self._mark(entity, name, metric, Quality.DUPLICATE)
                continue
            row[metric] = number
            self._mark(entity, name, metric, mark)

    def _mark(self, entity: Entity, name: str, metric: str, mark: Quality) -> None:
        if mark:
            key = (entity, name, metric)
            self._marks[key] = self._marks.get(key, Quality.OK) | mark


def _documents(data: Any) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    if isinstance(data, (bytes, str)):
        data = _read(data)
    if isinstance(data, Mapping):
        rows: list[tuple[int | None, Any]] = [(None, data)]
    elif isinstance(data, list):
        rows = list(enumerate(data, start=1))
    else:
        raise FormatError("wants a JSON object, a list of them, or one a line")
    if not rows:
        raise FormatError("holds no samples")
    for row, document in rows:
        if not isinstance(document, Mapping):
            raise FormatError("wants a JSON object", row=row)
        yield row, document


def _read(data: bytes | str) -> Any:
    text = data.decode("utf-8", errors="replace") if isinstance(data, bytes) else data
    lines = [(i, line) for i, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise FormatError("holds no samples")
    if isinstance(data, bytes) and "\ufffd" in text:
        load_json(data)
    if len(lines) == 1 or not lines[0][1].rstrip().endswith("}"):
        return load_json(text)
    out = []
    for row, line in lines:
        try:
            out.append(load_json(line))
        except FormatError as error:
            if row == lines[0][0]:
                return load_json(text)
            raise error.at(row=row) from None
    return out


def _no_constant(name: str) -> None:
    raise FormatError(f"{name} is no JSON number")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        raise FormatError("stands twice", field=next(n for n in names if names.count(n) > 1))
    return out


def _time(document: Mapping[str, Any], now: float) -> float:
    if "ts_s" not in document:
        return now
    value = _number(document["ts_s"], "ts_s")
    if not 0 <= value <= MAX_TS_S:
        raise FormatError(f"wants Unix seconds, got {value:g}", field="ts_s")
    return value


def _subject(document: Mapping[str, Any]) -> tuple[Entity, str]:
    if "link" in document:
        return "link", _text(document["link"], "link")
    if "node" not in document:
        raise FormatError("a sample needs it (or 'link')", field="node")
    node = _text(document["node"], "node")
    if "gpu" not in document:
        return "node", node
    gpu = document["gpu"]
    if isinstance(gpu, bool) or not isinstance(gpu, int) or not 0 <= gpu < 4096:
        raise FormatError(f"wants the index of a GPU, got {gpu!r}", field="gpu")
    return "gpu", f"{node}/{gpu}"


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value or len(value) > 256 or not value.isprintable():
        raise FormatError(f"wants a name of 1 to 256 printable characters, got {str(value)[:40]!a}",
                          field=field)  # fmt: skip
    return value


def _number(value: Any, field: str) -> float:
    if value is None and field != "ts_s":
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError(f"wants a number, got {str(value)[:40]!a}", field=field)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormatError("wants a finite number", field=field)
    return number


def _unknown(name: str, entity: str) -> FormatError:
    """No such field; names the metric of the same stem when only the unit is wrong."""
    for metric in METRICS.values():
        if metric.entity == entity and _stem(metric.name) == _stem(name):
            hint = f"; did you mean {metric.name} ({metric.unit})?"
            return FormatError(f"no {entity} metric of this name{hint}", field=name[:64])
    return FormatError(f"no {entity} metric of this name", field=name[:64])


def _stem(name: str) -> str:
    for unit in sorted(_UNITS, key=len, reverse=True):
        if name.endswith(unit):
            return name.removesuffix(unit)
    return name


def _columns(document: Mapping[str, Any], mark: Quality) -> Block:
    _only(document, {"ts_s", "entity", "ids", "columns"})
    entity = document.get("entity", "gpu")
    if entity not in ("gpu", "node", "link"):
        raise FormatError("wants gpu, node or link", field="entity")
    ids, columns = document.get("ids"), document.get("columns")
    if not isinstance(ids, list) or not ids:
        raise FormatError("wants a list of names", field="ids")
    names = tuple(_text(name, "ids") for name in ids)
    if len(set(names)) != len(names):
        raise FormatError("a name stands twice", field="ids")
    if not isinstance(columns, Mapping) or not columns:
        raise FormatError("wants lists of numbers by metric", field="columns")
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, values in columns.items():
        if name not in METRICS or METRICS[name].entity != entity:
            raise _unknown(name, entity)
        if not isinstance(values, list) or len(values) != len(names):
            raise FormatError(f"wants {len(names)} numbers", field=name)
        arrays[name] = _array(values, name)
    block = Block.of(entity, names, arrays)
    if mark:
        block.quality[...] |= np.uint8(mark)
    return block


def _array(values: list[Any], name: str) -> NDArray[np.float64]:
    """Numbers or null, checked as a whole where their types allow it."""
    if set(map(type, values)) <= {int, float}:
        try:
            array = np.array(values, dtype=np.float64)
        except OverflowError:
            array = np.array([math.inf])
        if np.isfinite(array).all():
            return array
    return np.array([_number(value, name) for value in values])


def _block(
    entity: Entity,
    rows: dict[str, dict[str, float]],
    marks: dict[tuple[Entity, str, str], Quality],
) -> Block:
    ids = tuple(rows)
    metrics = tuple(dict.fromkeys(metric for row in rows.values() for metric in row))
    columns = {
        metric: np.array([row.get(metric, math.nan) for row in rows.values()]) for metric in metrics
    }
    block = Block.of(entity, ids, columns)
    if marks:
        for i, name in enumerate(ids):
            for j, metric in enumerate(metrics):
                block.quality[i, j] |= np.uint8(marks.get((entity, name, metric), 0))
    return block


def _load(value: Any) -> NDArray[np.float64]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(r, list) and r for r in value)
    ):
        raise FormatError("wants layers of lists of tokens an expert", field="expert_load")
    if len({len(row) for row in value}) != 1:
        raise FormatError("layers differ in their number of experts", field="expert_load")
    load = np.array([_array(row, "expert_load") for row in value])
    if not np.isfinite(load).all() or (load < 0).any():
        raise FormatError("wants finite numbers of at least 0", field="expert_load")
    return load


def _event(value: Any, ts_s: float) -> Event:
    if not isinstance(value, Mapping):
        raise FormatError("wants a JSON object", field="event")
    _only(value, {"kind", "subject", "detail"})
    if value.get("kind") not in _EVENTS:
        raise FormatError(f"wants one of {', '.join(_EVENTS)}", field="event.kind")
    detail = value.get("detail", "")
    if not isinstance(detail, str) or len(detail) > 1000 or not detail.isprintable():
        raise FormatError("wants a printable text", field="event.detail")
    subject = _text(value.get("subject"), "event.subject")
    return Event(ts_s=ts_s, kind=value["kind"], subject=subject, detail=detail)


def _only(document: Mapping[str, Any], known: set[str]) -> None:
    for name in document:
        if name not in known:
            raise FormatError("no such field here", field=name[:64])


def _within(field: str, parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except FormatError as error:
        inner = f"{field}.{error.field}" if error.field else field
        raise FormatError(error.message, field=inner) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"is not understood: {error}", field=field) from None
