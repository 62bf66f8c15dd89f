"""The telemetry hub: takes in what sources deliver and hands out snapshots.

It runs every source as a task on one event loop in a thread of its own, and keeps a bounded ring.
Readers wait for a snapshot newer than the one they have; a slow reader misses some and delays
nobody. A source that fails is tried again with growing pauses; its state can be read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

from qcluster.errors import InputError
from qcluster.telemetry import Batch, Event, Ring, Snapshot, open_source

__all__ = ["TelemetryHub"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class TelemetryHub:
    """The cluster's telemetry. Thread-safe.

    Parameters
    ----------
    specs: sources as on the command line, ``simulate:nvl72`` or ``push``.
    """

    def __init__(self, specs: tuple[str, ...], windows: int = 16, history: int = 600) -> None:
        self._ring = Ring(windows=windows, history=history)
        self._states = dict.fromkeys(specs, "starting")
        self._samples = 0
        self._snapshot: Snapshot | None = None
        self._arrived = time.monotonic()
        self._changed = threading.Condition()
        if any(spec.partition(":")[0] == "ray" for spec in specs):
            _know_ray()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="sources", daemon=True).start()

    def push(self, batches: list[Batch]) -> int:
        """Take in batches from outside; returns how many values they held."""
        return sum(self._take(batch) for batch in batches)

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
            if since > self._ring.seq:
                since = 0  # the caller counts from before a restart of the hub
            while self._ring.seq <= since:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
        return self.latest()

    def health(self) -> Mapping[str, Any]:
        """State of each source, counts, and seconds since anything arrived."""
        return {
            "sources": dict(self._states),
            "seq": self._ring.seq,
            "ts_s": self._ring.ts_s,
            "samples": self._samples,
            "unknown_rows": self._ring.unknown_rows,
            "silent_s": time.monotonic() - self._arrived,
            "gpus": len(self._ring.topology.gpu_ids),
        }

    def _take(self, batch: Batch) -> int:
        with self._changed:
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
            self._loop.create_task(self._keep_reading(spec))
        self._loop.run_forever()

    async def _keep_reading(self, spec: str) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                async for batch in open_source(spec).batches():
                    self._states[spec], pause = "live", _FIRST_PAUSE_S
                    self._take(batch)
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

    def _fail(self, spec: str, state: str) -> None:
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
