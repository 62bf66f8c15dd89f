"""A stored plan through every hop, against bare uvicorn serving the same bytes, and batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import psutil

from front_door_parts.servers_beside import latencies, throughput


def read_rounds(
    urls: Mapping[str, str], *, rounds: int, count: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Alternated rounds of all; by name medians over the rounds, and ratios against ``uvicorn``."""
    measured: dict[str, dict[str, list[float]]] = {
        name: {"p50_s": [], "p99_s": [], "rate": []} for name in urls
    }
    with httpx.Client() as http:
        for _ in range(rounds):
            for name, url in urls.items():
                times = sorted(latencies(http, url, count))
                measured[name]["p50_s"].append(times[count // 2])
                measured[name]["p99_s"].append(times[int(count * 0.99)])
                measured[name]["rate"].append(throughput(url, seconds))
    bare = measured["uvicorn"]
    found: dict[str, dict[str, Any]] = {}
    for name, figures in measured.items():
        over = [a - b for a, b in zip(figures["p50_s"], bare["p50_s"], strict=True)]
        share = [a / b for a, b in zip(figures["rate"], bare["rate"], strict=True)]
        found[name] = {key: statistics.median(values) for key, values in figures.items()}
        found[name] |= {"over_s": statistics.median(over), "share": statistics.median(share)}
        found[name] |= {"share_worst": min(share), "share_best": max(share)}
    return found


def replica_port(server: psutil.Process) -> int | None:
    """The port on which one replica of the API listens for the proxy; None without HAProxy."""
    for process in server.children(recursive=True):
        try:
            if "ServeReplica:qcluster-api" not in " ".join(process.cmdline()):
                continue
            for one in process.net_connections("tcp"):
                # Other listeners of the process are Ray's own, and speak no HTTP.
                if one.status == psutil.CONN_LISTEN and 20000 <= one.laddr.port < 32200:
                    return int(one.laddr.port)
        except psutil.Error:
            continue
    return None


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
