"""The client against the real API: types, streams, and answers that survive a restart."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import TOKEN, Guarded, both, made_services, serving, stored_plan

from deployments.api import create_api
from deployments.events import Feed, create_events
from deployments.security import token_digest
from qcluster.client import Client
from qcluster.errors import InputError, NotFound, Refused
from qcluster.quantum import Solution

PROBLEM = {"h": [1.0, -0.5], "J": [[0, 1, 0.25]], "deadline_s": 0.2}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    digest = token_digest(TOKEN)
    services = made_services(tmp_path_factory.mktemp("client"), token_sha256=digest)
    events = create_events(Feed(services.hub, services.store), digest)
    with serving(both(create_api(services), events)) as url:
        yield Guarded(url, services)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[Client]:
    with Client(guarded.url, TOKEN, patience_s=5.0) as made:
        yield made


def test_without_or_with_a_wrong_token_it_is_refused(guarded: Guarded) -> None:
    for token in (None, "wrong"):
        with Client(guarded.url, token) as client, pytest.raises(Refused):
            client.plans()


def test_service_routes(client: Client) -> None:
    assert client.health() == {"status": "ok"}
    assert client.ready() is False
    assert "qcluster_plan_stale" in client.metrics()


def test_stored_plans(client: Client, guarded: Guarded) -> None:
    plan = stored_plan(guarded.services.store, "custom-energy")
    assert client.explain(plan["plan_id"])["plan_id"] == plan["plan_id"]
    with pytest.raises(NotFound, match="no plan 'nothing'"):
        client.explain("nothing")
    assert client.history("energy") == []
    newer = stored_plan(guarded.services.store, "custom-energy", objective=0.5)
    found = client.diff(newer["plan_id"])
    assert (found["against"], found["improved"]) == (plan["plan_id"], True)
    assert client.diff(plan["plan_id"], against=newer["plan_id"])["improved"] is False
    with pytest.raises(NotFound):
        client.diff(plan["plan_id"])


def test_questions_come_back_typed(client: Client) -> None:
    solution = client.solve(PROBLEM)
    assert isinstance(solution, Solution)
    assert solution.objective == pytest.approx(-1.75)
    with pytest.raises(InputError) as error:
        client.solve({"h": [1.0], "J": [[0, 5, 1.0]]})
    assert "Traceback" not in str(error.value)


def test_every_kind_has_a_type(client: Client) -> None:
    from deployments.questions import REQUESTS

    for kind, question in REQUESTS.items():
        answer = client.ask(kind, question.example)
        assert type(answer) is question.result, kind


def test_a_batch_is_typed_one_by_one(client: Client) -> None:
    good = {"kind": "solve", **PROBLEM}
    answers = client.batch([good, {"kind": "solve", "h": "x"}, good])
    assert isinstance(answers[0], Solution)
    assert isinstance(answers[1], InputError)
    assert answers[2].objective == answers[0].objective


def test_a_job_from_its_start_to_its_answers(client: Client) -> None:
    job = client.submit(
        {"problems": [{"kind": "solve", "h": [1.0]}, {"kind": "solve", "h": [2.0]}]}
    )
    done = client.wait(job["id"], deadline_s=30)
    assert done["state"] == "done"
    assert [a["result"]["h"] for a in done["answers"]] == [[1.0], [2.0]]
    assert job["id"] in {j["id"] for j in client.jobs()}
    assert client.cancel(job["id"])["state"] == "done"
    assert client.cancel(job["id"])["state"] == "done"  # as a repetition would ask
    with pytest.raises(NotFound):
        client.job(job["id"])
    with pytest.raises(NotFound):
        client.cancel("nothing")


def test_a_job_sent_twice_under_its_key_is_one_job(client: Client, guarded: Guarded) -> None:
    question = {"kind": "solve", "h": [1.0]}
    job = client.submit(question, key="once")
    assert client.submit(question, key="once")["id"] == job["id"]
    # Taken in, but the replica died before it answered: the journal knows nothing of it.
    guarded.services.store._answers._db.execute("DELETE FROM answers")
    assert client.submit(question, key="once")["id"] == job["id"]


def test_a_bad_question_is_refused_before_the_job_starts(client: Client) -> None:
    for body, field in (
        ({"kind": "solve", "h": "x"}, "problems[0].h"),
        ({"kind": "nothing"}, "problems[0].kind"),
        ({"problems": []}, "problems"),
        ({"problems": [{"kind": "solve", "h": [1.0]}], "more": 1}, "more"),
    ):
        with pytest.raises(InputError) as error:
            client.submit(body)
        assert error.value.field == field


def test_samples_are_pushed_and_read(client: Client) -> None:
    assert client.push({"node": "n", "gpu": 0, "power_w": 7.0}) == 1
    assert client.push(b'{"node": "n", "gpu": 0, "power_w": 8.5}\n') == 1
    assert client.telemetry()["snapshot"]["power_w"] == [8.5]


def test_events_come_and_are_taken_up_again(client: Client, guarded: Guarded) -> None:
    client.push({"node": "n", "gpu": 0, "power_w": 9.0})
    names = set()
    for event in client.events():
        names.add(event.event)
        if event.event == "plan":
            assert event.data["planner"] in ("routing", "energy", "nvlink", "joint")
        if names >= {"plan", "snapshot"}:
            break


def test_calls_wait_for_a_server_that_starts_later(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found: list[Any] = []
    with Client(f"http://127.0.0.1:{port}") as client:
        caller = threading.Thread(target=lambda: found.append(client.plans()))
        caller.start()
        time.sleep(0.3)
        assert not found
        with serving(create_api(made_services(tmp_path)), port):
            caller.join(20)
    assert set(found[0]) == {"plans", "alarms"}


def test_it_loads_neither_ray_nor_torch_nor_a_domain() -> None:
    code = "import qcluster.client, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"ray", "torch", "numba", "scipy", "fastapi", "pydantic"}
    assert not [name for name in loaded if name.startswith("qcluster.q_")]
