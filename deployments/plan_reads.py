"""Stored plans read past everything else: from the replica's memory straight to the socket.

Reading the latest plan is what most clients do most of the time, and nothing of it needs a router,
a body limit or an error handler. This middleware stands outermost, answers a read that the plan
cache can answer at once, and hands on every other request, so that errors keep their one shape.
Where Serve lets it, it stands before Serve's own handling of a request as well
(``before_serve``), which costs ten times as much as the answer.

An answer has a weak ETag: the plan and why it is stale, but not its age, which differs with every
reading. ``If-None-Match`` with it gets 304 and no body.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.plan_cache import PlanCache, Text
from deployments.security import refusal

__all__ = ["CONDITION", "HEADERS", "UNCHANGED", "PlanReads", "before_serve", "read_early"]

_ALL, _PREFIX, _LATEST = "/v1/plans", "/v1/plans/", "latest"
_BODY = (b"content-length", b"transfer-encoding")
_SAFE = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
# The stored plan never changes; which one is the latest does.
_CACHED = {
    True: (b"cache-control", b"private, max-age=86400, immutable"),
    False: (b"cache-control", b"no-cache"),
}

CONDITION: dict[str, Any] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of an earlier answer: 304 when nothing but the plan's age is new.",
    "schema": {"type": "string"},
}
"""The header in the OpenAPI document."""

HEADERS: dict[str, Any] = {"ETag": {"schema": {"type": "string"}}}
UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Nothing but the plan's age is new since the ETag that was sent."}
}


class PlanReads:
    """Answers GETs of stored plans that the cache holds; all else goes on to ``app``.

    Parameters
    ----------
    cache: the replica's plans.
    digest: of the token that readers must send; empty lets everybody read.
    """

    def __init__(self, app: ASGIApp, cache: PlanCache, digest: str = "") -> None:
        self.app, self.reader = app, _Reader(cache, digest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        found = self.reader.find(scope)
        if found is None:
            await self.app(scope, receive, send)
        else:
            await _answer(found, scope, send)


class _Reader:
    def __init__(self, cache: PlanCache, digest: str) -> None:
        self.cache, self.digest = cache, digest

    def find(self, scope: Scope) -> Text | None:
        """The answer to a request; None where it is for somebody else to answer."""
        if scope["type"] != "http" or scope["method"] != "GET":
            return None
        path: str = scope["path"]
        if not path.startswith(_ALL) or not self.cache.filled:
            return None
        if any(name in _BODY for name, _ in scope["headers"]):
            return None  # a body that nobody needs, but somebody must count
        if self.digest and refusal(scope, self.digest)[0]:
            return None
        if path == _ALL:
            return self.cache.all_text()
        planner, _, name = path.removeprefix(_PREFIX).partition("/")
        if name == _LATEST:
            return self.cache.latest_text(planner)
        return self.cache.plan_text(planner, name)


async def _answer(found: Text, scope: Scope, send: Send) -> None:
    headers = [*_SAFE, (b"etag", found.tag), _CACHED[found.fixed]]
    status, body = 200, found.body
    if any(name == b"if-none-match" and _matches(value, found.tag)
           for name, value in scope["headers"]):  # fmt: skip
        status, body, headers = 304, b"", headers[1:]
    else:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _matches(condition: bytes, tag: bytes) -> bool:
    # Weak comparison (RFC 9110): the mark W/ says nothing here.
    wanted = tag.removeprefix(b"W/")
    given = [one.strip().removeprefix(b"W/") for one in condition.split(b",")]
    return wanted in given or given == [b"*"]


_here: list[_Reader] = []


def read_early(cache: PlanCache, digest: str) -> None:
    """Let this process' ``before_serve`` answer from ``cache``; for the replica that holds it."""
    _here[:] = [_Reader(cache, digest)]


def before_serve() -> list[Middleware]:
    """What Serve puts before its own handling; an environment variable tells it this name.

    It does so in proxies too, where no plans are held: there every request passes.
    """
    return [Middleware(_BeforeServe)]


class _BeforeServe:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _here[0].find(scope) if _here else None
        if found is None:
            await self.app(scope, receive, send)
        else:
            await _answer(found, scope, send)
