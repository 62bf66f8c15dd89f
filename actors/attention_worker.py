"""Attention for others, in a warm process that can be killed."""

from __future__ import annotations

import threading

from qcluster.deadline import Deadline
from qcluster.errors import InputError, NotReady
from qcluster.worker import SolverProcess

__all__ = ["AttentionWorker"]

DEADLINE_S = 120.0


def warm_up() -> None:
    """Import what answers need."""
    import qcluster.q_attention.attend
    import qcluster.q_attention.wire  # noqa: F401


class AttentionWorker:
    """Answers attention requests, one at a time. Thread-safe.

    Parameters
    ----------
    queue_limit: requests that may wait; the next is told to come back.
    deadline_s: after which an answer is stuck, and its process is killed.
    """

    def __init__(self, queue_limit: int = 16, deadline_s: float = DEADLINE_S) -> None:
        if queue_limit < 0 or not deadline_s > 0:
            raise InputError(f"got {queue_limit} and {deadline_s}", field="queue_limit")
        self._limit, self._deadline_s = queue_limit, deadline_s
        self._lock = threading.Lock()
        self._process: SolverProcess | None = None
        self._waiting = self._done = self._failed = 0

    def attend(self, body: bytes, config: str | None = None) -> bytes:
        """safetensors in and out: see ``qcluster.q_attention.wire``.

        Raises what that raises, NotReady when too many wait, DeadlineExceeded when it took too
        long.
        """
        with self._lock:
            if self._waiting > self._limit:
                raise NotReady(f"{self._waiting} requests wait for attention, try again shortly")
            self._waiting += 1
            # Started when first asked: a server that is never asked does not load torch twice.
            self._process = self._process or SolverProcess(("actors.attention_worker:warm_up", ()))
        try:
            answer: bytes = self._process.call(
                "qcluster.q_attention.wire:answer", body, config,
                deadline=Deadline.after(self._deadline_s),
            )  # fmt: skip
        except Exception:
            with self._lock:
                self._failed += 1
            raise
        finally:
            with self._lock:
                self._waiting -= 1
        with self._lock:
            self._done += 1
        return answer

    def status(self) -> dict[str, int]:
        """``{done, failed, waiting}`` since the start."""
        with self._lock:
            return {"done": self._done, "failed": self._failed, "waiting": self._waiting}

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
