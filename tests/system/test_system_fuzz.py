"""Hostile and broken requests against a real server: made by schemathesis, and by hand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from servers import Server

CASES = int(os.environ.get("QCLUSTER_FUZZ_CASES", "2000"))
MIB = 2**20

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("fuzz"), "--telemetry", "simulate:nvl72", "--replicas", "1"
    )
    try:
        server.wait_ready()
        yield server
    finally:
        server.destroy()


def settings(server: Server) -> tuple[str, int]:
    """What each operation may answer to content that fits its schema, and how many there are.

    What it documents: that something is not there (404, 409), or has to be later (429, 503). 422
    only where the document says which meaning no schema can state. A question may ask for 60 s
    with as much for each baseline.
    """
    lines, count = ["[checks]", "max_response_time = 300.0"], 0
    for path, found in server.http.get("/openapi.json").json()["paths"].items():
        for method, operation in found.items():
            count += 1
            allowed = ["2xx", "304"]
            for status, answer in operation["responses"].items():
                if status in ("404", "409", "429", "503") or answer.get("x-semantic"):
                    allowed.append(status)
            later = ["503"] if "503" in allowed else []
            lines += [
                "[[operations]]",
                f"include-name = {json.dumps(f'{method.upper()} {path}')}",
                "[operations.checks]",
                f"positive_data_acceptance.expected-statuses = {json.dumps(allowed)}",
                "not_a_server_error.expected-statuses = "
                + json.dumps(["2xx", "3xx", "4xx", *later]),
            ]  # fmt: skip
    return "\n".join(lines) + "\n", count


WORKERS = 3
PHASES = ("examples,coverage,fuzzing,stateful", "fuzzing", "fuzzing,stateful")


@pytest.mark.timeout(max(1500, CASES // 3))
def test_schemathesis_finds_nothing(running: Server, tmp_path: Path) -> None:
    text, operations = settings(running)
    config = tmp_path / "schemathesis.toml"
    config.write_text(text)

    # Workers are processes: CPython 3.11 parses no Python in two threads at once, and what
    # schemathesis stands on does.
    def started(number: int) -> subprocess.Popen[str]:
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config),
            "run", f"{running.url}/openapi.json", "--checks", "all", "--phases", PHASES[number],
            "--max-examples", str(-(-CASES // (operations * WORKERS))), "--request-timeout", "60",
            "--workers", "1", "--no-color", "--seed", str(number + 1),
            "--suppress-health-check", "all",
        ]  # fmt: skip
        place = tmp_path / str(number)
        place.mkdir()
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=place
        )

    workers = [started(number) for number in range(WORKERS)]
    cases = 0
    for worker in workers:
        said, _ = worker.communicate(timeout=max(1400.0, CASES / 4))
        assert worker.returncode == 0, said[-12000:]
        cases += int(re.findall(r"(\d+) generated", said)[0])
    print(f"{cases} cases of {operations} operations")
    assert cases >= CASES
    assert running.http.get("/readyz").status_code in (200, 503)


def kind_of(server: Server, text: str = "ServeReplica:qcluster-api") -> psutil.Process:
    return psutil.Process(server.pids(text)[0])


def raw(server: Server, request: bytes, timeout_s: float = 10.0) -> int:
    """The status that raw bytes are answered with; 0 when the connection is just closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s) as plain:
        with contextlib.suppress(OSError):
            plain.sendall(request)
        answer = plain.recv(64)
    return int(answer.split()[1]) if answer else 0


EVIL: dict[str, bytes] = {
    "nan": b'{"h": [NaN]}',
    "infinite": b'{"h": [1e400]}',
    "bool for int": b'{"h": [1.0], "seed": true}',
    "deep list": b"[" * 200_000,
    "deep object": b'{"h":' * 200_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "lone surrogate": b'{"h": [1.0], "solver": "\\ud800"}',
    "lone surrogate as a name": b'{"\\udc00": 1}',
    "duplicate keys": b'{"h": [1.0], "h": [2.0]}',
    "yaml bomb": b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n",
    "pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "not utf-8": b'{"h": "\xff\xfe"}',
    "nothing": b"",
    "null": b"null",
    "many digits": b'{"h": [' + b"9" * 10_000 + b"]}",
}
ROUTES = ("/v1/solve", "/v1/plans:batch", "/v1/jobs", "/v1/routing/plan", "/v1/telemetry")


@pytest.mark.parametrize("route", ROUTES)
def test_the_evil_list_is_refused_quickly(running: Server, route: str) -> None:
    replica = kind_of(running)
    post = {"Content-Type": "application/json"}
    running.http.post(route, content=b"{", headers=post)
    before = replica.memory_info().rss
    for name, body in EVIL.items():
        if route == "/v1/telemetry" and name == "nothing":
            continue  # no samples are no error
        took = []
        for _ in range(3):
            began = time.monotonic()
            answer = running.http.post(route, content=body, headers=post)
            took.append(time.monotonic() - began)
            assert 400 <= answer.status_code < 500, f"{name}: {answer.status_code} {answer.text}"
            assert answer.headers["content-type"] == "application/problem+json", name
        assert min(took) <= 0.05, f"{name}: {min(took):.3f} s"
    assert replica.memory_info().rss - before <= 16 * MIB


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 1e3",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    ],
)
def test_lengths_that_are_none(running: Server, head: bytes) -> None:
    request = b"POST /v1/solve HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\nhello"
    status = raw(running, request)
    assert status == 0 or 400 <= status < 500


def test_64_mb_are_refused_plain_and_chunked(running: Server) -> None:
    replica = kind_of(running)
    before = replica.memory_info().rss
    block = b"x" * MIB

    def chunked() -> Iterator[bytes]:
        for _ in range(64):
            yield block

    for content in (block * 64, chunked()):
        assert running.http.post("/v1/solve", content=content).status_code == 413
    began = time.monotonic()
    head = b"POST /v1/solve HTTP/1.1\r\nHost: x\r\nContent-Length: 67108864\r\n\r\n"
    assert raw(running, head) == 413
    assert time.monotonic() - began <= 1.0
    assert replica.memory_info().rss - before <= 16 * MIB


@contextlib.contextmanager
def open_sockets(server: Server, count: int, first: bytes) -> Iterator[list[socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            one.sendall(first)
            found.append(one)
        yield found
    finally:
        for one in found:
            one.close()


def p99(server: Server, count: int = 200) -> float:
    """99th percentile of reading plans, in seconds: the median of three runs."""

    def once() -> float:
        times = []
        with httpx.Client(base_url=server.url, timeout=30.0) as http:
            for _ in range(count):
                began = time.monotonic()
                http.get("/v1/plans/energy/latest").raise_for_status()
                times.append(time.monotonic() - began)
        return sorted(times)[int(count * 0.99)]

    return statistics.median(once() for _ in range(3))


SLOW: dict[str, tuple[int, bytes]] = {
    "slow headers": (200, b"POST /v1/solve HTTP/1.1\r\nHost: x\r\n"),
    "slow bodies": (200, b"POST /v1/solve HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"),
    "event streams": (50, b"GET /v1/telemetry/stream HTTP/1.1\r\nHost: x\r\n\r\n"),
    "idle connections": (1000, b""),
}


@pytest.mark.parametrize("kind", SLOW)
def test_the_slow_do_not_hold_up_others(running: Server, kind: str) -> None:
    count, first = SLOW[kind]
    quiet = p99(running)
    stopped = threading.Event()

    def trickle(sockets: list[socket.socket]) -> None:
        while kind.startswith("slow") and not stopped.wait(1.0):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.sendall(b"X-A: b\r\n" if kind == "slow headers" else b" ")

    def drain(sockets: list[socket.socket]) -> None:
        for one in sockets:
            one.setblocking(False)
        while kind == "event streams" and not stopped.wait(0.2):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.recv(MIB)

    with open_sockets(running, count, first) as sockets:
        work: Callable[[list[socket.socket]], None] = drain if kind == "event streams" else trickle
        thread = threading.Thread(target=work, args=(sockets,))
        thread.start()
        try:
            busy = p99(running)
        finally:
            stopped.set()
            thread.join()
    # Milliseconds on a shared machine: below that a ratio says nothing.
    assert busy <= max(2 * quiet, 0.05), (
        f"{kind}: p99 {busy * 1e3:.1f} ms, before {quiet * 1e3:.1f}"
    )


def test_after_all_this_it_still_answers(running: Server) -> None:
    assert set(running.plans()["plans"]) == {"routing", "energy", "nvlink", "joint"}
    answer = running.http.post("/v1/solve", json={"h": [1.0], "deadline_s": 0.1})
    assert json.loads(answer.content)["objective"] == -1.0
