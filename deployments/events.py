"""Server-sent events: snapshots about once a second and plans as they are stored.

It has a deployment of its own: an open stream holds a request slot for as long as somebody looks
at the page, and must not hold one that plans are asked through. One thread a replica follows the
hub and the store; every stream has a bounded queue of its own, and a slow reader loses the oldest
entries, delays nobody and is told how many it lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.problems import problem
from deployments.security import BearerGuard
from deployments.views import snapshot_view
from qcluster.errors import QClusterError

__all__ = ["Feed", "create_events"]

HEARTBEAT_S = 10.0
QUEUE = 64


class _Reader:
    """One open stream's queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.entries: deque[tuple[int, str, str]] = deque(maxlen=QUEUE)
        self.dropped = 0
        self.wake = asyncio.Event()

    def offer(self, entry: tuple[int, str, str]) -> None:
        self.dropped += len(self.entries) == QUEUE
        self.entries.append(entry)
        with contextlib.suppress(RuntimeError):  # the loop has closed: the reader is gone
            self.loop.call_soon_threadsafe(self.wake.set)


class Feed:
    """Follows hub and store, and hands what is new to every reader."""

    def __init__(self, hub: Any, store: Any) -> None:
        self._hub, self._store = hub, store
        self._readers: set[_Reader] = set()
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[int, str, str]] = {}
        self._number = 0
        self._shown: dict[str, Any] = {}
        for name, follow in (("snapshots", self._snapshots), ("plans", self._plans)):
            threading.Thread(target=follow, name=name, daemon=True).start()

    def publish(self, key: str, event: str, data: Any) -> None:
        """Give an event to all readers; the newest of each key goes to readers that come later."""
        text = json.dumps(data, allow_nan=False)
        with self._lock:
            self._number += 1
            entry = (self._number, event, text)
            self._newest[key] = entry
            for reader in self._readers:
                reader.offer(entry)

    async def follow(self) -> AsyncIterator[str]:
        """The event stream of one reader: first the newest of everything, then what comes."""
        reader = _Reader(asyncio.get_running_loop())
        with self._lock:
            self._readers.add(reader)
            reader.entries.extend(sorted(self._newest.values()))
        try:
            yield "retry: 2000\n\n"
            while True:
                while reader.entries:
                    number, event, text = reader.entries.popleft()
                    yield f"id: {number}\nevent: {event}\ndata: {text}\n\n"
                reader.wake.clear()
                try:
                    await asyncio.wait_for(reader.wake.wait(), HEARTBEAT_S)
                except TimeoutError:
                    beat = {"ts_s": time.time(), "dropped": reader.dropped}
                    yield f"event: heartbeat\ndata: {json.dumps(beat)}\n\n"
        finally:
            with self._lock:
                self._readers.discard(reader)

    def _snapshots(self) -> None:
        since = 0
        while True:
            try:
                snapshot = self._hub.wait(since, 10.0)
            except QClusterError:
                time.sleep(0.5)  # the hub is restarting
                continue
            if snapshot is not None:
                since = snapshot.seq
                self.publish("snapshot", "snapshot", snapshot_view(snapshot))
                time.sleep(0.5)  # faster than anybody reads is of no use

    def _plans(self) -> None:
        seq = 0
        while True:
            try:
                seq = self._store.wait(seq, 2.0)
                latest = self._store.all_latest()
            except QClusterError:
                time.sleep(0.5)
                continue
            for planner, view in latest.items():
                state = ((view["plan"] or {}).get("plan_id"), view["alarm"])
                if self._shown.get(planner) != state:
                    self._shown[planner] = state
                    self.publish(f"plan {planner}", "plan", view)


def create_events(feed: Feed, token_sha256: str = "") -> ASGIApp:
    """The ASGI application behind ``/v1/telemetry/stream``: every GET is a stream.

    With a digest, readers must send the token, as on every other ``/v1`` route.
    Plain ASGI, because a router would redirect the mount's bare path to one with a slash.
    """

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] != "GET":
            answer: Response = problem(405, "only GET", headers={"Allow": "GET"})
        else:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            answer = StreamingResponse(
                feed.follow(), media_type="text/event-stream", headers=headers
            )
        await answer(scope, receive, send)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        # Mounted below its route, the application may see a path without the prefix.
        await guard({**scope, "path": "/v1/telemetry/stream"}, receive, send)

    guard = BearerGuard(stream, token_sha256)
    return guarded
