"""New configurations rolled out under load: answers that were not 2xx, plans that went stale.

Clients are plain: no retries, one connection each. The rollout is what ``serve deploy`` does, a
new version of the application given to Serve's controller, and with it another budget for the
power planner.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import httpx

__all__ = ["Plain", "await_warm", "measure"]

QUESTION = {"h": [1.0, 2.0], "J": [[0, 1, 0.5]], "deadline_s": 0.02}


class Plain:
    """Four clients without retries; counts answers by status, and what never was answered."""

    def __init__(self, url: str) -> None:
        self.url, self.answers, self.bad = url, 0, []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60.0) as http:
            while not self._stopped.is_set():
                try:
                    if number % 2:
                        answer = http.post("/v1/solve", json=QUESTION)
                    else:
                        answer = http.get("/v1/plans/joint/latest")
                    if not 200 <= answer.status_code < 300:
                        self.bad.append(f"{answer.status_code} {answer.text[:300]}")
                except httpx.HTTPError as error:
                    self.bad.append(repr(error))
                self.answers += 1


def measure(*, quick: bool) -> dict[str, Any]:
    """``{rollouts, answers, bad, load}``; needs a Ray of our own."""
    from servers import free_port

    from actors.cluster import STORE, connect, start_cluster, stop_cluster
    from deployments.app import ApiOptions, deploy, withdraw

    port, rounds, stale = free_port(), 2 if quick else 6, 0
    with TemporaryDirectory() as state:
        start_cluster(telemetry=("simulate:nvl72",), state_dir=Path(state))
        try:
            deploy("127.0.0.1", port, ApiOptions(replicas=2))
            _await_plans(connect(STORE))
            await_warm(f"http://127.0.0.1:{port}")
            with Plain(f"http://127.0.0.1:{port}") as load:
                for number in range(rounds):
                    time.sleep(2.0)
                    deploy("127.0.0.1", port, ApiOptions(replicas=2, queue_limit=17 + number))
                    share = 0.6 + 0.02 * number
                    configs = {"energy": {"budget_share": share}}
                    start_cluster(
                        telemetry=("simulate:nvl72",), state_dir=Path(state), configs=configs
                    )
                    stale += _await_share(connect(STORE), share)
                time.sleep(2.0)
        finally:
            withdraw()
            stop_cluster()
    return {
        "rollouts": rounds,
        "answers": load.answers,
        "bad": load.bad,
        "stale_while_configured": stale,
        "load": os.getloadavg()[0],
    }


def await_warm(url: str) -> None:
    """Until questions are answered many times in a row, so by every replica."""
    ends, row = time.monotonic() + 240.0, 0
    with httpx.Client(base_url=url, timeout=60.0) as http:
        while row < 40:
            row = row + 1 if http.post("/v1/solve", json=QUESTION).status_code == 200 else 0
            if time.monotonic() > ends:
                raise RuntimeError("the replicas do not warm up")


def _await_share(store: Any, share: float) -> int:
    """Until plans are made with the new budget; how often the newest was stale meanwhile."""
    ends, stale = time.monotonic() + 120.0, 0
    while time.monotonic() < ends:
        plan = store.latest("energy")["plan"]
        stale += int(plan["stale"])
        if plan["config"]["budget_share"] == share:
            return stale
        time.sleep(0.2)
    raise RuntimeError("the new configuration was not taken over")


def _await_plans(store: Any) -> None:
    ends = time.monotonic() + 240.0
    while any(store.health()["alarms"].values()):
        if time.monotonic() > ends:
            raise RuntimeError(f"no plans: {store.health()['alarms']}")
        time.sleep(0.5)
