"""Questions for the job desk's worker process: one that answers, one that never does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from qcluster.errors import InputError


def answer(kind: str, body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    if kind == "stuck":
        Path(asked["pid_file"]).write_text(str(os.getpid()))
        while True:
            time.sleep(0.01)
    if kind == "bad":
        raise InputError("is wrong", field="x")
    if kind == "dies":
        os.kill(os.getpid(), 9)
    return {"kind": kind, **asked}
