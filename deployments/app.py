"""The Serve applications, buildable from YAML: ``deployments.app:build`` and ``:build_events``.

``serve deploy deployments/qcluster.yaml`` deploys both onto a cluster whose actors are up
(``qcluster serve`` starts them, or any node with ``actors.cluster.start_cluster``).
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application

from qcluster.errors import NotReady
from qcluster.request import Request  # noqa: F401 - resolves forward references in workers

__all__ = ["ApiOptions", "EventOptions", "build", "build_events", "deploy", "withdraw"]

API, EVENTS = "qcluster-api", "qcluster-events"
STREAM = "/v1/telemetry/stream"
HEAD = "node:__internal_head__"
"""Ray's own resource of the head node, of which there is one."""
REPLACED_S = 60.0
"""A replica that comes while others answer waits so long for its solver processes."""


class ApiOptions(BaseModel):
    """Arguments of the applications, as in the YAML's ``args``."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(2, ge=1, le=64)
    """Copies of the API; with two, one may die without anybody noticing."""
    on_head: bool = True
    """Replicas stand beside the proxy, so that no other node's end takes an answer with it; spread
    over all nodes they have more processors."""
    solver_processes: int = Field(1, ge=1, le=64)
    """Warm worker processes a replica."""
    queue_limit: int = Field(16, ge=1, le=4096)
    """Requests that may wait for a worker; the next gets 429."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    body_timeout_s: float = Field(20.0, gt=0)
    apply: bool = False
    """Whether node agents were started to carry plans out."""
    token_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    """Digest of the token that every `/v1` route wants; empty lets everybody in."""


class EventOptions(BaseModel):
    """Arguments of the event streams' application."""

    model_config = ConfigDict(extra="forbid")

    token_sha256: str = Field("", pattern="^([0-9a-f]{64})?$")


@serve.deployment(
    name="api",
    ray_actor_options={"num_cpus": 0},
    # Bodies that trickle in hold one of these each and nothing else; what costs is bounded by the
    # queue of the solver processes.
    max_ongoing_requests=5000,
    health_check_period_s=2,
    health_check_timeout_s=10,
    graceful_shutdown_timeout_s=5,
)
@serve.ingress()
class Api:
    """Plans on demand, stored plans, telemetry, the page."""

    def __init__(self, options: dict[str, Any]) -> None:
        from actors.cluster import (
            ATTENTION,
            CODEC,
            HUB,
            JOBS,
            STORE,
            STUDIES,
            Agents,
            connect,
        )
        from deployments.api import Services
        from deployments.limits import BodyLimits
        from deployments.questions import SolverPool

        chosen = ApiOptions(**options)
        self.services = Services(
            hub=connect(HUB),
            store=connect(STORE),
            jobs=connect(JOBS),
            studies=connect(STUDIES),
            attention=connect(ATTENTION, 150.0),
            codec=connect(CODEC, 150.0),
            pool=SolverPool(chosen.solver_processes, chosen.queue_limit),
            limits=BodyLimits(max_bytes=chosen.max_body_bytes, timeout_s=chosen.body_timeout_s),
            agents=Agents(),
            apply=chosen.apply,
            token_sha256=chosen.token_sha256,
        )
        self._await_warm()

    def _await_warm(self) -> None:
        """Beside others that answer, come only when warm; alone, at once."""
        if _running():
            self.services.pool.wait_warm(REPLACED_S)

    def __serve_build_asgi_app__(self) -> Any:
        from deployments.api import create_api
        from deployments.plan_reads import read_early

        app = create_api(self.services)
        read_early(app.state.plans, self.services.token_sha256)
        return app

    def __del__(self) -> None:
        if hasattr(self, "services"):
            self.services.pool.close()


def _running() -> int:
    """How many replicas of the API answer now."""
    try:
        deployments = serve.status().applications[API].deployments
    except (KeyError, RayError):
        return 0
    states = (one.replica_states for name, one in deployments.items() if name == "api")
    return sum(found.get("RUNNING", 0) for found in states)


@serve.deployment(
    name="events",
    ray_actor_options={"num_cpus": 0},
    # An open page holds one of these for as long as it is open.
    max_ongoing_requests=1000,
    graceful_shutdown_timeout_s=1,
)
@serve.ingress()
class Events:
    """Event streams."""

    def __init__(self, token_sha256: str) -> None:
        from actors.cluster import HUB, STORE, connect
        from deployments.events import Feed

        self.token_sha256 = token_sha256
        self.feed = Feed(connect(HUB), connect(STORE))

    def __serve_build_asgi_app__(self) -> Any:
        from deployments.events import create_events

        return create_events(self.feed, self.token_sha256)


def build(args: ApiOptions) -> Application:
    """The API application, mounted at ``/``."""
    place = {"resources": {HEAD: 0.001}} if args.on_head else {}
    api = Api.options(  # type: ignore[attr-defined]
        num_replicas=args.replicas, ray_actor_options={"num_cpus": 0, **place}
    )
    application: Application = api.bind(args.model_dump())
    return application


def build_events(args: EventOptions) -> Application:
    """The event streams, mounted at ``/v1/telemetry/stream``."""
    return Events.bind(args.token_sha256)  # type: ignore[attr-defined]


def deploy(host: str, port: int, options: ApiOptions) -> None:
    """Start Serve's HTTP on this cluster and run both applications; returns when they answer."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
    except RayError as error:
        cause = str(error).strip().splitlines()[-1]
        raise NotReady(f"the HTTP proxy did not start: {cause}") from None
    streams = EventOptions(token_sha256=options.token_sha256)
    # Together, because each takes seconds to start and until then nothing is at its path.
    api = serve.RunTarget(build(options), name=API, route_prefix="/")
    events = serve.RunTarget(build_events(streams), name=EVENTS, route_prefix=STREAM)
    serve.run_many([api, events])


def withdraw() -> None:
    """Take both applications down, and Serve with them when it is ours alone."""
    for name in (API, EVENTS):
        serve.delete(name)
    if not serve.status().applications:
        serve.shutdown()
