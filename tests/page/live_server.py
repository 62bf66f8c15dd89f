"""The real API, event stream, hub, store and planner hosts in one process, without Ray.

python tests/page/live_server.py --port 8020 --telemetry simulate:nvl72
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.hub import TelemetryHub
from actors.planners import HOSTS
from actors.store import PlanStore
from deployments.api import Services, create_api
from deployments.events import Feed, create_events


def both(api: ASGIApp, events: ASGIApp) -> ASGIApp:
    """One application of the two, as Serve's proxy makes it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        to_events = scope["type"] == "http" and scope["path"] == "/v1/telemetry/stream"
        await (events if to_events else api)(scope, receive, send)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8020)
    parser.add_argument("--telemetry", default="simulate:nvl72")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        hub, store = TelemetryHub((args.telemetry,)), PlanStore(state, tuple(HOSTS))
        hosts = [host(hub, store) for host in HOSTS.values()]
        api = create_api(Services(hub=hub, store=store, pool=None))
        try:
            app = both(api, create_events(Feed(hub, store)))
            uvicorn.run(app, port=args.port, log_level="warning", timeout_graceful_shutdown=1)
        finally:
            for host in hosts:
                host.stop()


if __name__ == "__main__":
    main()
