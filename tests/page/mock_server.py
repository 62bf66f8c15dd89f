"""The page with deterministic data behind it: Python's own HTTP server, no Ray.

python tests/page/mock_server.py --port 8010 --scene nvl72
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[2]))

from deployments.page import CSP, UI
from tests.page.mock_data import PLANNERS, SCENES, Scene

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SUMMARY = (
    "plan_id", "planner", "created_at", "expires_at", "objective", "lower_bound", "gap", "solver",
    "wall_s", "quantum_gain", "baselines", "telemetry", "warnings", "reasons",
)  # fmt: skip


class MockServer:
    """Serves one scene; its switches are what tests turn."""

    def __init__(self, scene: str | Scene = "nvl72", port: int = 0) -> None:
        self.scene = SCENES[scene]() if isinstance(scene, str) else scene
        self.started = time.time()
        self.token: str | None = None
        self.cut = False  # refuse the stream and end open ones
        self.silent = False  # keep streams open, send nothing
        self.frozen_at: float | None = None  # the telemetry stands still
        self.stale: str | None = None  # the alarm of every plan
        self.requests: list[str] = []
        self.history = 24
        self.rate = 1  # ticks a second
        handler = type("Handler", (_Handler,), {"mock": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut = True
        self.http.shutdown()
        self.http.server_close()

    @property
    def tick(self) -> int:
        now = self.frozen_at or time.time()
        return 100 + int((now - self.started) * self.rate)

    def snapshot(self) -> dict[str, Any] | None:
        now = self.frozen_at or time.time()
        return self.scene.snapshot(self.tick, now)

    def plan(self, planner: str, back: int = 0) -> dict[str, Any]:
        """The newest plan, made every 4 s, or the one ``back`` plans before it."""
        number = self.tick // 4 - back
        plan = self.scene.plan(planner, number, self.started + (number * 4 - 100) / self.rate)
        state = {"stale": self.stale is not None, "alarm": self.stale}
        return {**plan, **state, "age_s": time.time() - plan["created_at"]}

    def answer(self, path: str) -> dict[str, Any] | None:
        """The JSON of a GET, or None where there is no such route."""
        if path == "/healthz":
            return {"status": "ok"}
        if path == "/v1/telemetry/latest":
            now = time.time()
            past = [
                (now - back, self.scene.snapshot(self.tick - back, now))
                for back in range(99, 0, -1)
            ]
            history = [[ts, sum(old["node_power_w"])] for ts, old in past]
            silent = now - self.frozen_at if self.frozen_at else 0.2
            health = {"silent_s": silent}
            return {"snapshot": self.snapshot(), "power_history": history, "health": health}
        if path == "/v1/plans":
            plans = {name: self.plan(name) for name in PLANNERS}
            return {"plans": plans, "alarms": dict.fromkeys(plans, self.stale)}
        for name in PLANNERS:
            if path == f"/v1/plans/{name}/history":
                rows = [self.plan(name, back) for back in range(self.history)]
                return {"plans": [{key: row.get(key) for key in SUMMARY} for row in rows]}
        return None


class _Handler(BaseHTTPRequestHandler):
    mock: MockServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.mock.requests.append(self.path)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = UI / ("index.html" if path == "/" else path.removeprefix("/ui/"))
        if (path == "/" or path.startswith("/ui/")) and file.is_file():
            headers = {"Content-Security-Policy": CSP, "Cache-Control": "no-cache"}
            self.send(200, file.read_bytes(), MEDIA[file.suffix], headers)
        elif self.mock.token and self.headers["Authorization"] != f"Bearer {self.mock.token}":
            self.send(401, b"{}", "application/problem+json")
        elif path == "/v1/telemetry/stream":
            self.stream()
        elif (content := self.mock.answer(path)) is not None:
            self.send(200, json.dumps(content).encode(), "application/json")
        else:
            self.send(404, b"{}", "application/problem+json")

    def send(
        self, status: int, body: bytes, media: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": media}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self) -> None:
        if self.mock.cut:
            self.send(503, b"{}", "application/problem+json")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        sent: dict[str, str] = {}
        try:
            while not self.mock.cut:
                if not self.mock.silent:
                    self.send_events(sent)
                time.sleep(0.25 / self.mock.rate)
        except OSError:
            return  # the browser went away

    def send_events(self, sent: dict[str, str]) -> None:
        snapshot = self.mock.snapshot()
        if snapshot is None:
            self.wfile.write(b"retry: 2000\n\n")
            self.wfile.flush()
            return
        if self.mock.frozen_at or sent.get("tick") != str(snapshot["seq"]):
            sent["tick"] = str(snapshot["seq"])
            self.event("snapshot", snapshot, snapshot["seq"])
        for name in PLANNERS:
            plan = self.mock.plan(name)
            key = f"{plan['plan_id']} {plan['alarm']}"
            if sent.get(name) != key:
                sent[name] = key
                self.event(
                    "plan",
                    {"planner": name, "plan": plan, "alarm": self.mock.stale},
                    snapshot["seq"],
                )

    def event(self, kind: str, content: dict[str, Any], number: int) -> None:
        text = f"id: {number}\nevent: {kind}\ndata: {json.dumps(content)}\n\n"
        self.wfile.write(text.encode())
        self.wfile.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--scene", choices=sorted(SCENES), default="nvl72")
    args = parser.parse_args()
    server = MockServer(args.scene, args.port)
    print(f"open {server.url}/")
    try:
        server.http.serve_forever()
    except KeyboardInterrupt:
        server.http.server_close()


if __name__ == "__main__":
    main()
