"""The real API on real sockets in this process: a real store and hub, a pool that is told what."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from actors.hub import TelemetryHub
from actors.jobs import JobDesk
from actors.store import PlanStore
from deployments.api import Services
from qcluster.plan import Plan, SolverRef, TelemetryRef
from qcluster.request import Request

NOTHING = ("builtins:bool", ())
TOKEN = "a-token-for-tests-0123456789"


@dataclass(frozen=True)
class Guarded:
    """Where a guarded API listens, and what stands behind it."""

    url: str
    services: Services


class Pool:
    """Answers questions in this process; counts them; can be told to answer something else."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[Request], dict[str, Any]] = lambda request: request.run().to_dict()

    def run(self, request: Request, body: Any, patience_s: float = 0.0) -> dict[str, Any]:
        self.asked.append(request.kind)
        return self.answer(request)


def made_services(directory: Path, **more: Any) -> Services:
    """Services without Ray: nothing arrives on the hub unless it is pushed."""
    store = PlanStore(str(directory), ("routing", "energy", "nvlink"))
    desk = JobDesk(str(directory), answer="tests.actors.fake_questions:answer", warm_up=NOTHING)
    return Services(hub=TelemetryHub(("push",)), store=store, pool=Pool(), jobs=desk, **more)


def stored_plan(store: PlanStore, planner: str = "routing", **more: Any) -> dict[str, Any]:
    """Store a fresh plan, and report its planner alive; returns the plan."""
    now = time.time()
    plan = Plan(
        planner=planner,
        config={},
        seed=0,
        solver=SolverRef(requested="a", used="a"),
        telemetry=TelemetryRef(snapshot_hash="x", simulated=True),
        objective=more.pop("objective", 1.0),
        expires_at=now + 100,
    ).to_dict()
    plan = {**plan, **more}
    store.put(plan, "g")
    store.report(planner, 2.0, "g", None)
    return plan


def both(api: ASGIApp, events: ASGIApp) -> ASGIApp:
    """One application of the two, as Serve's proxy makes it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        streams = scope["type"] == "http" and scope["path"] == "/v1/telemetry/stream"
        await (events if streams else api)(scope, receive, send)

    return app


@contextlib.contextmanager
def serving(app: ASGIApp, port: int = 0) -> Iterator[str]:
    """The application on loopback while the block runs; gives its address."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
