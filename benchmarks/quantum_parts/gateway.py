"""How long the gateway takes to decide on another backend, fault by fault, on the machine as it is.

``decision_s`` is wall time: what else the machine does is part of it, so the load is printed too.
"""

from __future__ import annotations

import os
import statistics
import threading
from typing import Any

import harness

from qcluster.deadline import Deadline
from qcluster.fallback import CircuitBreaker
from qcluster.quantum.backends import BuiltinBackend, Capabilities, Circuit, Gateway, Queue

BELL = Circuit(2, (("h", (0,), 0.0), ("cx", (0, 1), 0.0)))


class Faulty(BuiltinBackend):
    """The built-in simulator with a fault put in; what hangs does so until ``release``."""

    name = "faulty"

    def __init__(self, **faults: Any) -> None:
        self.faults, self.release = faults, threading.Event()

    def capabilities(self) -> Capabilities:
        return Capabilities(qubits=self.faults.get("qubits", 20), max_shots=1000, simulator=False)

    def queue(self) -> Queue:
        found = self._play("queue")
        return found if isinstance(found, Queue) else Queue(operational=True)

    def run(self, circuits: Any, **options: Any) -> Any:
        found = self._play("run")
        return found if isinstance(found, list) else super().run(circuits, **options)

    def _play(self, what: str) -> Any:
        fault = self.faults.get(what)
        if fault == "hang":
            self.release.wait(60)
        elif isinstance(fault, Exception):
            raise fault
        return fault


FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "queue of 11": {"queue": Queue(operational=True, pending=11)},
    "queue of 10^9": {"queue": Queue(operational=True, pending=10**9)},
    "not operational": {"queue": Queue(operational=False)},
    "status raises": {"queue": OSError("no route")},
    "status hangs": {"queue": "hang"},
    "too few qubits": {"qubits": 1},
    "run raises": {"run": RuntimeError("laser off")},
    "wrong counts": {"run": [{0: 1}]},
}


def run(quick: bool, fresh: bool) -> Any:  # noqa: ARG001 - timings are never stored
    """Median, 99th percentile and worst of the decision, with a gateway that is kept (as the actor
    keeps its own) and with a new one each time.
    """
    tries = 50 if quick else 200
    rows = []
    for name, faults in FAULTS.items():
        for kept in (True, False):
            backend = Faulty(**faults)
            breaker = CircuitBreaker(threshold=10**9)
            gateway = Gateway([backend], breaker=breaker)
            times = []
            for _ in range(tries if kept else tries // 4):
                if not kept:
                    gateway = Gateway([backend], breaker=breaker)
                result = gateway.run([BELL], shots=10, deadline=Deadline.after(30.0))
                assert (result.backend == "builtin") == (name != "none"), name
                times.append(1e3 * result.decision_s)
            backend.release.set()
            late = sorted(times)[int(0.99 * len(times))]
            state = "kept" if kept else "new"
            rows.append((name, state, len(times), statistics.median(times), late, max(times)))
    load = os.getloadavg()[0]
    harness.table(
        f"gateway: ms to decide (wanted: 50); load {load:.1f} on {os.cpu_count()} cores",
        ("fault", "gateway", "tries", "median", "99th", "worst"),
        rows,
    )
    return {"load": load, "rows": rows}
