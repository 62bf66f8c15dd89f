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

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.telemetry.jobs import Job
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality
from qcluster.telemetry.sources.strict import load_lines, name_text, number, numbers, only
from qcluster.telemetry.topology import Topology

__all__ = ["parse_samples"]

# Year 5138 in seconds; milliseconds since 1970 passed it in 1973.
MAX_TS_S = 1e11
# 256 layers of 4,096 experts; a window of loads is kept several times.
MAX_CELLS = 1 << 20
_UNITS = (
    *("_w", "_j", "_mhz", "_c", "_bytes", "_s", "_mw", "_kw", "_mj", "_khz", "_hz", "_ghz"),
    *("_gb", "_gb_s", "_gbps", "_mb_s"),
    *("_mb", "_mib", "_gib", "_ms", "_ns", "_us", "_pct", "_percent", "_f", "_k"),
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
        only(document, {"ts_s", "expert_load", "topology", "jobs", "event"})
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
            checked = number(value, metric)
            if metric in row:
                self._mark(entity, name, metric, Quality.DUPLICATE)
                continue
            row[metric] = checked
            self._mark(entity, name, metric, mark)

    def _mark(self, entity: Entity, name: str, metric: str, mark: Quality) -> None:
        if mark:
            key = (entity, name, metric)
            self._marks[key] = self._marks.get(key, Quality.OK) | mark


def _documents(data: Any) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    read = load_lines(data) if isinstance(data, (bytes, str)) else iter([(None, data)])
    for row, document in read:
        if isinstance(document, Mapping):
            yield row, document
        elif isinstance(document, list) and row is None:
            yield from _listed(document)
        else:
            raise FormatError("wants a JSON object, a list of them, or one a line", row=row)


def _listed(documents: list[Any]) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    if not documents:
        raise FormatError("holds no samples")
    for row, document in enumerate(documents, start=1):
        if not isinstance(document, Mapping):
            raise FormatError("wants a JSON object", row=row)
        yield row, document


def _time(document: Mapping[str, Any], now: float) -> float:
    if "ts_s" not in document:
        return now
    value = number(document["ts_s"], "ts_s")
    if not 0 <= value <= MAX_TS_S:
        raise FormatError(f"wants Unix seconds, got {value:g}", field="ts_s")
    return value


def _subject(document: Mapping[str, Any]) -> tuple[Entity, str]:
    if "link" in document:
        return "link", name_text(document["link"], "link")
    if "node" not in document:
        raise FormatError("a sample needs it (or 'link')", field="node")
    node = name_text(document["node"], "node")
    if "gpu" not in document:
        return "node", node
    gpu = document["gpu"]
    if isinstance(gpu, bool) or not isinstance(gpu, int) or not 0 <= gpu < 4096:
        raise FormatError(f"wants the index of a GPU, got {gpu!r}", field="gpu")
    return "gpu", f"{node}/{gpu}"


def _unknown(name: str, entity: str) -> FormatError:
    """No such field; names the metric of the same stem when only the unit is wrong."""
    if f"node_{name}" in METRICS and entity == "node":
        hint = f"; did you mean node_{name}, or is 'gpu' missing?"
        return FormatError(f"no {entity} metric of this name{hint}", field=name[:64])
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
    only(document, {"ts_s", "entity", "ids", "columns"})
    entity = document.get("entity", "gpu")
    if entity not in ("gpu", "node", "link"):
        raise FormatError("wants gpu, node or link", field="entity")
    ids, columns = document.get("ids"), document.get("columns")
    if not isinstance(ids, list) or not ids:
        raise FormatError("wants a list of names", field="ids")
    names = tuple(name_text(name, "ids") for name in ids)
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
        arrays[name] = numbers(values, name)
    block = Block.of(entity, names, arrays)
    if mark:
        block.quality[...] |= np.uint8(mark)
    return block


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
    if len(value) * len(value[0]) > MAX_CELLS:
        raise FormatError(f"has more than {MAX_CELLS:,} experts in all layers", field="expert_load")
    load = np.array([numbers(row, "expert_load") for row in value])
    if not np.isfinite(load).all() or (load < 0).any():
        raise FormatError("wants finite numbers of at least 0", field="expert_load")
    return load


def _event(value: Any, ts_s: float) -> Event:
    if not isinstance(value, Mapping):
        raise FormatError("wants a JSON object", field="event")
    only(value, {"kind", "subject", "detail"})
    if value.get("kind") not in _EVENTS:
        raise FormatError(f"wants one of {', '.join(_EVENTS)}", field="event.kind")
    detail = value.get("detail", "")
    if not isinstance(detail, str) or len(detail) > 1000 or not detail.isprintable():
        raise FormatError("wants a printable text", field="event.detail")
    subject = name_text(value.get("subject"), "event.subject")
    return Event(ts_s=ts_s, kind=value["kind"], subject=subject, detail=detail)


def _within(field: str, parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except FormatError as error:
        inner = f"{field}.{error.field}" if error.field else field
        raise FormatError(error.message, field=inner) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"is not understood: {error}", field=field) from None
