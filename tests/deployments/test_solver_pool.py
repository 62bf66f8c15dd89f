"""The pool of worker processes: cold, busy, and a batch that cannot begin."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from in_process import made_services, serving

from deployments.api import create_api
from deployments.problems import Overloaded
from deployments.questions import SolverPool
from qcluster.errors import NotReady
from qcluster.quantum.requests import SolveRequest
from qcluster.worker import SolverProcess

REQUEST = SolveRequest.model_validate({"h": [1.0], "deadline_s": 0.1})
BODY = b'{"h": [1.0], "deadline_s": 0.1}'


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[SolverPool]:
    """Its worker warms up for ten minutes."""
    made = SolverProcess.__init__
    slow = ("time:sleep", (600.0,))
    monkeypatch.setattr(SolverProcess, "__init__", lambda self, _: made(self, slow))
    found = SolverPool(1, queue_limit=1)
    yield found
    found.close()


def test_a_cold_worker_is_said_soon(pool: SolverPool) -> None:
    with pytest.raises(NotReady, match="still starting"):
        pool.run(REQUEST, BODY, patience_s=0.1)


def test_waiting_for_warmth_ends_with_it_or_with_the_time(pool: SolverPool) -> None:
    pool.wait_warm(0.05)  # these never are, and that is no error
    with pytest.raises(NotReady):
        pool.run(REQUEST, BODY, patience_s=0.01)


def test_one_too_many_is_refused(pool: SolverPool) -> None:
    def cold() -> None:
        with contextlib.suppress(NotReady):
            pool.run(REQUEST, BODY, 3.0)

    taken, waiting = (threading.Thread(target=cold) for _ in range(2))
    taken.start()
    while not pool._idle.empty():
        time.sleep(0.005)
    waiting.start()
    while pool._waiting < 1:
        time.sleep(0.005)
    with pytest.raises(Overloaded, match="the limit is 1"):
        pool.run(REQUEST, BODY)
    taken.join()
    waiting.join()


@pytest.mark.parametrize(("error", "status"), [(NotReady("cold"), 503), (Overloaded("full"), 429)])
def test_a_batch_that_cannot_begin_is_put_off_whole(
    tmp_path: Path, error: Exception, status: int
) -> None:
    services = made_services(tmp_path)

    def fails(_: Any) -> Any:
        raise error

    problem = {"kind": "solve", "h": [1.0]}
    with serving(create_api(services)) as url:
        services.pool.answer = fails  # type: ignore[attr-defined]
        answer = httpx.post(f"{url}/v1/plans:batch", json={"problems": [problem]})
        assert answer.status_code == status
        assert answer.headers["retry-after"]
        later = {"problems": [{"kind": "no such"}, problem]}
        answers = httpx.post(f"{url}/v1/plans:batch", json=later).json()["answers"]
        assert [bool(a.get("error")) for a in answers] == [True, True]
