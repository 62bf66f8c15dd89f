"""Idempotency keys: repeated POSTs, other bodies, and a store that is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process import made_services, serving

from deployments.api import Services, create_api
from qcluster.errors import NotReady, SolverFailed

BODY = {"h": [1.0], "deadline_s": 0.1}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[httpx.Client, Services]]:
    services = made_services(tmp_path)
    counted: list[int] = []

    def answer(_: Any) -> dict[str, Any]:
        counted.append(1)
        return {"times": len(counted)}

    services.pool.answer = answer  # type: ignore[attr-defined]
    with serving(create_api(services)) as url, httpx.Client(base_url=url) as http:
        yield http, services


def ask(
    http: httpx.Client, key: str | None = "k", body: Any = None, path: str = "/v1/solve"
) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return http.post(path, json=body or BODY, headers=headers)


def test_the_same_key_gets_the_same_answer(api: Any, tmp_path: Path) -> None:
    http, services = api
    first = ask(http)
    assert ask(http).content == first.content
    assert ask(http).headers["content-type"] == first.headers["content-type"]
    assert len(services.pool.asked) == 1
    assert ask(http, "other").json() == {"times": 2}
    assert ask(http, None).json() == {"times": 3}
    # Another replica on the same state directory, as after the first one's death.
    other = made_services(tmp_path)
    with serving(create_api(other)) as url, httpx.Client(base_url=url) as again:
        assert ask(again).content == first.content
    assert other.pool.asked == []


def test_another_body_or_route_under_the_same_key_is_refused(api: Any) -> None:
    http, _ = api
    ask(http)
    for answer in (
        ask(http, body={**BODY, "seed": 1}),
        ask(http, path="/v1/routing/plan"),
        ask(http, path="/v1/solve?x=1"),
    ):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["field"] == "Idempotency-Key"


def test_failures_are_not_kept(api: Any) -> None:
    http, services = api

    def fails(_: Any) -> Any:
        raise SolverFailed("the process died")

    works, services.pool.answer = services.pool.answer, fails
    assert ask(http).status_code == 500
    services.pool.answer = works
    assert ask(http).json() == {"times": 1}
    assert ask(http, "bad", body={"h": "x"}).status_code == 422
    assert ask(http, "bad").status_code == 200


def test_two_computations_at_once_have_one_answer(api: Any) -> None:
    http, services = api
    inner = services.pool.answer

    def other_replica_was_first(request: Any) -> Any:
        services.pool.answer = inner
        assert ask(http).json() == {"times": 1}
        return {"times": "the slower one"}

    services.pool.answer = other_replica_was_first
    assert ask(http).json() == {"times": 1}


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\xe9"])
def test_bad_keys_are_named(api: Any, key: str) -> None:
    http, _ = api
    answer = http.post("/v1/solve", json=BODY, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422
    assert "Idempotency-Key" in answer.json()["detail"]


def test_a_store_that_is_away_is_said(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    http, services = api

    def away(*_: Any) -> Any:
        raise NotReady("plan-store is away")

    monkeypatch.setattr(services.store, "find_answer", away)
    answer = ask(http)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert services.pool.asked == []


def test_telemetry_needs_no_journal(api: Any) -> None:
    http, _ = api
    for _ in range(2):
        answer = ask(http, body={"node": "n", "gpu": 0, "power_w": 1.0}, path="/v1/telemetry")
        assert answer.json() == {"samples": 1}
