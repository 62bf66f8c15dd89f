"""Any exporter that speaks Prometheus text: ``prometheus:URL[,URL...][,period=S]``.

Series are recognised by name: DCGM's and Ray's, and ours as they stand in the schema. The rules of
one kind of exporter are a ``Rules`` object; everything else here is common to all: fetching,
limits, clock skew, duplicates, slices of a GPU, and a cluster that grows as nodes appear.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError, InputError
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality, is_blank
from qcluster.telemetry.sources.exposition import Reader, Scrape, Series
from qcluster.telemetry.topology import Node, Topology

__all__ = ["Endpoint", "Rules", "Scraper", "Target", "general", "prometheus"]

MAX_BYTES = 64 << 20
STALE_PERIODS = 3.0


@dataclass(frozen=True)
class Target:
    """Where one series goes: value times ``scale`` into ``metric`` of ``id``.

    ``part`` is the share of the device that a slice (MIG) is, 1 for the whole device; ``model`` is
    the device's name where the exporter tells it.
    """

    entity: Entity
    id: str
    metric: str
    scale: float = 1.0
    part: float = 1.0
    model: str = ""


Rules = Callable[[Series, str], Target | None]
"""From a series and the host it was fetched from to its place, or None if it has none."""


def general(series: Series, host: str) -> Target | None:
    """The rules of all exporters that are known, and our own names with node and gpu labels."""
    from qcluster.telemetry.sources.dcgm import dcgm_rules
    from qcluster.telemetry.sources.ray_metrics import ray_rules

    found = dcgm_rules(series, host) or ray_rules(series, host)
    metric = METRICS.get(series.name.removeprefix("qcluster_"))
    if found or metric is None:
        return found
    labels = series.labels
    node = labels.get("node") or host
    subject = {"node": node, "link": labels.get("link"), "gpu": None}[metric.entity]
    if metric.entity == "gpu" and "gpu" in labels:
        subject = gpu_id(node, labels["gpu"])
    return Target(metric.entity, subject, metric.name) if subject else None


def gpu_id(node: str, index: str) -> str | None:
    """``node/index``, None where the index is none."""
    return f"{node}/{int(index)}" if index.isdigit() and len(index) < 5 else None


@dataclass
class _Layout:
    """Where the values of one list of series go; made once, used while the list stays the same."""

    series: list[Series]
    take: dict[Entity, NDArray[np.int64]] = field(default_factory=dict)
    ids: dict[Entity, tuple[str, ...]] = field(default_factory=dict)
    metrics: dict[Entity, tuple[str, ...]] = field(default_factory=dict)
    cell: dict[Entity, NDArray[np.int64]] = field(default_factory=dict)
    scale: dict[Entity, NDArray[np.float64]] = field(default_factory=dict)
    counter: dict[Entity, NDArray[np.bool_]] = field(default_factory=dict)
    marks: dict[Entity, NDArray[np.uint8]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


class Endpoint:
    """Turns the texts of one exporter into blocks. Holds no connection."""

    def __init__(self, host: str, rules: Rules, period_s: float = 1.0) -> None:
        self.host, self.period_s = host, period_s
        self._rules, self._reader, self._layout = rules, Reader(), _Layout([])

    def blocks(self, text: str, now: float) -> tuple[Block, ...]:
        """Blocks of one scrape.

        Raises FormatError naming the row that is no sample.
        """
        scrape = self._reader.parse(text)
        if scrape.series != self._layout.series:
            self._layout = _lay_out(scrape.series, self._rules, self.host)
        return tuple(self._block(entity, scrape, now) for entity in self._layout.take)

    def nodes(self) -> tuple[Node, ...]:
        """The nodes and the numbers of their GPUs, as seen in the last scrape."""
        counts: dict[str, int] = dict.fromkeys(self._layout.ids.get("node", ()), 0)
        models: dict[str, str] = {}
        for gpu in self._layout.ids.get("gpu", ()):
            node, _, index = gpu.rpartition("/")
            counts[node] = max(counts.get(node, 0), int(index) + 1)
            models[node] = self._layout.models.get(gpu, "")
        return tuple(Node(id=n, gpus=count, model=models.get(n, "")) for n, count in counts.items())

    def _block(self, entity: Entity, scrape: Scrape, now: float) -> Block:
        layout = self._layout
        ids, metrics, take = layout.ids[entity], layout.metrics[entity], layout.take[entity]
        raw, cells = scrape.values[take], layout.cell[entity]
        # Blanks are told by their raw value; infinity stays one whatever the scale.
        raw = np.where(is_blank(raw, layout.counter[entity]), np.inf, raw)
        values = raw * layout.scale[entity]
        flat = np.full(len(ids) * len(metrics), np.nan)
        flat[cells[::-1]] = values[::-1]
        parts = np.bincount(cells, minlength=flat.size) > 1
        if parts.any():
            finite = np.where(np.isfinite(values), values, 0.0)
            summed = np.bincount(cells, weights=finite, minlength=flat.size)
            additive = layout.marks[entity] & np.uint8(Quality.SHARED | Quality.DUPLICATE) == 0
            flat = np.where(parts & additive, summed, flat)
        grid = flat.reshape(len(ids), len(metrics))
        block = Block.of(entity, ids, {m: grid[:, i] for i, m in enumerate(metrics)})
        block.quality[...] |= layout.marks[entity].reshape(grid.shape)
        old = now - scrape.ts_s[take] > STALE_PERIODS * self.period_s
        if old.any():
            block.quality.ravel()[cells[old]] |= np.uint8(Quality.STALE)
        return block


def _lay_out(series: list[Series], rules: Rules, host: str) -> _Layout:
    layout = _Layout(series)
    targets = [(i, rules(one, host)) for i, one in enumerate(series)]
    for entity in ("gpu", "node", "link"):
        found = [(i, t) for i, t in targets if t is not None and t.entity == entity]
        if not found:
            continue
        ids = tuple(dict.fromkeys(t.id for _, t in found))
        metrics = tuple(dict.fromkeys(t.metric for _, t in found))
        row, column = {n: i for i, n in enumerate(ids)}, {n: i for i, n in enumerate(metrics)}
        cells = np.array([row[t.id] * len(metrics) + column[t.metric] for _, t in found])
        layout.take[entity] = np.array([i for i, _ in found])
        layout.ids[entity], layout.metrics[entity], layout.cell[entity] = ids, metrics, cells
        layout.scale[entity] = np.array([t.scale * _weight(t) for _, t in found])
        layout.counter[entity] = np.array([METRICS[t.metric].kind == "counter" for _, t in found])
        layout.marks[entity] = _marks(cells, [t for _, t in found], len(ids) * len(metrics))
        layout.models |= {t.id: t.model for _, t in found if t.model}
    return layout


def _weight(target: Target) -> float:
    """What a slice's figure counts for the device: shares by its size, bytes in full."""
    share = METRICS[target.metric].unit == "1" and target.metric not in ("up", "xid_error")
    return target.part if share else 1.0


def _marks(cells: NDArray[np.int64], targets: list[Target], size: int) -> NDArray[np.uint8]:
    marks = np.zeros(size, dtype=np.uint8)
    seen: set[int] = set()
    for cell, target in zip(cells.tolist(), targets, strict=True):
        per_slice = METRICS[target.metric].unit in ("1", "B") and target.metric != "xid_error"
        if target.part < 1 and not per_slice:
            marks[cell] |= np.uint8(Quality.SHARED)
        elif target.part == 1 and cell in seen:
            marks[cell] |= np.uint8(Quality.DUPLICATE)
        seen.add(cell)
    return marks


class Scraper:
    """Fetches exporters once a period and turns each answer into a batch.

    One request at a time for each exporter: a slow one skips periods, it never queues them. An
    exporter that does not answer, or not in the format, gives one ``alarm`` event, and one
    ``clear`` when it is back.
    """

    def __init__(self, kind: str, argument: str, rules: Rules) -> None:
        self.name = f"{kind}:{argument}"
        self.urls, self.period_s = _urls(kind, argument)
        self._endpoints = {
            url: Endpoint(urlsplit(url).hostname or url, rules, self.period_s) for url in self.urls
        }
        self._topology = Topology()
        self._failing: dict[str, str] = {}

    async def batches(self) -> AsyncIterator[Batch]:
        """One batch an exporter and period, without end."""
        import httpx

        queue: asyncio.Queue[Batch] = asyncio.Queue(maxsize=2 * len(self.urls))
        timeout = max(self.period_s, 1.0)
        async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as client:
            tasks = [asyncio.create_task(self._follow(client, url, queue)) for url in self.urls]
            try:
                while True:
                    yield await queue.get()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, client: object, url: str, queue: asyncio.Queue[Batch]) -> None:
        due = time.monotonic()
        while True:
            batch = await self._once(client, url)
            if batch is not None:
                await queue.put(batch)
            due = max(due + self.period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _once(self, client: object, url: str) -> Batch | None:
        now = time.time()
        try:
            text, date = await _fetch(client, url)
            return self.take(url, text, now, date)
        except Exception as error:  # whatever a network does is an answer of the exporter
            reason = f"{type(error).__name__}: {error}"[:200]
            if url in self._failing:
                return None
            self._failing[url] = reason
            event = Event(ts_s=now, kind="alarm", subject=url, detail=reason)
            return Batch(source=self.name, ts_s=now, period_s=self.period_s, events=(event,))

    def take(self, url: str, text: str, now: float, date: str | None = None) -> Batch:
        """The batch of one answer, ``date`` its HTTP Date header.

        Raises FormatError when the text is not in the exposition format.
        """
        endpoint = self._endpoints[url]
        blocks = endpoint.blocks(text, now)
        if not blocks:
            raise FormatError("has no series that telemetry knows", file=url)
        if date is not None and abs(_seconds(date, now) - now) > max(self.period_s, 1.0) + 1.0:
            for block in blocks:
                block.quality[...] |= np.uint8(Quality.SKEW)
        events: tuple[Event, ...] = ()
        if self._failing.pop(url, None):
            events = (Event(ts_s=now, kind="clear", subject=url),)
        topology = _grown(self._topology, endpoint.nodes())
        changed = topology != self._topology
        self._topology = topology
        return Batch(
            source=self.name,
            ts_s=now,
            period_s=self.period_s,
            blocks=blocks,
            topology=topology if changed else None,
            events=events,
        )


def _grown(topology: Topology, nodes: tuple[Node, ...]) -> Topology:
    """Nodes that were seen stay: a GPU that no longer reports is lost, not gone."""
    known: dict[str, Node] = {node.id: node for node in topology.nodes}
    for node in nodes:
        before = known.get(node.id)
        if before is None or before.gpus < node.gpus:
            known[node.id] = node
    return Topology(nodes=tuple(known.values()))


async def _fetch(client: object, url: str) -> tuple[str, str | None]:
    """Text and Date header of an answer, at most ``MAX_BYTES`` long."""
    chunks, size = [], 0
    headers = {"Accept": "text/plain;version=0.0.4"}
    async with client.stream("GET", url, headers=headers) as answer:  # type: ignore[attr-defined]
        if answer.status_code != 200:
            raise FormatError(f"answers {answer.status_code}", file=url)
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if size > MAX_BYTES:
                raise FormatError(f"sends more than {MAX_BYTES >> 20} MiB", file=url)
            chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", errors="replace"), answer.headers.get("date")


def _seconds(date: str, otherwise: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return otherwise


def _urls(kind: str, argument: str) -> tuple[tuple[str, ...], float]:
    urls, period = [], 1.0
    for part in filter(None, (p.strip() for p in argument.split(","))):
        if part.startswith("period="):
            try:
                period = float(part.removeprefix("period="))
            except ValueError:
                period = 0.0
            if not 0.01 <= period <= 86400:
                raise InputError(f"wants 0.01 to 86400 s, got '{part[7:]}'", field="period")
            continue
        url = part if "://" in part else f"http://{part}"
        try:
            pieces = urlsplit(url)
            bad = pieces.scheme not in ("http", "https") or not pieces.hostname or pieces.port == 0
        except ValueError:
            bad = True
        if bad:
            raise InputError(f"wants http://HOST:PORT/PATH, got '{part[:80]}'", field=kind)
        urls.append(url if pieces.path not in ("", "/") else f"{url.rstrip('/')}/metrics")
    if not urls:
        raise InputError(f"wants {kind}:URL[,URL...][,period=S]", field=kind)
    return tuple(dict.fromkeys(urls)), period


def prometheus(argument: str) -> Scraper:
    """The source ``prometheus``."""
    return Scraper("prometheus", argument, general)


def labels_of(labels: Mapping[str, str], *names: str) -> str:
    """The first of these labels that is there and not empty, or ''."""
    return next((labels[name] for name in names if labels.get(name)), "")
