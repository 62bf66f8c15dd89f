"""The bearer token: what is guarded, what is refused, and where the token does not show."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import httpx
import pytest
from in_process import TOKEN, Guarded

from deployments.security import read_token, token_digest
from qcluster.errors import InputError

GUARDED = ("/v1/plans", "/v1/telemetry/latest", "/v1/plans/routing/latest", "/v1", "/v1/nothing")
OPEN = ("/", "/healthz", "/metrics", "/openapi.json", "/ui/app.js")


@pytest.mark.parametrize("path", GUARDED)
def test_v1_wants_the_token(guarded: Guarded, path: str) -> None:
    answer = httpx.get(guarded.url + path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    right = httpx.get(guarded.url + path, headers={"Authorization": f"bearer {TOKEN}"})
    assert right.status_code != 401


@pytest.mark.parametrize("path", OPEN)
def test_page_and_health_are_open(guarded: Guarded, path: str) -> None:
    answer = httpx.get(guarded.url + path)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
     f"Bearer {token_digest(TOKEN)}", "Bearer \xff"],
)  # fmt: skip
def test_wrong_tokens_are_refused(guarded: Guarded, value: str) -> None:
    headers = {"Authorization": value.encode("latin-1")}
    answer = httpx.get(f"{guarded.url}/v1/plans", headers=headers)
    assert answer.status_code == 401
    assert "invalid_token" in answer.headers["www-authenticate"]


def test_two_tokens_are_one_too_many(guarded: Guarded) -> None:
    twice = [("Authorization", f"Bearer {TOKEN}")] * 2
    assert httpx.get(f"{guarded.url}/v1/plans", headers=twice).status_code == 401


def test_a_refused_body_is_not_read(guarded: Guarded) -> None:
    # 64 MB are announced and never sent: an answer comes at once all the same.
    address = ("127.0.0.1", httpx.URL(guarded.url).port)
    with socket.create_connection(address, timeout=5) as plain:
        plain.sendall(b"POST /v1/solve HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n")
        assert plain.recv(12) == b"HTTP/1.1 401"


def test_the_event_stream_wants_it_too(guarded: Guarded) -> None:
    assert httpx.get(f"{guarded.url}/v1/telemetry/stream").status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.stream("GET", f"{guarded.url}/v1/telemetry/stream", headers=headers) as answer:
        assert answer.status_code == 200
        assert next(answer.iter_lines()) == "retry: 2000"


def test_openapi_declares_it(guarded: Guarded) -> None:
    document = httpx.get(f"{guarded.url}/openapi.json").json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["paths"]["/v1/plans"]["get"]["security"] == [{"token": []}]
    assert "401" in document["paths"]["/v1/solve"]["post"]["responses"]
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert TOKEN not in json.dumps(document)


def test_a_token_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token = read_token(path)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == token


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (TOKEN, 0o640, "chmod 600"),
        (TOKEN, 0o604, "chmod 600"),
        ("short", 0o600, "at least 16"),
        ("", 0o600, "at least 16"),
        ("two words in this token file", 0o600, "one token"),
        ("é" * 20, 0o600, "ASCII"),
    ],
)
def test_bad_token_files_are_named(tmp_path: Path, content: str, mode: int, says: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(InputError, match=says) as error:
        read_token(path)
    assert str(path) in str(error.value)
    assert content not in str(error.value) or not content
