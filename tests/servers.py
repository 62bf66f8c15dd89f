"""A real ``qcluster serve`` for tests: its own state, HOME and port; found and ended by a mark.

Every process that the server starts inherits one environment variable with a random value, so a
test can find all of them, whatever they are called, and prove that none is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
MARK = "QCLUSTER_TEST_RUN"


BARE_RAY = """
import sys, ray
ray.init("local", include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
@ray.remote(num_cpus=0)
class Actor:
    def here(self):
        return True
actors = [Actor.remote() for _ in range(4)]
assert all(ray.get([actor.here.remote() for actor in actors]))
"""
BARE_RAY_S = 6.0


def slowness() -> float:
    """How many times slower than promised times allow for this machine is now, at least 1.

    Promises of seconds are for a machine on which a bare Ray with four actors takes six, from
    start to end; one that is slower or busy takes longer for that and for a server alike.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qc-", dir="/tmp") as directory:
        subprocess.run(
            [sys.executable, "-c", BARE_RAY, directory], check=True, timeout=300,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    took = time.monotonic() - began
    print(f"a bare Ray: {took:.1f} s")
    return max(1.0, took / BARE_RAY_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One running server."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.state_dir = directory / "state"
        self.log = directory / "serve.log"
        home = directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "qcluster", "serve", "--port", str(self.port)]
        command += ["--state-dir", str(self.state_dir), *arguments]
        environment = {**os.environ, MARK: self.mark, "HOME": str(home)}
        self.started = time.monotonic()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.http = httpx.Client(base_url=self.url, timeout=30.0)

    def wait_ready(self, timeout_s: float = 300.0) -> float:
        """Wait until every planner has a fresh plan; returns seconds since start."""
        self.until(lambda: self.http.get("/readyz").status_code == 200, timeout_s)
        return time.monotonic() - self.started

    def until(self, condition: Any, timeout_s: float = 180.0) -> Any:
        """Wait for a condition; connection errors count as not yet."""
        ends = time.monotonic() + timeout_s
        last: Any = None
        while time.monotonic() < ends:
            assert self.process.poll() is None, f"serve ended:\n{self.log.read_text()}"
            try:
                if last := condition():
                    return last
            except httpx.TransportError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(
            f"not in {timeout_s} s; last: {last!r}\n{self.log.read_text()[-4000:]}"
        )

    def plans(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get("/v1/plans").raise_for_status().json()
        return found

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of this server, alive now."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and (
                    process.status() != psutil.STATUS_ZOMBIE
                ):
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue

    def pids(self, text: str) -> list[int]:
        """Processes whose command line holds ``text``."""
        found = []
        for process in self.processes():
            try:
                if text in " ".join(process.cmdline()):
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def kill(self, text: str) -> int:
        """``kill -9`` the first process whose command line holds ``text``."""
        pids = self.pids(text)
        assert pids, f"no process with '{text}' in {self.commands()}"
        os.kill(pids[0], signal.SIGKILL)
        return pids[0]

    def stop(self, number: int = signal.SIGINT, timeout_s: float = 60.0) -> int:
        """Send a signal and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.http.close()

    def left_over(self, timeout_s: float = 15.0) -> list[str]:
        """Command lines of processes that are still there after a while."""
        ends = time.monotonic() + timeout_s
        while (left := self.commands()) and time.monotonic() < ends:
            time.sleep(0.1)
        return left

    def commands(self) -> list[str]:
        """The beginning of every process's command line; those that end meanwhile are left out."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found.append(" ".join(process.cmdline())[:120])
        return found

    def destroy(self) -> None:
        """End everything, however it stands."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.http.close()
        for process in self.processes():
            process.kill()


def events(response: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events of an open streaming response."""
    event, data = "", ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and data:
            yield event, json.loads(data)
            event, data = "", ""
