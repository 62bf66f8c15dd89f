"""The telemetry hub: takes in what sources deliver and hands out snapshots.

It runs every source as a task on one event loop in a thread of its own, and keeps a bounded ring.
Readers wait for a snapshot newer than the one they have; a slow reader misses some and delays
nobody. A source that fails is tried again with growing pauses; its state can be read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from actors.freshness import gpu_set
from qcluster.errors import InputError
from qcluster.telemetry import Batch, Event, Ring, Snapshot, open_source

__all__ = ["TelemetryHub"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# Pushers have no period that we know of; nobody sends less often than this and is called live.
_SILENT_S = 10.0
MAX_SOURCES = 4096
# Between two looks at which GPUs answer.
_LOOK_S = 0.1


class TelemetryHub:
    """The cluster's telemetry. Thread-safe.

    Parameters
    ----------
    specs: sources as on the command line, ``simulate:nvl72`` or ``push``.
    stand_in: one of them that runs only until anything measured is pushed; what it delivered is
        forgotten then, so that nothing simulated is mixed with what was measured.
    """

    def __init__(
        self,
        specs: tuple[str, ...],
        windows: int = 16,
        history: int = 600,
        stand_in: str | None = None,
    ) -> None:
        self._windows, self._history = windows, history
        self._ring = Ring(windows=windows, history=history)
        self._stand_in = stand_in
        self._pushers: dict[str, float] = {}
        self._described: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._states = dict.fromkeys(specs, "starting")
        self._samples = 0
        self._retired: str | None = None
        self._snapshot: Snapshot | None = None
        self._arrived = time.monotonic()
        self._changed = threading.Condition()
        if any(spec.partition(":")[0] == "ray" for spec in specs):
            _know_ray()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="sources", daemon=True).start()

    def push(self, batches: list[Batch]) -> int:
        """Take in batches from outside; returns how many values they held."""
        for batch in batches:
            if self._stand_in is not None and not batch.simulated:
                self._relieve()
            if batch.source in self._pushers or len(self._pushers) < MAX_SOURCES:
                self._pushers[batch.source] = time.monotonic()
        return sum(self._take(batch) for batch in batches)

    def knows(self, source: str) -> bool:
        """Whether this source has described its nodes since the hub started."""
        return source in self._described

    def lose(self, source: str) -> bool:
        """A source has ended because its node has left: its GPUs count as dead from now on.

        They are back with its next batch. Returns whether the source was known and live.
        """
        with self._changed:
            known = self._ring.lose(source, time.time())
            if known:
                self._snapshot = None
                self._changed.notify_all()
        return known

    def latest(self) -> Snapshot | None:
        """The picture now, or None before the first batch."""
        with self._changed:
            if self._snapshot is None and self._ring.seq:
                self._snapshot = self._ring.snapshot(clock=time.monotonic())
            return self._snapshot

    def wait(self, since: int, timeout_s: float) -> Snapshot | None:
        """A snapshot with a sequence number above ``since``, or None when none came in time."""
        deadline = time.monotonic() + min(timeout_s, 30.0)
        with self._changed:
            while self._ring.seq <= (since := self._since(since)):
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
        return self.latest()

    def wait_other(self, gpus: str, timeout_s: float) -> bool:
        """Whether other GPUs answer than those called ``gpus`` (``freshness.gpu_set``), as soon as
        it is so, or else when the time is over.
        """
        deadline = time.monotonic() + min(timeout_s, 30.0)
        while True:
            snapshot = self.latest()
            if snapshot is not None and gpu_set(snapshot) != gpus:
                return True
            if (left := deadline - time.monotonic()) <= 0:
                return False
            # Not with every batch: a thousand nodes send a thousand a second.
            time.sleep(min(left, _LOOK_S))

    def _since(self, since: int) -> int:
        # More than we have means that the caller counts from before a restart of the hub.
        return 0 if since > self._ring.seq else since

    def health(self) -> Mapping[str, Any]:
        """State of each source, counts, and seconds since anything arrived."""
        now = time.monotonic()
        pushed = {
            source: "live" if now - at < _SILENT_S else f"silent for {now - at:.0f} s"
            for source, at in self._pushers.copy().items()
        }
        return {
            "sources": {**pushed, **self._states},
            "seq": self._ring.seq,
            "ts_s": self._ring.ts_s,
            "samples": self._samples,
            "unknown_rows": self._ring.unknown_rows,
            "silent_s": time.monotonic() - self._arrived,
            "gpus": len(self._ring.topology.gpu_ids),
        }

    def _relieve(self) -> None:
        """End the stand-in and forget what it delivered."""
        with self._changed:
            spec, self._stand_in = self._stand_in, None
            if spec is None:
                return
            self._retired = spec
            self._ring = Ring(windows=self._windows, history=self._history)
            self._snapshot = None
            self._described.clear()
            self._states[spec] = "ended: measured telemetry has arrived"
        self._loop.call_soon_threadsafe(self._cancel, spec)

    def _cancel(self, spec: str) -> None:
        if task := self._tasks.pop(spec, None):
            task.cancel()

    def _take(self, batch: Batch, spec: str | None = None) -> int:
        with self._changed:
            if spec is not None and spec == self._retired:
                return 0
            if batch.topology is not None and len(self._described) < MAX_SOURCES:
                self._described.add(batch.source)
            self._ring.add(batch, clock=time.monotonic())
            self._snapshot = None
            self._arrived = time.monotonic()
            count = sum(block.values.size for block in batch.blocks)
            if batch.expert_load is not None:
                count += batch.expert_load.size
            self._samples += count
            self._changed.notify_all()
        return count

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for spec in self._states:
            self._tasks[spec] = self._loop.create_task(self._keep_reading(spec))
        self._loop.run_forever()

    def _keep_reading(self, spec: str) -> Coroutine[Any, Any, None]:
        # No coroutine function: one of them makes Ray run all of an actor's methods on one event
        # loop, where somebody who waits for a snapshot holds up everybody who brings one.
        async def reading() -> None:
            pause = _FIRST_PAUSE_S
            while True:
                try:
                    async for batch in open_source(spec).batches():
                        if spec != self._retired:
                            self._states[spec], pause = "live", _FIRST_PAUSE_S
                        self._take(batch, spec)
                except InputError as error:
                    # What it reads is wrong, and reading it again will not make it right.
                    self._fail(spec, f"stopped: {error}")
                    return
                except Exception as error:
                    self._fail(spec, f"retrying: {error}")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
                else:
                    self._states[spec] = "ended"
                    return

        return reading()

    def _fail(self, spec: str, state: str) -> None:
        if self._states[spec] == state:
            return  # said already; each try again is not news
        self._states[spec] = state
        now = time.time()
        event = Event(ts_s=now, kind="alarm", subject=spec, detail=state)
        self._take(Batch(source=spec, ts_s=0.0, events=(event,)))


def _know_ray() -> None:
    """Let the source ``ray`` ask the Ray around us for its nodes; the library knows no Ray."""
    import ray

    from qcluster.telemetry.sources import SOURCES
    from qcluster.telemetry.sources.ray_metrics import ray as ray_source

    SOURCES.register("ray", lambda argument: ray_source(argument, nodes=ray.nodes))
