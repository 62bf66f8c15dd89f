"""Weights over Ray actors: changes are sent, and whoever missed something gets everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(200)]


def test_lost_updates_and_restarts_end_in_a_resync(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, str(HERE / "weight_sync_on_ray.py"), str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=180)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, err[-3000:]
    found = json.loads(out.strip().splitlines()[-1])
    ways = [{name: row["way"] for name, row in step.items()} for step in found["told"]]
    everybody = {"steady", "restarted", "deaf"}
    assert ways[0] == dict.fromkeys(everybody, "full")
    assert ways[1] == dict.fromkeys(everybody, "delta")
    assert ways[2] == {"steady": "delta", "restarted": "resync", "deaf": "resync"}
    assert ways[3] == dict.fromkeys(everybody, "delta")
    assert all(row["applied"] for step in found["told"] for row in step.values())
    assert found["told"][1]["steady"]["bytes"] < 0.1 * found["told"][0]["steady"]["bytes"]
    assert found["ends"] == {name: [4, found["wanted"]] for name in everybody}
    assert found["bits"]
    assert found["queue"]
