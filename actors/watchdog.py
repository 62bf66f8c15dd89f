"""The watchdog of a node agent: puts old power limits back when the agent no longer can.

A process of its own, in a session of its own, not a child of the agent: what ends the agent and
everything it started does not end it. It holds one end of a socket. A line on it is the time until
which caps may stay, in Unix seconds; when that time passes, or when the other end closes because
the agent is gone (however that happened), it restores. It ends with the agent.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from actors.limits import PowerLimits
from qcluster.errors import NotReady

__all__ = ["Watchdog"]

_READY = b"ready\n"
_START_S = 20.0
# An agent that is alive restores at expiry itself; the watchdog gives it this much time to.
_GRACE_S = 0.5


class Watchdog:
    """The agent's end. One watchdog at a time; start it before the first limit is changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._link: socket.socket | None = None
        self.pid: int | None = None

    def guard(self, expires_at: float) -> None:
        """Have caps restored at ``expires_at`` (Unix seconds) or when this process ends.

        Starts a watchdog where none is alive. Raises NotReady when none can be started; then no
        limit may be changed.
        """
        line = f"{expires_at!r}\n".encode()
        if self._link is not None:
            with contextlib.suppress(OSError):
                # The other side says nothing after its first line: readable means gone.
                if not select.select([self._link], [], [], 0)[0]:
                    self._link.sendall(line)
                    return
            self.close()
        self._link = self._start()
        self._link.sendall(line)

    def close(self) -> None:
        """Let the watchdog restore and end."""
        if self._link is not None:
            self._link.close()
        self._link = self.pid = None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        command = [sys.executable, "-m", "actors.watchdog", str(self._directory)]
        with theirs:
            starter = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": path},
            )
        ours.settimeout(_START_S)
        try:
            starter.wait(_START_S)
            word = ours.makefile("rb").readline()
        except (OSError, subprocess.TimeoutExpired) as error:
            starter.kill()
            word = str(error).encode()
        pid, _, ready = word.partition(b" ")
        if ready != _READY:
            ours.close()
            raise NotReady("the watchdog did not start, so no limit is changed")
        ours.settimeout(None)
        self.pid = int(pid)
        return ours


def watch(link: socket.socket, limits: PowerLimits) -> None:
    """Restore when a deadline passes, and finally when the other end is gone."""
    deadline, pending = math.inf, b""
    while True:
        left = None if deadline == math.inf else max(0.0, deadline + _GRACE_S - time.time())
        # Woken now and then, because the clock may be set while we wait.
        readable = select.select([link], [], [], None if left is None else min(left, 1.0))[0]
        if readable:
            try:
                data = link.recv(4096)
            except OSError:
                data = b""
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            deadline = float(lines[-1]) if lines else deadline
        elif left is not None and left <= 0:
            limits.restore()
            deadline = math.inf
    _restore_for_good(limits)


def _restore_for_good(limits: PowerLimits, tries: int = 5) -> None:
    # A driver may be resetting; what is still not back then waits for the next agent.
    for pause in range(tries):
        limits.restore()
        if not limits.held():
            return
        time.sleep(pause)


def main() -> None:
    """``python -m actors.watchdog DIRECTORY FD``."""
    link = socket.socket(fileno=int(sys.argv[2]))
    if os.fork():
        os._exit(0)  # the agent's child ends; we are nobody's child
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its agent, not before
    import pynvml

    link.sendall(f"{os.getpid()} ".encode() + _READY)
    watch(link, PowerLimits(pynvml, Path(sys.argv[1])))


if __name__ == "__main__":
    main()
