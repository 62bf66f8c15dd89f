"""Requests that get through: repeated while the server or a part of it restarts.

A connection that is refused or breaks, an answer that says "later" (429, 503) and a gateway that
lost what stood behind it are tried again, for ``patience_s``, with growing pauses that are spread
by chance and never shorter than what ``Retry-After`` asks. Every POST carries an idempotency key
that stays the same over its repetitions, so that the server answers it once.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from qcluster.errors import (
    DeadlineExceeded,
    InputError,
    NotFound,
    NotReady,
    QClusterError,
    Refused,
)

__all__ = ["Transport"]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 3.0
_LATER = frozenset({429, 502, 503, 504})
_ERRORS: Mapping[int, type[QClusterError]] = {
    400: InputError, 401: Refused, 403: Refused, 404: NotFound, 405: Refused, 408: DeadlineExceeded,
    409: Refused, 413: InputError, 415: InputError, 422: InputError, 429: NotReady, 502: NotReady,
    503: NotReady, 504: NotReady,
}  # fmt: skip


class Transport:
    """One server. Thread-safe.

    Parameters
    ----------
    url: where it listens, ``http://host:port``.
    token: the bearer token of its ``--token-file``, if it has one.
    patience_s: how long a request is repeated before its last failure is raised.
    timeout_s: how long one attempt may wait for bytes.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_s: float = 90.0,
        timeout_s: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._patience_s, self._timeout_s, self._sleep = patience_s, timeout_s, sleep
        self._answered = False
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        self._http = httpx.Client(base_url=self.url, headers=headers, limits=limits)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
        patience_s: float | None = None,
    ) -> httpx.Response:
        """Send until there is an answer that repeating would not change.

        ``body`` is bytes, or anything that JSON has. ``deadline_s`` ends everything, repetitions
        included; ``timeout_s`` ends one attempt, and no attempt begins after ``patience_s``.

        Raises
        ------
        InputError, NotFound, Refused: as the server said.
        NotReady: it did not get ready in time. DeadlineExceeded: ``deadline_s`` is over.
        """
        patience_s = self._patience_s if patience_s is None else patience_s
        ends = time.monotonic() + (patience_s if deadline_s is None else deadline_s)
        content = body if isinstance(body, bytes) or body is None else _encoded(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        if method == "POST":
            headers["Idempotency-Key"] = key or uuid.uuid4().hex
        pause = _FIRST_PAUSE_S
        while True:
            limit = timeout_s or self._timeout_s
            if deadline_s is not None:
                limit = min(limit, max(ends - time.monotonic(), 0.001))
            try:
                answer = self._http.request(
                    method, path, content=content, params=params, headers=headers, timeout=limit
                )
            except httpx.TransportError as error:
                wait, failure = 0.0, self._lost(error)
            else:
                if not (_is_later(answer) or (self._answered and _is_strange(answer))):
                    self._answered = self._answered or answer.status_code < 400
                    return _checked(answer)
                wait, failure = _retry_after(answer), _failure(answer)
            wait = max(wait, pause) * random.uniform(0.75, 1.25)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            if time.monotonic() + wait >= ends:
                raise self._over(failure, deadline_s)
            self._sleep(wait)

    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[str]:
        """The lines of a streaming GET, as they come; one attempt."""
        # The server's heartbeat comes every 10 s: longer silence is a dead connection.
        with self._http.stream("GET", path, headers=dict(headers), timeout=25.0) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _failure(answer)
            yield from answer.iter_lines()

    def _lost(self, error: httpx.TransportError) -> QClusterError:
        return NotReady(f"no answer from {self.url}: {error or type(error).__name__}")

    def _over(self, failure: QClusterError, deadline_s: float | None) -> QClusterError:
        if deadline_s is None:
            return failure
        return DeadlineExceeded(f"no answer within {deadline_s:g} s; the last: {failure}")


def _encoded(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be sent as JSON: {error}") from None


def _is_later(answer: httpx.Response) -> bool:
    if answer.status_code in _LATER:
        return True
    # The server's own failures are problem documents; any other 500 is a proxy's, which lost the
    # replica that was to answer.
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        return False
    # Its 404 names its own list of routes: it has just started and knows no replica yet.
    return answer.status_code == 500 or (answer.status_code == 404 and "/-/routes" in answer.text)


def _is_strange(answer: httpx.Response) -> bool:
    """A 404 that is not the server's own: whatever stands in front while it restarts."""
    kind = answer.headers.get("content-type", "")
    return answer.status_code == 404 and not kind.startswith("application/problem+json")


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 1.0  # a date: no server of ours sends one


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise _failure(answer)
    return answer


def _failure(answer: httpx.Response) -> QClusterError:
    detail, field = f"the server answered {answer.status_code}", None
    try:
        told = answer.json()
        detail, field = str(told["detail"]), told.get("field")
    except (ValueError, KeyError, TypeError):
        detail = f"{detail}: {answer.text[:200]}" if answer.text else detail
    kind = _ERRORS.get(answer.status_code, QClusterError)
    if issubclass(kind, InputError):
        return kind(detail.removeprefix(f"field '{field}': "), field=field)
    return kind(detail)
