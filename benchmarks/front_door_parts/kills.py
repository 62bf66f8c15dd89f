"""Stalls of calls through the client while parts of a server are killed, twice each."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

BARS_S = {"proxy's manager": 10.0, "proxy": 10.0}
BAR_S = 3.0


def measure() -> dict[str, dict[str, Any]]:
    """By part: calls, failed ones, lost plans, the worst call in seconds, the machine's load."""
    from kill_load import ROLES, kill_twice
    from servers import Server

    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory), "--telemetry", "simulate:nvl72")
        try:
            server.wait_ready(240.0)
            for part, role in ROLES.items():
                load, lost = kill_twice(server, role)
                found[part] = {
                    "calls": load.calls,
                    "failed": len(load.failed),
                    "lost": len(lost),
                    "stall_s": max(load.worst.values()),
                    "bar_s": BARS_S.get(part, BAR_S),
                    "machine_load": os.getloadavg()[0],
                }
                print(f"{part}: {found[part]}", flush=True)
                server.until(lambda: server.http.get("/readyz").status_code == 200, 120.0)
        finally:
            server.destroy()
    return found
