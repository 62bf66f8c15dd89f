"""``kill -9`` of random parts under the load of four clients, each kind at least twice.

Parts die in a random order; the next dies when the last one is back and some seconds have passed.
The head is the process of Ray's control store: with it goes the whole cluster, and the supervisor
starts it again on the same state.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["BARS_S", "measure"]

BARS_S = {"proxy": 10.0, "proxy's manager": 10.0, "head": 30.0}
BAR_S = 3.0
HEAD = "gcs/gcs_server"


def measure(*, quick: bool, seed: int = 1) -> dict[str, Any]:
    """By part: deaths, the worst call in seconds, failed calls, lost and doubled plans."""
    from kill_load import ROLES, Load, plan_ids, up
    from servers import Server

    from qcluster.client import Client

    pause_s = 3.0 if quick else 20.0
    roles = {**ROLES, "head": HEAD}
    order = [part for part in roles for _ in range(1 if quick else 2)]
    random.Random(seed).shuffle(order)
    found: dict[str, Any] = {
        part: {"deaths": 0, "stall_s": 0.0, "bar_s": BARS_S.get(part, BAR_S)} for part in roles
    }
    with TemporaryDirectory() as directory:
        server = Server(Path(directory), "--telemetry", "simulate:nvl72")
        try:
            server.wait_ready(240.0)
            whole = {part: max(1, up(server, role)) for part, role in roles.items()}
            with Client(server.url) as client, Load(server.url) as load:
                stored = plan_ids(client)
                for part in order:
                    load.more(50)
                    load.worst.clear()
                    server.kill(roles[part])
                    load.more(50, 180.0)
                    server.until(lambda p=part: up(server, roles[p]) >= whole[p], 300.0)
                    time.sleep(pause_s)
                    row = found[part]
                    row["deaths"] += 1
                    row["stall_s"] = max(row["stall_s"], *load.worst.values())
                    row["load"] = os.getloadavg()[0]
                    print(f"{part}: worst call {row['stall_s']:.1f} s", flush=True)
                ids = [
                    row["plan_id"]
                    for name in ("routing", "energy", "nvlink", "joint")
                    for row in client.history(name, 1000)
                ]
                lost = stored - set(ids)
        finally:
            server.destroy()
    return {
        "parts": found,
        "calls": load.calls,
        "failed": load.failed,
        "lost": len(lost),
        "doubled": len(ids) - len(set(ids)),
    }
