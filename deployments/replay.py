"""Idempotency keys: a POST that is repeated gets its first answer, not a second computation.

The header ``Idempotency-Key`` names a request. Its answer, once given, lies in the store's journal
under the key; the same key with another method, path or body is refused. Only answers that stand
(2xx) are kept, so what failed may be tried again under the same key.

Telemetry is left out: samples carry their times, so taking them in twice changes nothing.
"""

from __future__ import annotations

import hashlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.answers import Answer
from deployments.problems import problem
from qcluster.errors import QClusterError, Refused

__all__ = ["PARAMETER", "USED", "Replay"]

MAX_KEY = 255
MAX_KEPT = 16 * 2**20
"""Answers of more bytes are not kept."""

PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names this request: sent again with the same key, it gets the same answer.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
"""The header in the OpenAPI document."""

USED = "an Idempotency-Key that another request has used"
"""Why content of the right schema may be refused."""


class Replay:
    """Answers repeated POSTs from the journal: ``store.find_answer`` and ``store.keep_answer``."""

    def __init__(self, app: ASGIApp, store: Any) -> None:
        self.app, self.store = app, store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        keys = _keys(scope)
        if not keys:
            await self.app(scope, receive, send)
            return
        key = keys[0].decode("latin-1")
        if len(keys) > 1 or not 1 <= len(key) <= MAX_KEY or not all("!" <= c <= "~" for c in key):
            detail = (
                f"Idempotency-Key wants 1 to {MAX_KEY} printable ASCII characters without blank"
            )
            await problem(422, detail, field="Idempotency-Key")(scope, receive, send)
            return
        body = await _whole_body(receive)
        question = _digest(scope, body)
        try:
            found = await run_in_threadpool(self.store.find_answer, key, question)
            if found is None:
                recorder = _Recorder(send)
                await self.app(scope, _given(body, receive), recorder)
                if not recorder.whole:
                    return  # passed on as it came: an answer that is not kept
                found = await run_in_threadpool(
                    self.store.keep_answer, key, question, recorder.answer
                )
        except Refused as error:
            await problem(422, str(error), field="Idempotency-Key")(scope, receive, send)
            return
        except QClusterError as error:
            await problem(503, str(error))(scope, receive, send)
            return
        status, media_type, content = found
        headers = {"Content-Type": media_type}
        await Response(content, status, headers)(scope, receive, send)


class _Recorder:
    """Holds back an answer that stands; passes every other on at once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if len(self._body) > MAX_KEPT:
            await self._send(self._start)
            self._start = None
            await self._send({**message, "body": bytes(self._body)})
        elif not message.get("more_body", False):
            self.whole = True

    @property
    def answer(self) -> Answer:
        assert self._start is not None
        headers = dict(self._start["headers"])
        return (
            self._start["status"],
            headers.get(b"content-type", b"application/octet-stream").decode("latin-1"),
            bytes(self._body),
        )


def _keys(scope: Scope) -> list[bytes]:
    if scope["type"] != "http" or scope["method"] != "POST":
        return []
    if not scope["path"].startswith("/v1/") or scope["path"] == "/v1/telemetry":
        return []
    return [value for name, value in scope["headers"] if name == b"idempotency-key"]


def _digest(scope: Scope, body: bytes) -> str:
    kind = next((v for name, v in scope["headers"] if name == b"content-type"), b"")
    parts = (scope["path"].encode(), scope["query_string"], kind, body)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


async def _whole_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
