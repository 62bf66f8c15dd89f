"""What a body may be: its size, the time it may take to arrive, how deep its JSON may nest.

An ASGI middleware, so that it holds before any route or parser sees a byte: the declared length is
checked first, then the bytes are counted as they come. What comes after a refusal is thrown away
for a moment: a connection closed on unread bytes is reset, and the answer is lost with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.problems import problem

__all__ = ["BodyLimits", "BodyMiddleware"]


@dataclass(frozen=True)
class BodyLimits:
    """``max_bytes`` of a body, ``timeout_s`` until it has arrived whole, ``max_depth`` of JSON."""

    max_bytes: int = 16 * 2**20
    timeout_s: float = 20.0
    max_depth: int = 64


# A refused body is thrown away for this long, and while no pause in it is longer.
_LINGER_S, _PAUSE_S = 10.0, 0.5


class _Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        self.status, self.detail = status, detail


class BodyMiddleware:
    """Refuses bodies that are too large (413) or too slow (408) and closes the connection."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def tracked(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            self._check_length(scope)
            await self.app(scope, self._counted(receive), tracked)
        except _Refused as refusal:
            if not started:
                answer = problem(refusal.status, refusal.detail, headers={"Connection": "close"})
                await answer(scope, receive, _open(send))
                await _discard(receive)
                await send({"type": "http.response.body"})

    def _check_length(self, scope: Scope) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit():
                    raise _Refused(400, "Content-Length is not a number")
                if int(value) > self.limits.max_bytes:
                    raise self._too_large()

    def _counted(self, receive: Receive) -> Receive:
        received, whole = 0, False
        ends = asyncio.get_running_loop().time() + self.limits.timeout_s

        async def counted() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()  # waiting for the client to go away has no deadline
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError:
                limit = self.limits.timeout_s
                raise _Refused(408, f"the body took longer than {limit:g} s") from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if received > self.limits.max_bytes:
                    raise self._too_large()
            return message

        return counted

    def _too_large(self) -> _Refused:
        return _Refused(413, f"the body may have at most {self.limits.max_bytes} bytes")


def _open(send: Send) -> Send:
    """``send`` that leaves the answer open, for the server would close the connection after it."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "more_body": True}
        await send(message)

    return sent


async def _discard(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            more = True
            while more:
                async with asyncio.timeout(_PAUSE_S):
                    more = (await receive()).get("more_body", False)
