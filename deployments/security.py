"""Who may ask: one bearer token for every ``/v1`` route, and the headers that browsers heed.

The token lies in a file of its own that only its owner can read, and is never Ray's. Processes
pass on its SHA-256 digest alone: that is enough to check a token, and useless to somebody who reads
a command line, a Serve configuration or a log. It knows one token, not users or roles.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.page import CSP
from deployments.problems import problem
from qcluster.errors import InputError

__all__ = [
    "BearerGuard",
    "SecurityHeaders",
    "declare",
    "read_token",
    "refusal",
    "token_digest",
]

MIN_LENGTH = 16
"""Fewer characters could be guessed by trying."""

_PAGE_HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


def read_token(path: Path) -> str:
    """The token in a file; a file that is not there is made, with a new token and mode 0600.

    Raises InputError naming the file when others may read it, or when what it holds is no token.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_urlsafe(32) + "\n")
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", file=path) from None
    except UnicodeDecodeError:
        raise InputError("a token is made of ASCII characters", file=path) from None
    if mode & 0o077:
        raise InputError(f"has mode {mode:04o}, others can read it: chmod 600", file=path)
    if len(token) < MIN_LENGTH or not token.isprintable() or " " in token:
        raise InputError(f"wants one token of at least {MIN_LENGTH} characters", file=path)
    return token


def token_digest(token: str) -> str:
    """The SHA-256 digest that a server checks tokens against, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


class BearerGuard:
    """Answers 401 to ``/v1`` requests that do not carry the token; an empty digest lets all pass.

    Nothing of a refused request's body is read. Digests are compared, in constant time, so that
    the time an answer takes says nothing about the token.
    """

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self.app, self.digest = app, digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        guarded = scope["type"] == "http" and (scope["path"] + "/").startswith("/v1/")
        if not self.digest or not guarded:
            await self.app(scope, receive, send)
            return
        detail, challenge = refusal(scope, self.digest)
        if not detail:
            await self.app(scope, receive, send)
            return
        await problem(401, detail, headers={"WWW-Authenticate": challenge})(scope, receive, send)


def refusal(scope: Scope, digest: str) -> tuple[str, str]:
    """Why a request does not carry the token, and the challenge to it; both empty if it does."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(given) != 1:
        return "send the header 'Authorization: Bearer TOKEN'", 'Bearer realm="qcluster"'
    kind, _, token = given[0].partition(b" ")
    found = hashlib.sha256(token.strip()).hexdigest()
    if kind.lower() == b"bearer" and hmac.compare_digest(found, digest):
        return "", ""
    challenge = 'Bearer realm="qcluster", error="invalid_token"'
    return "this is not the token of this server", challenge


class SecurityHeaders:
    """No content sniffing anywhere; a strict policy for the page and its files."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        extra = [(b"x-content-type-options", b"nosniff")]
        if scope["path"] in ("/", "/docs") or scope["path"].startswith("/ui/"):
            extra += _PAGE_HEADERS

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self.app(scope, receive, with_headers)


def declare(app: FastAPI, *, guarded: bool) -> None:
    """Say in the OpenAPI document that ``/v1`` wants the token, and what its absence answers."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            models = document.setdefault("components", {}).setdefault("schemas", {})
            models.update(getattr(app.state, "models", {}))
            _drop_defaults(document)
            _add_scheme(document, required=guarded)
        return made()

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_defaults(document: dict[str, Any]) -> None:
    """Leave out the 422 of a form of its own that FastAPI puts at every route with a parameter."""
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _add_scheme(document: dict[str, Any], *, required: bool) -> None:
    from deployments.problems import responses

    if not required:
        return
    text = "The token of the file that the server was started with, `--token-file`."
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer", "description": text}
    for path, operations in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in operations.values():
                operation["security"] = [{"token": []}]
                operation["responses"].update({"401": responses(401)[401]})
