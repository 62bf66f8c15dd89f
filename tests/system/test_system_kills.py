"""``kill -9`` of every part, twice each, under load: through the client no call fails.

How long calls stall meanwhile is measured by ``benchmarks/front_door.py --only kills``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kill_load import QUESTION, ROLES, kill_twice
from servers import Server

from qcluster.client import Client

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("kills"), "--telemetry", "simulate:nvl72")
    try:
        server.wait_ready()
        yield server
    finally:
        server.destroy()


@pytest.mark.parametrize("part", ROLES)
def test_no_call_fails_and_no_plan_is_lost(running: Server, part: str) -> None:
    load, lost = kill_twice(running, ROLES[part])
    assert load.failed == []
    assert lost == set()
    running.until(lambda: running.http.get("/readyz").status_code == 200, 300.0)


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
