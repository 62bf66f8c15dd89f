"""What the client repeats, for how long, and what it makes of errors."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from qcluster.client.transport import Transport
from qcluster.errors import DeadlineExceeded, InputError, NotFound, NotReady, QClusterError, Refused

Answer = tuple[int, dict[str, str], bytes]
PROBLEM = {"Content-Type": "application/problem+json"}


class Scripted:
    """A server that answers from a list, and keeps what it was sent."""

    def __init__(self, answers: list[Answer | None]) -> None:
        seen: list[tuple[str, dict[str, str], bytes]] = []
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((f"{self.command} {self.path}", dict(self.headers), body))
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer is None:  # the process died: the connection breaks
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, content = answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.seen = seen
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


OK: Answer = (200, {}, b'{"fine": true}')


@pytest.fixture
def scripted() -> Any:
    made: list[Any] = []

    def make(*answers: Answer | None, **options: Any) -> tuple[Scripted, Transport, list[float]]:
        server, pauses = Scripted(list(answers)), []
        transport = Transport(server.url, sleep=pauses.append, **options)
        made.extend((server, transport))
        return server, transport, pauses

    yield make
    for thing in made:
        if isinstance(thing, Transport):
            thing.close()
        else:
            thing.server.shutdown()
            thing.server.server_close()


Make = Callable[..., tuple[Scripted, Transport, list[float]]]


@pytest.mark.parametrize(
    "failure",
    [
        None,
        (503, {}, b""),
        (429, {}, b""),
        (502, {}, b"bad gateway"),
        (504, {}, b""),
        (500, {"Content-Type": "text/plain"}, b"Internal Server Error"),  # a proxy's, not ours
        (404, {"Content-Type": "text/plain"}, b"Path not found. Ping http://.../-/routes"),
    ],
)
def test_what_passes_is_tried_again(scripted: Make, failure: Answer | None) -> None:
    server, transport, pauses = scripted(failure, failure, OK)
    assert transport.request("GET", "/x").json() == {"fine": True}
    assert len(server.seen) == 3
    assert 0 < pauses[0] <= 0.125
    assert pauses[0] < pauses[1]


def test_retry_after_is_honoured(scripted: Make) -> None:
    _, transport, pauses = scripted((503, {"Retry-After": "7"}, b""), OK)
    transport.request("GET", "/x")
    assert 5.25 <= pauses[0] <= 8.75


def test_pauses_are_spread(scripted: Make) -> None:
    _, transport, pauses = scripted(*[(503, {"Retry-After": "4"}, b"")] * 8, OK)
    transport.request("GET", "/x")
    assert len({round(p, 6) for p in pauses}) == 8


def test_a_post_keeps_its_key_and_a_get_has_none(scripted: Make) -> None:
    server, transport, _ = scripted(None, (503, {}, b""), OK)
    transport.request("POST", "/x", body={"a": 1})
    keys = {headers["Idempotency-Key"] for _, headers, _ in server.seen}
    assert len(keys) == 1
    assert [body for *_, body in server.seen] == [b'{"a": 1}'] * 3
    transport.request("POST", "/x", body={"a": 1}, key="mine")
    assert server.seen[-1][1]["Idempotency-Key"] == "mine"
    transport.request("POST", "/x", body={"a": 1})
    assert server.seen[-1][1]["Idempotency-Key"] not in {*keys, "mine"}
    transport.request("GET", "/x")
    assert "Idempotency-Key" not in server.seen[-1][1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InputError), (401, Refused), (404, NotFound), (405, Refused), (408, DeadlineExceeded),
     (409, Refused), (413, InputError), (422, InputError), (500, QClusterError),
     (501, QClusterError)],
)  # fmt: skip
def test_final_answers_are_raised_once(scripted: Make, status: int, kind: type) -> None:
    detail = json.dumps({"detail": "field 'h': is wrong", "field": "h"}).encode()
    server, transport, _ = scripted((status, PROBLEM, detail))
    with pytest.raises(kind) as error:
        transport.request("POST", "/x", body={})
    assert str(error.value) == "field 'h': is wrong"
    if kind is InputError:
        assert error.value.field == "h"
    assert len(server.seen) == 1


def test_an_error_without_a_document_is_still_said(scripted: Make) -> None:
    _, transport, _ = scripted((404, {}, b"<html>"))
    with pytest.raises(NotFound, match="answered 404: <html>"):
        transport.request("GET", "/x")


def test_a_strange_404_of_a_server_that_has_answered_is_its_restart(scripted: Make) -> None:
    server, transport, _ = scripted(OK, (404, {}, b"not found"), OK)
    transport.request("GET", "/x")
    assert transport.request("GET", "/x").status_code == 200
    assert len(server.seen) == 3


def test_its_own_404_is_an_answer_whenever_it_comes(scripted: Make) -> None:
    own = {"Content-Type": "application/problem+json"}
    server, transport, _ = scripted(OK, (404, own, b'{"detail": "no plan"}'))
    transport.request("GET", "/x")
    with pytest.raises(NotFound, match="no plan"):
        transport.request("GET", "/x")
    assert len(server.seen) == 2


def test_patience_ends(scripted: Make) -> None:
    server, transport, _ = scripted((503, {}, b""), patience_s=0.0)
    with pytest.raises(NotReady):
        transport.request("GET", "/x")
    assert len(server.seen) == 1


def test_a_deadline_ends_even_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        transport = Transport(f"http://127.0.0.1:{silent.getsockname()[1]}")
        send, limits = transport._http.request, []

        def sent(*arguments: Any, timeout: float, **more: Any) -> Any:
            limits.append(timeout)
            return send(*arguments, timeout=timeout, **more)

        monkeypatch.setattr(transport._http, "request", sent)
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            transport.request("GET", "/x", deadline_s=0.3)
        # No attempt may wait longer than is left, and the last is the last.
        assert max(limits) <= 0.3
        assert limits == sorted(limits, reverse=True)
        transport.close()


def test_nobody_listening_is_one_line() -> None:
    transport = Transport("http://127.0.0.1:9", patience_s=0.0)
    with pytest.raises(NotReady, match=r"no answer from http://127\.0\.0\.1:9"):
        transport.request("GET", "/x")
    transport.close()


def test_a_body_that_json_has_not_is_refused_before_it_is_sent(scripted: Make) -> None:
    server, transport, _ = scripted(OK)
    with pytest.raises(InputError, match="cannot be sent"):
        transport.request("POST", "/x", body={"a": float("nan")})
    assert server.seen == []
