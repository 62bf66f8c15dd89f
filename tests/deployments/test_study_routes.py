"""``/v1/hpo/studies`` in process: what a trainer in another language sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from actors.studies import StudyHost
from deployments import problems
from deployments.studies import study_routes

SPACE = {"x": {"type": "uniform", "low": 0, "high": 1}}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    app = FastAPI()
    problems.install(app)
    app.include_router(study_routes(StudyHost(str(tmp_path)), 32), prefix="/v1/hpo/studies")
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


def post(client: TestClient, path: str, body: Any) -> Any:
    return client.post(f"/v1/hpo/studies{path}", json=body)


def test_a_search_over_http(client: TestClient) -> None:
    made = post(client, "", {"id": "s", "space": SPACE, "seed": 3, "mode": "max"})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/hpo/studies/s"
    for _ in range(3):
        trials = post(client, "/s/ask", {"n": 2}).json()["trials"]
        for trial in trials:
            told = post(client, "/s/tell", {"trial": trial["id"], "value": trial["config"]["x"]})
            assert told.json()["status"] == "ok"
    assert post(client, "/s/ask", {}).status_code == 200
    (last,) = client.get("/v1/hpo/studies/s").json()["running"]
    failed = post(client, "/s/tell", {"trial": last["id"], "status": "failed"})
    assert failed.json()["value"] is None
    shown = client.get("/v1/hpo/studies/s").json()
    assert shown["statuses"] == {"failed": 1, "ok": 6}
    assert len(client.get("/v1/hpo/studies/s/history").json()["trials"]) == 7
    assert client.get("/v1/hpo/studies").json() == {"studies": ["s"]}


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("", {"space": SPACE}, 422, "id"),
        ("", {"id": "a"}, 422, "space"),
        ("", {"id": "a", "space": {"x": {"type": "uniform", "low": 1, "high": 0}}}, 422, "x"),
        ("", {"id": "a", "space": SPACE, "what": 1}, 422, "what"),
        ("", {"id": "a/b", "space": SPACE}, 422, "id"),
        ("", [1], 422, ""),
        ("/none/ask", {}, 404, "none"),
        ("/s/ask", {"n": 0}, 422, "n"),
        ("/s/ask", {"m": 1}, 422, "m"),
        ("/s/ask", {"request": 5}, 422, "request"),
        ("/s/tell", {"value": 1}, 422, "trial"),
        ("/s/tell", {"trial": "zzz", "value": 1}, 404, "zzz"),
        ("", {"id": "s", "space": SPACE, "seed": 9}, 409, "another"),
    ],
)
def test_bad_requests_are_problems(
    client: TestClient, path: str, body: Any, status: int, word: str
) -> None:
    assert post(client, "", {"id": "s", "space": SPACE}).status_code == 201
    answer = post(client, path, body)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert word in answer.json()["detail"]
