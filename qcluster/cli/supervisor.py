"""``qcluster serve`` is two processes: this one, which stays, and a server that it starts again.

The server runs Ray and everything in it; when its head dies it ends, and the supervisor clears away
what is left of it and starts the next one on the same state directory. The supervisor adopts all
processes below it that lose their parent (they would go to init otherwise), so it finds every one,
also after ``kill -9``. A server, in turn, does not outlive its supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from qcluster.cli.output import note

if TYPE_CHECKING:
    import psutil

__all__ = ["HEAD_DIED", "Settings", "die_with_parent", "supervise"]

HEAD_DIED = 75
"""Exit status of a server whose Ray has died: to be started again (``EX_TEMPFAIL``)."""

_STOP_S, _LEFT_S = 30.0, 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GOOD_S = 0.2, 10.0, 60.0
_EARLY_DEATHS = 3
# A cluster that we have joined and that does not come back is not ours to wait for.
_GONE_S = 30.0
# Puts power limits back when its agent is gone, and then ends by itself.
_WATCHDOG = "actors.watchdog"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a server is started with; goes to it as JSON on stdin."""

    sources: list[str]
    address: str
    host: str
    port: int
    state_dir: str
    period_s: float
    options: dict[str, Any] = field(default_factory=dict)
    agents: bool = False
    stand_in: str | None = None
    apply: bool = False
    temp_dir: str = ""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def supervise(
    settings: Settings, stopped: threading.Event, module: str = "qcluster.cli.server"
) -> int:
    """Keep a server (``python -m MODULE``) running until ``stopped``; returns the exit status.

    A server that never came up ends this with its own status: its first start is where mistakes
    in the settings show; the death of its Ray while it starts is none, and gets two more tries.
    One that was up is started again, with growing pauses while it fails; on a cluster that is not
    ours only while that is there.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    pause, was_up, last_up = _FIRST_PAUSE_S, False, time.monotonic()
    tries = _EARLY_DEATHS
    while True:
        started = time.monotonic()
        status, up = _one_life(settings, stopped, module)
        if up:
            was_up, last_up = True, time.monotonic()
        elif status == HEAD_DIED:
            tries -= 1
        if stopped.is_set() or not (was_up or (status == HEAD_DIED and tries > 0)):
            return status
        if settings.address != "local" and time.monotonic() - last_up > _GONE_S:
            note("the cluster is gone")
            return status
        if time.monotonic() - started > _GOOD_S:
            pause = _FIRST_PAUSE_S
        why = "its Ray died" if status == HEAD_DIED else f"it ended with status {status}"
        note(f"the server is started again in {pause:g} s: {why}")
        stopped.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _one_life(settings: Settings, stopped: threading.Event, module: str) -> tuple[int, bool]:
    """Run one server to its end; returns its exit status and whether it came up."""
    # Socket paths may be 107 bytes at most, so the directory's name must be short.
    temp = tempfile.mkdtemp(prefix="qc-", dir="/tmp")
    read, write = os.pipe()
    try:
        with _started(settings, temp, write, module) as server:
            os.close(write)
            status = _wait(server, stopped)
        os.set_blocking(read, False)
        try:
            up = bool(os.read(read, 1))
        except BlockingIOError:
            up = False
        return status, up
    finally:
        os.close(read)
        _clear_away()
        shutil.rmtree(temp, ignore_errors=True)


@contextlib.contextmanager
def _started(
    settings: Settings, temp: str, up: int, module: str
) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(
        [sys.executable, "-m", module, str(up), str(os.getpid())],
        stdin=subprocess.PIPE,
        pass_fds=(up,),
        # Ctrl-C in a terminal is for us; we tell the server to stop in our own words.
        start_new_session=True,
    )
    try:
        assert server.stdin is not None
        with server.stdin:
            server.stdin.write(json.dumps({**asdict(settings), "temp_dir": temp}).encode())
        yield server
    finally:
        server.kill()
        server.wait()


def _wait(server: subprocess.Popen[bytes], stopped: threading.Event) -> int:
    while server.poll() is None and not stopped.is_set():
        _reap_adopted(server.pid)
        stopped.wait(0.1)
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            note("the server does not stop, and is killed")
            server.kill()
    return server.wait()


def _reap_adopted(server: int) -> None:
    # Looks before it takes: the server's own status is for Popen.
    with contextlib.suppress(ChildProcessError):
        peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_ALL, 0, peek)) and ended.si_pid != server:
            os.waitpid(ended.si_pid, 0)


def _clear_away() -> None:
    """End what a dead server has left, and wait for watchdogs to finish."""
    ends = time.monotonic() + _LEFT_S
    while left := _left():
        late = time.monotonic() > ends
        for process in left:
            with contextlib.suppress(Exception):
                if late or _WATCHDOG not in process.cmdline():
                    process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def _left() -> list[psutil.Process]:
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE or process.ppid() == os.getpid():
                found.append(process)
    return found


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however that happens."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
