"""Circuits to whichever backend can answer in time, the built-in simulator otherwise.

Backends are outside our power: they queue for hours, hang, raise, or return nonsense. So every
call to one happens in a thread that is waited for no longer than the deadline allows, and a backend
that hangs keeps its slots, so that it cannot be given more threads than ``concurrency``. How busy
backends are is asked in the background; the choice between them looks at the last answers and
waits for nothing, except, up to ``decision_s``, for the very first ones.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, InputError
from qcluster.fallback import CircuitBreaker
from qcluster.quantum.backends.backend import (
    Backend,
    BuiltinBackend,
    Counts,
    check_counts,
)
from qcluster.quantum.backends.circuit import Circuit
from qcluster.quantum.backends.watcher import Status, Watcher
from qcluster.record import Record

__all__ = ["Gateway", "GatewayResult"]

DEFAULT_S = 60.0
FALLBACK_SHARE = 0.3
"""Part of the time left that is kept for those behind a backend in the list."""
FALLBACK_S = 0.05
"""The least that is kept: a loaded machine starts a thread late."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GatewayResult(Record):
    """Counts of each circuit, by basis state, and where they come from.

    ``decision_s``: from the call to the choice of ``backend``, runs that failed not counted;
    ``fallback_reason``: why those asked first did not answer; ``pending``: jobs before ours.
    """

    counts: list[dict[int, int]]
    job_id: str
    requested: str
    backend: str
    simulator: bool
    fallback_reason: str | None
    pending: int
    shots: int
    seeds: list[int]
    decision_s: float
    wall_s: float


class _Call:
    """A function in a daemon thread, waited for as long as one likes."""

    def __init__(self, function: Callable[[], Any], done: Callable[[], None]) -> None:
        self._finished = threading.Event()
        self.value: Any = None
        self.error: Exception | None = None
        self._function, self._done = function, done
        self.begun = time.monotonic()
        threading.Thread(target=self._run, daemon=True, name="qcluster-backend").start()

    def _run(self) -> None:
        try:
            self.value = self._function()
        except Exception as error:
            self.error = error
        finally:
            self._done()
            self._finished.set()

    def wait(self, seconds: float) -> bool:
        """Whether it finished within ``seconds``."""
        return self._finished.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class _Door:
    """One backend, with its slots and what its watcher knows of it."""

    def __init__(self, backend: Backend, concurrency: int) -> None:
        self.backend = backend
        self.slots = threading.BoundedSemaphore(concurrency)
        self.watcher = Watcher(backend)

    def submit(self, function: Callable[[], Any]) -> _Call | None:
        """``function`` in a thread; None when every slot is taken."""
        if not self.slots.acquire(blocking=False):
            return None
        return _Call(function, self.slots.release)


class Gateway:
    """Runs circuits on the first of ``backends`` that takes them, on the built-in one otherwise.

    Parameters
    ----------
    backends: in order of preference; the built-in simulator is always last.
    max_pending: a longer queue is not joined.
    concurrency: calls at a time on one backend, hung ones included.
    decision_s: time for all backends together to say for the first time how busy they are.
    breaker: skips backends that keep failing.

    Safe to use from many threads.
    """

    def __init__(
        self,
        backends: Sequence[Backend] = (),
        *,
        max_pending: int = 10,
        concurrency: int = 4,
        decision_s: float = 0.02,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        if max_pending < 0 or concurrency < 1:
            raise InputError(f"got {max_pending} and {concurrency}", field="max_pending")
        self._doors = [_Door(backend, concurrency) for backend in backends]
        self._last = BuiltinBackend()
        self.max_pending, self.decision_s = max_pending, decision_s
        self.breaker = CircuitBreaker() if breaker is None else breaker

    def run(
        self,
        circuits: Sequence[Circuit],
        *,
        shots: int,
        seeds: Sequence[int] | None = None,
        deadline: Deadline | None = None,
    ) -> GatewayResult:
        """Counts of every circuit, all from one backend, within ``deadline`` (60 s at most).

        Raises InputError for shots below 1, seeds that do not match or circuits that are too large
        for every backend, DeadlineExceeded when the built-in simulator runs out of time too.
        """
        if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1:
            raise InputError(f"wants a whole number of at least 1, got {shots!r}", field="shots")
        seeds = list(range(len(circuits))) if seeds is None else list(seeds)
        if len(seeds) != len(circuits):
            raise InputError(f"{len(seeds)} for {len(circuits)} circuits", field="seeds")
        deadline = Deadline.after(DEFAULT_S) if deadline is None else deadline.sooner(DEFAULT_S)
        begun, waited = time.perf_counter(), 0.0
        reasons: list[str] = []
        decide_by = deadline.sooner(self.decision_s)
        for position, door in enumerate(self._doors):
            name = door.backend.name
            status, reason = self._willing(door, circuits, shots, decide_by, deadline)
            if status is None:
                reasons.append(f"{name}: {reason}")
                continue
            decided = time.perf_counter()
            last = position == len(self._doors) - 1
            counts, reason = self._try(door, circuits, shots, seeds, deadline, last)
            if counts is not None:
                where = (name, status.able.simulator, status.queue.pending)
                return self._result(
                    counts, where, reasons, shots, seeds, begun, decided - begun - waited
                )
            reasons.append(f"{name}: {reason}")
            waited += time.perf_counter() - decided
        decision_s = time.perf_counter() - begun - waited
        counts = self._simulate(circuits, shots, seeds, deadline)
        where = (self._last.name, True, 0)
        return self._result(counts, where, reasons, shots, seeds, begun, decision_s)

    def status(self) -> dict[str, str]:
        """In one line for each backend, what is known of it."""
        return {door.backend.name: door.watcher.line() for door in self._doors}

    def _simulate(
        self, circuits: Sequence[Circuit], shots: int, seeds: Sequence[int], deadline: Deadline
    ) -> list[Counts]:
        call = _Call(
            lambda: self._last.run(circuits, shots=shots, seeds=seeds, deadline=deadline), _nothing
        )
        # It looks at the deadline between gates, and a gate on many qubits takes its time.
        if not call.wait(deadline.remaining()):
            raise DeadlineExceeded("the built-in simulator did not finish before the deadline")
        if call.error is not None:
            raise call.error
        counts: list[Counts] = call.value
        return counts

    def _willing(
        self,
        door: _Door,
        circuits: Sequence[Circuit],
        shots: int,
        decide_by: Deadline,
        deadline: Deadline,
    ) -> tuple[Status | None, str]:
        """What the backend last said if it will do, else None and why not."""
        if not self.breaker.allows(door.backend.name):
            return None, "circuit breaker open after repeated failures"
        status, reason = door.watcher.last(decide_by.remaining())
        if status is None:
            return None, reason
        able, queue = status.able, status.queue
        widest = max((circuit.qubits for circuit in circuits), default=0)
        if not queue.operational:
            reason = "not operational"
        elif queue.pending > self.max_pending:
            reason = f"{queue.pending} jobs wait, at most {self.max_pending} are waited for"
        elif queue.eta_s is not None and queue.eta_s > deadline.remaining():
            reason = f"would start in {queue.eta_s:.0f} s, after the deadline"
        elif widest > able.qubits:
            reason = f"has {able.qubits} qubits, {widest} are needed"
        elif shots > able.max_shots:
            reason = f"takes {able.max_shots} shots, {shots} are needed"
        return (None, reason) if reason else (status, "")

    def _try(
        self,
        door: _Door,
        circuits: Sequence[Circuit],
        shots: int,
        seeds: Sequence[int],
        deadline: Deadline,
        last: bool,
    ) -> tuple[list[Counts] | None, str]:
        backend, name = door.backend, door.backend.name
        # The last one leaves time for the built-in simulator only, earlier ones for those behind.
        kept = FALLBACK_SHARE if last else 2 * FALLBACK_SHARE
        kept_s = max(FALLBACK_S, kept * deadline.remaining())
        limit = Deadline(deadline.at - kept_s)
        if limit.remaining() <= 0:
            return None, "no time left before the deadline"
        call = door.submit(lambda: backend.run(circuits, shots=shots, seeds=seeds, deadline=limit))
        if call is None:
            return None, "all its slots are taken"
        if not call.wait(limit.remaining()):
            self.breaker.record(name, False)
            return None, f"no answer within {time.monotonic() - call.begun:.2f} s"
        if isinstance(call.error, (DeadlineExceeded, InputError)):
            return None, str(call.error)
        error = call.error
        counts: list[Counts] | None = None
        if error is None:
            try:
                counts = check_counts(circuits, shots, call.value)
            except Exception as wrong:
                error = wrong
        self.breaker.record(name, error is None)
        return counts, "" if error is None else f"{type(error).__name__}: {error}"

    def _result(
        self,
        counts: list[Counts],
        where: tuple[str, bool, int],
        reasons: list[str],
        shots: int,
        seeds: list[int],
        begun: float,
        decision_s: float,
    ) -> GatewayResult:
        return GatewayResult(
            counts=counts,
            job_id=uuid.uuid4().hex,
            requested=self._doors[0].backend.name if self._doors else self._last.name,
            backend=where[0],
            simulator=where[1],
            fallback_reason="; ".join(reasons) or None,
            pending=where[2],
            shots=shots,
            seeds=seeds,
            decision_s=decision_s,
            wall_s=time.perf_counter() - begun,
        )


def _nothing() -> None:
    """What a question does when it is answered: nobody holds a slot for it."""
