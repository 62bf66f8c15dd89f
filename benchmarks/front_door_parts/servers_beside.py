"""Servers that stand side by side, and how they are asked in turns."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = 16

BARE = """
import sys, pathlib, uvicorn
BODY = pathlib.Path(sys.argv[2]).read_bytes()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off")
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator[None]:
    """A child that ends with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        child.terminate()
        child.wait(60)


def wait_for(url: str, timeout_s: float = 180.0) -> None:
    """Wait until an address answers 200."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} did not answer in {timeout_s:.0f} s")


def latencies(http: httpx.Client, url: str, count: int) -> list[float]:
    """Seconds of each of some requests, one after the other."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        http.get(url).raise_for_status()
        times.append(time.perf_counter() - start)
    return times


def throughput(url: str, seconds: float) -> float:
    """Requests a second that a load generator of its own process gets through, 16 at a time."""
    address = httpx.URL(url)
    code = (Path(__file__).parent / "load.py").as_posix()
    done = subprocess.run(
        [sys.executable, code, str(address.port), address.path, str(CLIENTS), str(seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)
