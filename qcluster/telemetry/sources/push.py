"""Telemetry that others send: ``push``. What a sender may say stands in ``samples.py``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from qcluster.errors import InputError
from qcluster.telemetry.schema import Batch
from qcluster.telemetry.sources.samples import parse_samples

__all__ = ["Push", "parse_samples"]

QUEUE = 1024


class Push:
    """A source fed by ``offer``: a bounded queue that drops its oldest batch when full.

    ``dropped`` counts what was lost, so that the sender's side can be told.
    """

    def __init__(self, argument: str = "", *, queue: int = QUEUE) -> None:
        if argument:
            raise InputError("takes no argument", field="push")
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
