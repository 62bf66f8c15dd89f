"""A server whose lives are scripted: ``options["lives"]`` says how each one goes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from qcluster.cli.supervisor import Settings, die_with_parent


def main() -> int:
    die_with_parent(int(sys.argv[2]))
    settings = Settings(**json.load(sys.stdin))
    log = Path(settings.state_dir) / "lives.jsonl"
    number = len(log.read_text().splitlines()) if log.exists() else 0
    lives = settings.options["lives"]
    life = lives[min(number, len(lives) - 1)]
    # An orphan in a session of its own, as a worker of a dead Ray is.
    orphan = _orphan()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    if life.startswith("up"):
        os.write(int(sys.argv[1]), b"1")
    entry = {"pid": os.getpid(), "orphan": orphan, "temp": settings.temp_dir, "life": life}
    with log.open("a") as file:
        file.write(json.dumps(entry) + "\n")
    if life.endswith("stay"):
        stopped.wait()
        return 0
    if life.endswith("stuck"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return int(life.split()[-1])


def _orphan() -> int:
    read, write = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        return int(os.read(read, 20))
    os.setsid()
    pid = subprocess.Popen(["sleep", "600"], stderr=subprocess.DEVNULL).pid
    os.write(write, str(pid).encode())
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
