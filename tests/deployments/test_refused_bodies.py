"""Bodies that are refused: the client, which is still sending, is answered first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.limits import BodyLimits, BodyMiddleware


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def _asked(pieces: Iterator[bytes], *headers: tuple[bytes, bytes]) -> tuple[list[Any], list[str]]:
    """What the middleware sends, and in what order it sends and takes; a body whose pieces end
    without the last one stalls.
    """
    sent: list[Any] = []
    order: list[str] = []

    async def receive() -> Any:
        piece = next(pieces, None)
        if piece is None:
            await asyncio.Event().wait()
        order.append("taken")
        return {"type": "http.request", "body": piece, "more_body": piece != b""}

    async def send(message: Any) -> None:
        sent.append(message)
        order.append("sent")

    app = BodyMiddleware(_app, BodyLimits(max_bytes=10, timeout_s=0.05))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 30.0))
    return sent, order


@pytest.mark.parametrize("declared", [True, False])
def test_too_much_is_answered_and_then_taken_to_its_end(declared: bool) -> None:
    pieces = iter([b"x" * 6] * 5 + [b""])
    sent, order = _asked(pieces, *([(b"content-length", b"30")] if declared else []))
    assert sent[0]["status"] == 413
    assert b"at most 10 bytes" in sent[1]["body"]
    assert [m.get("more_body", False) for m in sent[1:]] == [True, False]
    assert next(pieces, "nothing") == "nothing"
    # Answered before the rest is taken, closed after it.
    before = 0 if declared else 2
    assert order == ["taken"] * before + ["sent"] * 2 + ["taken"] * (6 - before) + ["sent"]


def test_a_body_that_stalls_is_answered_and_not_waited_for() -> None:
    sent, order = _asked(iter([b"x"]))
    assert sent[0]["status"] == 408
    assert order == ["taken", "sent", "sent", "sent"]


def test_a_body_within_the_limits_passes() -> None:
    sent, _ = _asked(iter([b"x" * 10, b""]), (b"content-length", b"10"))
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 200
