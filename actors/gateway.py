"""The quantum gateway: concurrent requests for counts go out in batches, with a cap and a way back.

A backend's fixed cost a job (queue, log-in, compilation) dwarfs a circuit's, so requests that come
within a few milliseconds of each other and have similar deadlines share a job. Which backend runs
it, and what happens when none does, is ``qcluster.quantum.backends.Gateway``'s business.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError
from qcluster.quantum.backends import (
    MAX_QUBITS,
    Backend,
    Circuit,
    Gateway,
    GatewayResult,
    LazyBackend,
)

__all__ = ["QuantumGateway"]

# Deadlines within this factor of each other may share a job.
ALIKE = 2.0


@dataclass(eq=False)
class _Batch:
    """Requests that will leave as one job."""

    shots: int
    deadline: Deadline
    circuits: list[Circuit] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    result: GatewayResult | None = None
    error: Exception | None = None
    closed: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def takes(self, count: int, shots: int, deadline: Deadline, limit: int) -> bool:
        ours, theirs = self.deadline.remaining(), deadline.remaining()
        alike = ours <= ALIKE * theirs and theirs <= ALIKE * ours
        room = len(self.circuits) + count <= limit
        return not self.closed and self.shots == shots and alike and room


class QuantumGateway:
    """Counts for circuits, from the first backend that can in time. Thread-safe.

    Parameters
    ----------
    backends: selectors (``ibm:auto``, ``lightning.qubit``, ...) or backends, by preference; the
        built-in simulator is always last.
    window_s: how long the first request of a batch waits for others.
    max_batch: circuits in a job.
    concurrency: jobs at a time; requests beyond wait their turn, within their deadline.
    max_pending: a longer queue of a backend is not joined.
    """

    def __init__(
        self,
        backends: Sequence[str | Backend] = (),
        *,
        window_s: float = 0.005,
        max_batch: int = 64,
        concurrency: int = 4,
        max_pending: int = 10,
    ) -> None:
        if window_s < 0 or max_batch < 1 or concurrency < 1:
            raise InputError(f"got {window_s}, {max_batch} and {concurrency}", field="window_s")
        opened = [LazyBackend(b) if isinstance(b, str) else b for b in backends]
        self._gateway = Gateway(opened, max_pending=max_pending, concurrency=concurrency)
        self._window_s, self._max_batch = window_s, max_batch
        self._turns = threading.BoundedSemaphore(concurrency)
        self._lock = threading.Lock()
        self._batch: _Batch | None = None
        self._jobs = self._served = self._fallbacks = 0

    def run(
        self, circuits: Sequence[Circuit], shots: int = 1024, seed: int = 0, deadline_s: float = 1.0
    ) -> GatewayResult:
        """Counts of each circuit and where they come from; circuit k is seeded with seed + k.

        Raises InputError for what no backend takes, DeadlineExceeded when time ran out even for
        the built-in simulator.
        """
        if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
            raise InputError(f"wants a whole number of at least 1, got {shots!r}", field="shots")
        deadline = Deadline.after(deadline_s)
        batch, first, leads = self._join(list(circuits), shots, seed, deadline)
        if leads:
            batch.done.wait(min(self._window_s, 0.1 * deadline.remaining()))
            self._send(batch)
        elif not batch.done.wait(deadline.remaining()):
            raise DeadlineExceeded("the job that the circuits shared did not finish in time")
        if batch.error is not None:
            raise batch.error
        assert batch.result is not None
        mine = slice(first, first + len(circuits))
        return dataclasses.replace(
            batch.result, counts=batch.result.counts[mine], seeds=batch.result.seeds[mine]
        )

    def status(self) -> dict[str, int]:
        """``{jobs, circuits, fallbacks}`` since the start."""
        with self._lock:
            return {"jobs": self._jobs, "circuits": self._served, "fallbacks": self._fallbacks}

    def _join(
        self, circuits: list[Circuit], shots: int, seed: int, deadline: Deadline
    ) -> tuple[_Batch, int, bool]:
        """The batch that the circuits are in, their place in it, and whether we send it."""
        with self._lock:
            batch = self._batch
            wide = max((circuit.qubits for circuit in circuits), default=0) > MAX_QUBITS
            leads = (
                wide
                or batch is None
                or not batch.takes(len(circuits), shots, deadline, self._max_batch)
            )
            if leads or batch is None:
                # One too wide to be simulated may be refused: then it is refused alone.
                batch = _Batch(shots, deadline, closed=wide)
                self._batch = self._batch if wide else batch
            first = len(batch.circuits)
            batch.circuits += circuits
            batch.seeds += range(seed, seed + len(circuits))
            batch.deadline = Deadline(min(batch.deadline.at, deadline.at))
            return batch, first, leads

    def _send(self, batch: _Batch) -> None:
        """Run the batch; whatever happens, those who wait for it are told."""
        in_turn = self._turns.acquire(timeout=0.5 * batch.deadline.remaining())
        with self._lock:
            batch.closed = True
            if self._batch is batch:
                self._batch = None
        try:
            # Out of turn there is time for the built-in simulator only.
            gateway = self._gateway if in_turn else Gateway()
            batch.result = gateway.run(
                batch.circuits, shots=batch.shots, seeds=batch.seeds, deadline=batch.deadline
            )
            if not in_turn:
                reason = "too many jobs at a time"
                batch.result = dataclasses.replace(batch.result, fallback_reason=reason)
        except Exception as error:
            batch.error = error
        finally:
            if in_turn:
                self._turns.release()
            with self._lock:
                self._jobs += 1
                self._served += len(batch.circuits)
                self._fallbacks += bool(batch.result and batch.result.fallback_reason)
            batch.done.set()
