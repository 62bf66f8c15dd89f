"""How long starting takes: a server until its first valid plans, an import, a solve from a file."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from front_door_parts.servers_beside import ROOT

QUESTION = {"h": [0.5, -0.5], "J": [[0, 1, 1.0]], "deadline_s": 0.1}


def timed(*command: str, repeats: int) -> tuple[float, float]:
    """Median seconds of a command by the clock and of CPU, after one run to warm caches."""
    walls, cpus = [], []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(repeats + 1):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        after = os.times()
        walls.append(time.perf_counter() - began)
        cpus.append(sum(after[2:4]) - sum(before[2:4]))
    return statistics.median(walls[1:]), statistics.median(cpus[1:])


def measure(repeats: int) -> dict[str, Any]:
    """Seconds: first valid plan of every planner, ``import qcluster``, ``qcluster solve FILE``."""
    from servers import Server

    nothing = timed(sys.executable, "-c", "pass", repeats=repeats)
    imported = timed(sys.executable, "-c", "import qcluster", repeats=repeats)
    starts = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "problem.json")
        file.write_text(json.dumps(QUESTION))
        solved = timed(sys.executable, "-m", "qcluster", "solve", str(file), repeats=repeats)
        for number in range(3):
            server = Server(Path(directory, str(number)), "--telemetry", "simulate:nvl72")
            try:
                starts.append(server.wait_ready(240.0))
                server.stop()
            finally:
                server.destroy()
    return {
        "first_plan_s": statistics.median(starts),
        "first_plan_worst_s": max(starts),
        "import_s": imported[0] - nothing[0],
        "import_cpu_s": imported[1] - nothing[1],
        "solve_s": solved[0],
        "solve_cpu_s": solved[1],
        "machine_load": os.getloadavg()[0],
    }
