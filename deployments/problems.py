"""Errors as RFC 9457 problem JSON: one shape for every failure, never a traceback."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from qcluster.errors import (
    DeadlineExceeded,
    InputError,
    MissingDependency,
    NotFound,
    NotReady,
    QClusterError,
    Refused,
    SolverFailed,
)

__all__ = [
    "MEDIA_TYPE",
    "SEMANTIC",
    "Overloaded",
    "TooLarge",
    "install",
    "problem",
    "responses",
    "senseless",
]

MEDIA_TYPE = "application/problem+json"


class Overloaded(QClusterError):
    """The queue is full."""


class TooLarge(QClusterError):
    """The body is over the limit."""


_TITLES = {
    400: "bad request",
    401: "who are you",
    404: "not found",
    405: "method not allowed",
    408: "the body did not arrive in time",
    409: "refused",
    413: "body too large",
    422: "bad content",
    429: "too many requests",
    500: "internal error",
    501: "not available in this installation",
    503: "try again shortly",
}

_STATUS: tuple[tuple[type[QClusterError], int], ...] = (
    (InputError, 422),
    (NotFound, 404),
    (Refused, 409),
    (TooLarge, 413),
    (Overloaded, 429),
    (MissingDependency, 501),
    (NotReady, 503),
    (DeadlineExceeded, 503),
    (SolverFailed, 500),
)

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": ["string", "null"]},
    },
    "required": ["type", "title", "status", "detail"],
}


def problem(
    status: int, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    """A problem response."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": _TITLES.get(status, "error"),
        "status": status,
        "detail": detail,
    }
    if field is not None:
        body["field"] = field
    if status in (429, 503):
        headers = {"Retry-After": "1", **(headers or {})}
    # Lone surrogates in what the user sent must not break the answer about them.
    data = json.dumps(body).encode("ascii")
    return Response(data, status, headers, media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI declarations of the problems that a route may answer with."""
    return {
        status: {"description": _TITLES[status], "content": {MEDIA_TYPE: {"schema": SCHEMA}}}
        for status in statuses
    }


SEMANTIC = "x-semantic"
"""Marks a 422 that content of the right schema may get, in the OpenAPI document."""


def senseless(meaning: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI declaration of a 422 that has reasons no schema can state, which ``meaning`` names.

    A 422 without this is for content that breaks the schema, and for no other.
    """
    found = responses(422)
    found[422] |= {"description": f"{_TITLES[422]}: {meaning}", SEMANTIC: True}
    return found


def install(app: FastAPI) -> None:
    """Turn every error of the application into a problem."""

    def ours(_: Request, error: Exception) -> Response:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
        return problem(status, str(error), field=getattr(error, "field", None))

    def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers) if error.headers else None
        if error.status_code == 405:
            headers = {**(headers or {}), "Allow": _allowed(app, request)}
        return problem(error.status_code, str(error.detail), headers=headers)

    def parameters(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        return problem(422, f"field '{field}': {first['msg']}", field=field)

    def unexpected(_: Request, error: Exception) -> Response:
        return problem(500, f"unexpected {type(error).__name__}; the server's log has more")

    app.add_exception_handler(QClusterError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, parameters)
    app.add_exception_handler(Exception, unexpected)


def _allowed(app: FastAPI, request: Request) -> str:
    # Starlette names the methods of the first route alone; a path may have several.
    found: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return ", ".join(sorted(found))
