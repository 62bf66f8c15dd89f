"""All questions that can be asked over HTTP, and the warm processes that answer them.

Importing this module registers every room's requests. Solves run in worker processes: a request
whose solver is stuck costs a process, never a replica.
"""

from __future__ import annotations

import contextlib
import queue
from typing import Any

import qcluster.q_energy.requests
import qcluster.q_nvlink.requests
import qcluster.q_routing.requests
import qcluster.quantum.requests  # noqa: F401 - registers
from deployments.problems import Overloaded
from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, NotReady, SolverFailed
from qcluster.request import REQUESTS, Request, parse_request
from qcluster.worker import SolverProcess

__all__ = ["PATIENCE_S", "REQUESTS", "WARM_UP_S", "SolverPool", "answer", "budget_s", "warm_up"]

# The deadline covers the answer; baselines run after it with the same time each.
_BASELINES = 4
_OVERHEAD_S = 5.0
WARM_UP_S = 60.0
PATIENCE_S = 2.0
"""A new replica's worker is cold; asked again, another replica may be warm."""


def answer(kind: str, body: bytes | dict[str, Any]) -> dict[str, Any]:
    """Parse and run a question; entry point of the worker process."""
    return parse_request(kind, body).run().to_dict()


def warm_up() -> None:
    """Run every question's own example once: imports, compiled kernels, first allocations."""
    from qcluster.quantum.solve import warm_up as compile_solvers

    compile_solvers()
    for kind, question in REQUESTS.items():
        answer(kind, {**question.example, "deadline_s": 0.05})


def budget_s(request: Request) -> float:
    """Seconds after which a question's process is stuck: the answer, its baselines, some more."""
    return request.deadline_s * (1 + _BASELINES) + _OVERHEAD_S


def _await_warm(process: SolverProcess, patience_s: float) -> None:
    try:
        process.wait_ready(Deadline.after(patience_s))
    except DeadlineExceeded as error:
        raise NotReady(str(error)) from None


def _asked(
    process: SolverProcess, kind: str, body: bytes | dict[str, Any], deadline: Deadline
) -> dict[str, Any]:
    pid = process.pid
    try:
        result: dict[str, Any] = process.call(
            "deployments.questions:answer", kind, body, deadline=deadline
        )
    except SolverFailed as error:
        if process.pid == pid:
            raise  # it will fail again
        raise NotReady(str(error)) from None  # somebody killed it, and there is a new one
    return result


class SolverPool:
    """A few warm worker processes and a bounded queue in front of them."""

    def __init__(self, processes: int = 1, queue_limit: int = 16) -> None:
        self._idle: queue.SimpleQueue[SolverProcess] = queue.SimpleQueue()
        self._waiting, self._limit = 0, queue_limit
        self._all = [SolverProcess(("deployments.questions:warm_up", ())) for _ in range(processes)]
        for process in self._all:
            self._idle.put(process)

    def run(
        self, request: Request, body: bytes | dict[str, Any], patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Answer in a worker process.

        Raises Overloaded when too many wait, NotReady when the worker has not warmed up within
        ``patience_s`` seconds, DeadlineExceeded when it was killed.
        """
        budget = budget_s(request)
        if self._waiting >= self._limit:
            raise Overloaded(f"{self._waiting} requests are waiting, the limit is {self._limit}")
        self._waiting += 1
        try:
            process = self._idle.get(timeout=budget + WARM_UP_S)
        except queue.Empty:
            raise DeadlineExceeded("no solver process came free in time") from None
        finally:
            self._waiting -= 1
        try:
            _await_warm(process, patience_s)
            result = _asked(process, request.kind, body, Deadline.after(budget))
        finally:
            self._idle.put(process)
        return result

    def wait_warm(self, timeout_s: float) -> None:
        """Return once every process can answer at once, or the time is over."""
        deadline = Deadline.after(timeout_s)
        for process in self._all:
            with contextlib.suppress(DeadlineExceeded):
                process.wait_ready(deadline)

    def close(self) -> None:
        """End the worker processes."""
        for process in self._all:
            process.close()
