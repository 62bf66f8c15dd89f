"""A warm process for solves that can be killed.

A deadline inside a thread or an async task does not end a solver that is stuck in a loop or in C
code; ending its process does. ``SolverProcess`` keeps one Python process with its imports done and
kernels compiled, sends it calls over a socket pair, and when an answer does not come in time kills
it and starts the next one behind the caller's back.

The child must never outlive its parent, however the parent ends: it holds the read end of a pipe
that nobody writes to, and asks the kernel for SIGKILL when the other end closes. That works for
``kill -9`` of the parent too and needs no cooperation of a stuck solver.
"""

from __future__ import annotations

import fcntl
import importlib
import operator
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, QClusterError, SolverFailed

__all__ = ["SolverProcess"]

# A solver that keeps its deadline returns a little after it; only one that is later is stuck.
GRACE_S = 0.25


class SolverProcess:
    """One warm worker process; calls are made one at a time, from any thread.

    Parameters
    ----------
    warm_up: ``(module:function, args)`` called in the child before the first request.
    nice: how far the child steps back behind others when processors are short (see nice(2)).
    """

    def __init__(
        self, warm_up: tuple[str, tuple[Any, ...]] | None = None, *, nice: int = 0
    ) -> None:
        self._warm_up, self._nice = warm_up, nice
        self._lock = threading.Lock()
        self._closed = False
        self._ready = False
        self._start()

    @property
    def pid(self) -> int:
        """Process id of the current child."""
        return self._child.pid

    def call(self, target: str, *args: Any, deadline: Deadline) -> Any:
        """Run ``module:function(*args)`` in the child and return what it returns.

        Raises
        ------
        DeadlineExceeded: no answer in time; the child was killed if it had begun.
        SolverFailed: the child died, or the function raised something that is not ours.
        QClusterError: as raised by the function.
        """
        if not self._lock.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX)):
            raise DeadlineExceeded("the solver process was busy until the deadline")
        try:
            if self._closed:
                raise SolverFailed("the solver process is closed")
            return self._exchange(target, args, deadline)
        finally:
            self._lock.release()

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait until the child has warmed up; DeadlineExceeded when it has not in time."""
        with self._lock:
            self._await_ready(deadline)

    def close(self) -> None:
        """End the child. Calls under way and later ones raise SolverFailed."""
        self._closed = True
        # Whoever waits for an answer sees the end of the stream. Its descriptor is closed only when
        # nobody reads it any more: the number may be another file's by then.
        self._child.kill()
        with self._lock:
            self._stop()

    def _exchange(self, target: str, args: tuple[Any, ...], deadline: Deadline) -> Any:
        self._await_ready(deadline)
        try:
            self._link.send((target, args))
            if not self._link.poll(_timeout(deadline, GRACE_S)):
                self._restart()
                raise DeadlineExceeded(f"{target} did not stop at its deadline and was killed")
            kind, value = self._link.recv()
        except (EOFError, OSError) as error:
            raise self._died(target) from error
        if kind == "ok":
            return value
        raise value

    def _await_ready(self, deadline: Deadline) -> None:
        if self._ready:
            return
        try:
            if not self._link.poll(_timeout(deadline, 0.0)):
                raise DeadlineExceeded("the solver process is still starting")
            kind, value = self._link.recv()
        except (EOFError, OSError) as error:
            raise self._died("warm-up") from error
        self._ready = True
        if kind != "ok":
            raise value

    def _died(self, target: str) -> SolverFailed:
        try:
            code = self._child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it closed its end but lives on
            self._child.kill()
            code = self._child.wait()
        self._restart()
        cause = f"signal {-code}" if code < 0 else f"exit status {code}"
        return SolverFailed(f"the solver process died in {target} with {cause}")

    def _restart(self) -> None:
        self._stop()
        if not self._closed:
            self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        life_read, life_write = os.pipe()
        command = [sys.executable, "-m", "qcluster.worker", str(theirs.fileno()), str(life_read)]
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self._child = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), life_read),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        if self._nice:
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self._child.pid, min(own + self._nice, 19))
        theirs.close()
        os.close(life_read)
        self._life = life_write
        self._link = Connection(ours.detach())
        self._link.send(self._warm_up)
        self._ready = False

    def _stop(self) -> None:
        self._child.kill()
        self._child.wait()
        self._link.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1


def _timeout(deadline: Deadline, grace: float) -> float | None:
    remaining = deadline.remaining()
    return None if remaining == float("inf") else remaining + grace


def _die_with_parent(life: int) -> None:
    # SIGKILL on hang-up of the pipe: delivered by the kernel, whatever this process is doing.
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def _answer(link: Connection, target: str, args: tuple[Any, ...]) -> None:
    try:
        reply = pickle.dumps(("ok", _resolve(target)(*args)))
    except QClusterError as error:
        reply = pickle.dumps(("error", error))
    except Exception as error:
        reply = pickle.dumps(("error", SolverFailed(f"{type(error).__name__}: {error}")))
    link.send_bytes(reply)


def _serve(link: Connection) -> None:
    warm_up = link.recv()
    target, args = warm_up or ("builtins:bool", ())
    _answer(link, target, args)
    while True:
        try:
            target, args = link.recv()
        except EOFError:
            return
        _answer(link, target, args)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _die_with_parent(int(sys.argv[2]))
    _serve(Connection(int(sys.argv[1])))
