"""How busy a backend is, asked in the background, so that nobody who decides has to wait for it.

A status call may take seconds, hang for ever or raise. One daemon thread a backend asks it again
and again: every few seconds while somebody wants to know, seldom otherwise. What it last said is
read without a lock or a switch of threads; how old it is, and whether the next answer is overdue,
is part of the reading.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from dataclasses import dataclass

from qcluster.quantum.backends.backend import Backend, Capabilities, Queue

__all__ = ["Status", "Watcher"]

BUSY_S = 2.0
"""Between two questions while somebody looks at the answers."""
IDLE_S = 60.0
"""Between two questions when nobody has looked for that long."""
OVERDUE_S = 1.0
"""An answer that takes longer casts doubt on the one before."""


@dataclass(frozen=True)
class Status:
    """What a backend said of itself, and when (``time.monotonic``)."""

    able: Capabilities
    queue: Queue
    at: float


@dataclass(eq=False)
class _Known:
    """What the thread writes and everybody reads; each field is replaced whole."""

    status: Status | None = None
    problem: str = ""
    asked_at: float | None = None
    looked_at: float = 0.0


class Watcher:
    """Watches ``backend`` from now on, and stops when nobody holds the watcher any more."""

    def __init__(self, backend: Backend, *, busy_s: float = BUSY_S, idle_s: float = IDLE_S) -> None:
        self._known = _Known(asked_at=time.monotonic(), looked_at=time.monotonic())
        self._first, self._wake, end = threading.Event(), threading.Event(), threading.Event()
        self._busy_s = busy_s
        threading.Thread(
            target=_watch,
            args=(backend, self._known, self._first, self._wake, end, (busy_s, idle_s)),
            daemon=True,
            name="qcluster-status",
        ).start()
        weakref.finalize(self, _finish, end, self._wake)

    def last(self, patience_s: float) -> tuple[Status | None, str]:
        """What the backend last said, or None and why there is nothing to go by. Waits only for
        the very first answer, until ``patience_s`` after the question.
        """
        known, now = self._known, time.monotonic()
        known.looked_at = now
        if not self._first.is_set() and known.asked_at is not None:
            left = patience_s - (now - known.asked_at)
            if left > 0:
                self._first.wait(min(left, threading.TIMEOUT_MAX))
                now = time.monotonic()
        status, asked_at = known.status, known.asked_at
        late = 0.0 if asked_at is None else now - asked_at
        if asked_at is None and (status is None or now - status.at > self._busy_s):
            self._wake.set()  # the next one who looks shall know better
        if late > OVERDUE_S or not self._first.is_set():
            return None, f"did not say how busy it is for {late:.3f} s"
        return status, "" if status is not None else known.problem

    def line(self) -> str:
        """What is known, for people."""
        status, problem = self.last(0.0)
        if status is None:
            return problem
        state = "takes jobs" if status.queue.operational else "not operational"
        age = time.monotonic() - status.at
        return (
            f"{state}, {status.queue.pending} jobs wait, {status.able.qubits} qubits, "
            f"said {age:.1f} s ago"
        )


def _watch(
    backend: Backend,
    known: _Known,
    first: threading.Event,
    wake: threading.Event,
    end: threading.Event,
    pauses: tuple[float, float],
) -> None:
    busy_s, idle_s = pauses
    while not end.is_set():
        known.asked_at = time.monotonic()
        try:
            able, queue = backend.capabilities(), backend.queue()
            status, problem = Status(able, queue, time.monotonic()), _nonsense(able, queue)
        except Exception as error:
            status, problem = None, f"status failed: {type(error).__name__}: {error}"
        known.status, known.problem = (None if problem else status), problem
        known.asked_at = None
        first.set()
        idle = time.monotonic() - known.looked_at > idle_s
        wake.wait(idle_s if idle else busy_s)
        wake.clear()


def _nonsense(able: object, queue: object) -> str:
    """What is wrong with an answer, if something is."""
    if not isinstance(able, Capabilities) or not isinstance(queue, Queue):
        return f"status makes no sense: {able!r}, {queue!r}"
    numbers = (able.qubits, able.max_shots, queue.pending)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers)
    eta = queue.eta_s
    timed = eta is None or (isinstance(eta, (int, float)) and not math.isnan(eta))
    flagged = isinstance(queue.operational, bool)
    return "" if whole and timed and flagged else f"status makes no sense: {able!r}, {queue!r}"


def _finish(end: threading.Event, wake: threading.Event) -> None:
    end.set()
    wake.set()
