"""Plan reads that pass by everything else: the same answers, guarded, conditional."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process import TOKEN, made_services, serving, stored_plan
from starlette.types import Message, Receive, Scope, Send

from deployments import plan_reads
from deployments.api import Services, create_api
from deployments.plan_cache import KEPT, PlanCache
from deployments.security import token_digest

PATHS = ("/v1/plans", "/v1/plans/routing/latest")


@pytest.fixture
def services(tmp_path: Path) -> Services:
    made = made_services(tmp_path, token_sha256=token_digest(TOKEN))
    stored_plan(made.store)
    return made


@pytest.fixture
def http(services: Services) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with serving(create_api(services)) as url, httpx.Client(base_url=url, headers=headers) as made:
        yield made


def newest(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/v1/plans/routing/latest").raise_for_status().json()["plan"]
    return found


@pytest.mark.parametrize("path", PATHS)
def test_an_unchanged_plan_is_not_sent_again(
    http: httpx.Client, services: Services, path: str
) -> None:
    first = http.get(path).raise_for_status()
    assert first.headers["x-content-type-options"] == "nosniff"
    assert first.headers["content-type"] == "application/json"
    tag = first.headers["etag"]
    for condition in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = http.get(path, headers={"If-None-Match": condition})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    plan = stored_plan(services.store)
    while newest(http)["plan_id"] != plan["plan_id"]:
        pass
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_a_plan_that_turns_stale_has_another_tag(http: httpx.Client, services: Services) -> None:
    tag = http.get(PATHS[1]).headers["etag"]
    services.store.report("routing", 2.0, "g", "planning failed")
    while not newest(http)["stale"]:
        pass
    answer = http.get(PATHS[1], headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.json()["alarm"] == "planning failed"


def test_one_plan_by_its_id(http: httpx.Client, services: Services) -> None:
    plan = stored_plan(services.store, "energy")
    path = f"/v1/plans/energy/{plan['plan_id']}"
    first = http.get(path).raise_for_status()
    # Held in memory or read from the store: the same plan under the same tag.
    while "cache-control" not in (now := http.get(path)).headers:
        pass
    assert now.json() == first.json() == plan
    assert now.headers["etag"] == first.headers["etag"] == f'"{plan["plan_id"]}"'
    assert "immutable" in now.headers["cache-control"]
    assert http.get(f"/v1/plans/routing/{plan['plan_id']}").status_code == 404
    assert http.get("/v1/plans/energy/none").status_code == 404
    assert http.get(f"/v1/plans/weather/{plan['plan_id']}").status_code == 404


def test_the_token_is_wanted_first(http: httpx.Client) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}):
        for path in PATHS:
            assert http.get(path, headers=headers).status_code == 401


def test_everything_else_goes_the_long_way(http: httpx.Client) -> None:
    assert http.get("/v1/plans/nvlink/latest").status_code == 503
    assert http.get("/v1/plans/weather/latest").status_code == 404
    assert http.post("/v1/plans/routing/latest").status_code == 405
    # A body that a GET does not want is for somebody to count.
    assert "etag" not in http.request("GET", PATHS[0], content=b"x").raise_for_status().headers


def test_only_the_newest_are_kept_by_id(services: Services) -> None:
    cache = PlanCache(services.store)
    ids = [stored_plan(services.store)["plan_id"] for _ in range(3)]
    while cache.plan_text("routing", ids[-1]) is None:
        pass
    for number in range(2 * KEPT):
        cache._keep("routing", str(number), b"{}")
    assert cache.plan_text("routing", ids[-1]) is None
    assert cache.plan_text("routing", str(2 * KEPT - 1)) is not None
    assert cache.plan_text("routing", "0") is None
    cache.close()


@pytest.fixture
def early(services: Services) -> Iterator[Any]:
    cache = PlanCache(services.store)
    cache.latest("routing")
    plan_reads.read_early(cache, services.token_sha256)
    (middleware,) = plan_reads.before_serve()
    passed: list[str] = []

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["path"])

    yield middleware.cls(serve), passed
    plan_reads._here.clear()
    cache.close()


async def ask(app: Any, path: str, token: str, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": kind, "method": "GET", "path": path,
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }  # fmt: skip
    await app(scope, None, send)
    return sent


def run(app: Any, *arguments: str) -> list[Message]:
    import asyncio

    return asyncio.run(ask(app, *arguments))


def test_before_serve_it_answers_reads_and_nothing_else(early: Any) -> None:
    app, passed = early
    start, body = run(app, PATHS[1], TOKEN)
    assert start["status"] == 200
    assert json.loads(body["body"])["plan"]["planner"] == "routing"
    assert passed == []
    for path, token in (
        (PATHS[1], "wrong"),
        ("/v1/jobs", TOKEN),
        ("/v1/plans/nvlink/latest", TOKEN),
    ):
        assert run(app, path, token) == []
        assert passed.pop() == path
    assert run(app, PATHS[1], TOKEN, "websocket") == []


def test_in_a_process_without_plans_everything_passes(early: Any) -> None:
    app, passed = early
    plan_reads._here.clear()
    assert run(app, PATHS[1], TOKEN) == []
    assert passed == [PATHS[1]]
