"""What all sources that scrape exporters share: ``KIND:URL[,URL...][,period=S]``.

Fetching, limits, clock skew, duplicates, slices of a GPU, and a cluster that grows as nodes appear.
Where the series of one kind of exporter go is a ``Rules`` object.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import numpy as np

from qcluster.errors import FormatError, InputError
from qcluster.telemetry.schema import Batch, Event, Quality
from qcluster.telemetry.sources.endpoint import Endpoint, Rules
from qcluster.telemetry.topology import Node, Topology

__all__ = ["Scraper"]

MAX_BYTES = 64 << 20
# Longest a whole answer may take: each read has its own limit, but drops of water never end.
ANSWER_S = 10.0


class Scraper:
    """Fetches exporters once a period and turns each answer into a batch.

    One request at a time for each exporter: a slow one skips periods, it never queues them. An
    exporter that does not answer, or not in the format, gives one ``alarm`` event, and one
    ``clear`` when it is back.

    Parameters
    ----------
    kind, argument: the two parts of the spec.
    rules: where series go.
    discover: gives the URLs when the spec names none; may block; asked again every
        ``discover_s`` seconds, so that nodes may join and leave.
    """

    discover_s = 10.0

    def __init__(
        self,
        kind: str,
        argument: str,
        rules: Rules,
        discover: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        self.name = f"{kind}:{argument}" if argument else kind
        self.urls, self.period_s = _urls(kind, argument, needed=discover is None)
        self._rules, self._discover = rules, None if self.urls else discover
        self._endpoints: dict[str, Endpoint] = {}
        self._topology = Topology()
        self._failing: dict[str, str] = {}

    async def batches(self) -> AsyncIterator[Batch]:
        """One batch an exporter and period, without end.

        Raises what ``discover`` raises when it is first asked.
        """
        import httpx

        if self._discover:
            self.urls = tuple(await asyncio.to_thread(self._discover))
        queue: asyncio.Queue[Batch] = asyncio.Queue(maxsize=2 * max(1, len(self.urls)))
        # Exporters are neighbours: a proxy from the environment has no business between.
        timeout = max(self.period_s, 1.0)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            running = asyncio.create_task(self._run(client, queue))
            try:
                while True:
                    yield await queue.get()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _run(self, client: object, queue: asyncio.Queue[Batch]) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for url in tasks.keys() - set(self.urls):
                    tasks.pop(url).cancel()
                for url in self.urls:
                    if url not in tasks:
                        tasks[url] = asyncio.create_task(self._follow(client, url, queue))
                await asyncio.sleep(self.discover_s)
                if self._discover:
                    with contextlib.suppress(Exception):  # what was known goes on
                        self.urls = tuple(await asyncio.to_thread(self._discover))
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

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
            async with asyncio.timeout(max(self.period_s, ANSWER_S)):
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
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            host = urlsplit(url).hostname or url
            endpoint = self._endpoints[url] = Endpoint(host, self._rules, self.period_s)
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


def _urls(kind: str, argument: str, *, needed: bool) -> tuple[tuple[str, ...], float]:
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
    if needed and not urls:
        raise InputError(f"wants {kind}:URL[,URL...][,period=S]", field=kind)
    return tuple(dict.fromkeys(urls)), period
