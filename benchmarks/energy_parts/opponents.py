"""Opponents in an environment of their own, run as subprocesses and cached by content."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import harness

_HERE = Path(__file__).resolve().parent.parent / "opponents"


def ask(script: str, problem: Any, version: str, *, fresh: bool) -> Any:
    """The JSON answer of an opponent's script to a JSON problem; None when it cannot run."""
    python = os.environ.get("QCLUSTER_OPPONENTS_ENERGY")

    def compute() -> Any:
        done = subprocess.run(
            [str(python), str(_HERE / script)], input=json.dumps(problem), capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)

    key = {"opponent": version, "model": 1, **problem}
    if python is None and not harness.is_cached("energy", key):
        return None
    return harness.cached("energy", key, compute, fresh=fresh and python is not None)
