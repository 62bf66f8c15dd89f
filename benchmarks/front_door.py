"""The front door against bare uvicorn, and the batch route against the solver in this process.

    python benchmarks/front_door.py [--quick]

Both servers stand side by side and are asked in turns, so that the machine's other work hits both:

- a stored plan of a running ``qcluster serve``, against a bare uvicorn that serves the same bytes;
- 64 problems in one POST, against the same solves in this process.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from harness import arguments, save, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BARE = """
import sys, pathlib, uvicorn
BODY = pathlib.Path(sys.argv[2]).read_bytes()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", lifespan="off")
"""
CLIENTS = 16


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
    code = (Path(__file__).parent / "front_door_parts" / "load.py").as_posix()
    done = subprocess.run(
        [sys.executable, code, str(address.port), address.path, str(CLIENTS), str(seconds)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout)


def stored_plan(ours: str, bare: str, *, rounds: int, count: int, seconds: float) -> dict[str, Any]:
    """Alternated rounds of both; medians over the rounds."""
    p50: dict[str, list[float]] = {"ours": [], "bare": []}
    p99: dict[str, list[float]] = {"ours": [], "bare": []}
    rate: dict[str, list[float]] = {"ours": [], "bare": []}
    with httpx.Client() as http:
        for _ in range(rounds):
            for name, url in (("ours", ours), ("bare", bare)):
                times = sorted(latencies(http, url, count))
                p50[name].append(times[count // 2])
                p99[name].append(times[int(count * 0.99)])
                rate[name].append(throughput(url, seconds))
    median = {
        f"{figure}_{name}": statistics.median(values)
        for figure, both in (("p50_s", p50), ("p99_s", p99), ("rate", rate))
        for name, values in both.items()
    }
    median["p50_over_s"] = statistics.median(
        a - b for a, b in zip(p50["ours"], p50["bare"], strict=True)
    )
    median["rate_share"] = statistics.median(
        a / b for a, b in zip(rate["ours"], rate["bare"], strict=True)
    )
    return median


def batch(url: str, *, rounds: int) -> dict[str, float]:
    """64 problems in one POST against the same questions, parsed and run, in this process."""
    import numpy as np

    from qcluster.client import Client
    from qcluster.quantum.requests import SolveRequest

    rng = np.random.default_rng(0)
    questions = []
    for i in range(64):
        n = 12
        couplings = [
            [a, b, float(rng.normal())] for a in range(n) for b in range(a) if rng.random() < 0.3
        ]
        field = [float(v) for v in rng.normal(size=n)]
        questions.append({"h": field, "J": couplings, "deadline_s": 0.01, "seed": i})

    def here() -> None:
        for question in questions:
            SolveRequest.model_validate(question).run()

    with Client(url) as client:
        problems = [{"kind": "solve", **question} for question in questions]

        def there() -> None:
            client.batch(problems)

        return paired_ratio(there, here, rounds)


def paired_ratio(
    ours: Callable[[], None], theirs: Callable[[], None], rounds: int
) -> dict[str, float]:
    """Median seconds of each and the median of the rounds' ratios, after one warm-up of both."""
    ours()
    theirs()
    a, b = [], []
    for _ in range(rounds):
        for side, call in ((a, ours), (b, theirs)):
            start = time.perf_counter()
            call()
            side.append(time.perf_counter() - start)
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return {"batch_s": statistics.median(a), "here_s": statistics.median(b), "ratio": ratio}


def main() -> None:
    """Start both servers, measure, print, save."""
    options = arguments(__doc__ or "")
    rounds, count, seconds = (7, 300, 1.0) if options.quick else (15, 1000, 3.0)
    port, bare_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as state:
        command = ["-m", "qcluster", "serve", "--port", str(port), "--state-dir", f"{state}/state"]
        with process(*command, "--telemetry", "simulate:nvl72"):
            wait_for(f"{url}/readyz")
            plan_url = f"{url}/v1/plans/energy/latest"
            body = Path(state, "body.json")
            body.write_bytes(httpx.get(plan_url).content)
            size = body.stat().st_size
            with process("-c", BARE, str(bare_port), str(body)):
                bare_url = f"http://127.0.0.1:{bare_port}/"
                wait_for(bare_url)
                plan = stored_plan(plan_url, bare_url, rounds=rounds, count=count, seconds=seconds)
            table(
                f"A stored plan, {size} bytes, alternated with bare uvicorn",
                ("", "qcluster", "uvicorn", "bar"),
                [
                    ("p50 ms", 1e3 * plan["p50_s_ours"], 1e3 * plan["p50_s_bare"], ""),
                    ("p99 ms", 1e3 * plan["p99_s_ours"], 1e3 * plan["p99_s_bare"], ""),
                    ("p50 over uvicorn, ms", 1e3 * plan["p50_over_s"], "", "<= 1"),
                    (f"requests/s, {CLIENTS} at a time", plan["rate_ours"], plan["rate_bare"], ""),
                    ("share of uvicorn's", plan["rate_share"], "", ">= 0.333"),
                ],
            )
            problems = batch(url, rounds=rounds)
    table(
        "64 problems in one POST against this process",
        ("batch s", "in process s", "ratio", "bar"),
        [(problems["batch_s"], problems["here_s"], problems["ratio"], "<= 1.2")],
    )
    results = {"stored_plan": {**plan, "bytes": size}, "batch": problems}
    save("front_door", results, ("ray", "uvicorn", "fastapi"))


if __name__ == "__main__":
    main()
