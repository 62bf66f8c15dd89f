"""A long run: memory and open files of every process of a server whose telemetry runs at 60x."""

from __future__ import annotations

import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil

__all__ = ["BAR", "measure"]

BAR = 1.05
TICKS, SPEED = 28_800, 60
OWN = ("ray::", "qcluster", "haproxy")
"""What the command lines of our own processes begin with or hold; Ray's daemons are Ray's."""


def measure(*, quick: bool) -> dict[str, Any]:
    """By process: resident MB in the second and the last quarter, their ratio, open files."""
    from servers import Server

    seconds = (TICKS / SPEED) / (4 if quick else 1)
    with TemporaryDirectory() as directory:
        server = Server(Path(directory), "--telemetry", f"simulate:nvl72,speed={SPEED}")
        try:
            server.wait_ready(240.0)
            seen: dict[int, list[tuple[float, int]]] = {}
            names: dict[int, str] = {}
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                for process in server.processes():
                    _look(process, seen, names)
                time.sleep(seconds / 120)
        finally:
            server.destroy()
    rows = {
        f"{names[pid]} {pid}": _row(values) for pid, values in seen.items() if len(values) >= 100
    }
    return {"ticks": int(seconds * SPEED), "processes": rows, "load": os.getloadavg()[0]}


def _look(
    process: psutil.Process, seen: dict[int, list[tuple[float, int]]], names: dict[int, str]
) -> None:
    try:
        line = " ".join(process.cmdline())
        if not any(text in line for text in OWN):
            return
        value = (process.memory_info().rss / 1e6, process.num_fds())
    except psutil.Error:
        return
    names[process.pid] = line[:40]
    seen.setdefault(process.pid, []).append(value)


def _row(values: list[tuple[float, int]]) -> dict[str, float]:
    rss, files = (np.array(column, float) for column in zip(*values, strict=True))
    quarter = len(rss) // 4
    second, last = rss[quarter : 2 * quarter], rss[-quarter:]
    return {
        "second_mb": float(np.median(second)),
        "last_mb": float(np.median(last)),
        "ratio": float(np.median(last) / np.median(second)),
        "files_second": float(np.median(files[quarter : 2 * quarter])),
        "files_last": float(np.median(files[-quarter:])),
    }
