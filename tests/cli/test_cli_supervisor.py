"""The supervisor over scripted servers, in a process of its own: it adopts and ends processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).resolve().parent
SCRIPT = """
import json, signal, sys, threading
from qcluster.cli import supervisor
supervisor._FIRST_PAUSE_S, supervisor._LONGEST_PAUSE_S = 0.01, 0.02
supervisor._GONE_S, supervisor._STOP_S = 0.5, 0.5
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
settings = supervisor.Settings(**json.loads(sys.argv[1]))
sys.exit(supervisor.supervise(settings, stopped, module="fake_server"))
"""


class Supervisor:
    def __init__(self, state: Path, lives: list[str], address: str) -> None:
        self.log = state / "lives.jsonl"
        settings = {
            "sources": [], "address": address, "host": "", "port": 1, "state_dir": str(state),
            "period_s": 1.0, "options": {"lives": lives},
        }  # fmt: skip
        path = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(settings)],
            env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def lives(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def nth(self, number: int) -> dict[str, Any]:
        """Wait for a life to begin."""
        ends = time.monotonic() + 30
        while len(self.lives()) <= number:
            assert time.monotonic() < ends, self.lives()
            time.sleep(0.01)
        return self.lives()[number]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    running: list[Supervisor] = []

    def begin(*lives: str, address: str = "local") -> Supervisor:
        running.append(Supervisor(tmp_path, list(lives), address))
        return running[-1]

    yield begin
    for one in running:
        one.process.kill()
        one.process.wait()
        for life in one.lives():
            for pid in (life["pid"], life["orphan"]):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(*pids: int) -> bool:
    ends = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def test_a_server_that_never_came_up_ends_it_with_its_status(supervise: Any) -> None:
    made = supervise("2")
    assert made.process.wait(30) == 2
    (life,) = made.lives()
    assert not alive(life["orphan"])
    assert not Path(life["temp"]).exists()


def test_a_ray_that_dies_while_the_server_starts_is_no_mistake_in_its_settings(
    supervise: Any,
) -> None:
    made = supervise("75", "75", "up stay")
    assert alive(made.nth(2)["pid"])


def test_a_ray_that_never_lasts_until_the_server_is_up_ends_it(supervise: Any) -> None:
    made = supervise("75")
    assert made.process.wait(30) == 75
    assert len(made.lives()) == 3


def test_a_dead_server_is_started_again_with_nothing_left_of_it(supervise: Any) -> None:
    made = supervise("up 75", "75", "up 1", "up stay")
    last = made.nth(3)
    assert alive(last["pid"])
    for life in made.lives()[:3]:
        assert not alive(life["pid"])
        assert not alive(life["orphan"])
        assert not Path(life["temp"]).exists()
    assert Path(last["temp"]).is_dir()


def test_kill_9_of_the_server_is_a_death_like_any_other(supervise: Any) -> None:
    made = supervise("up stay")
    os.kill(made.nth(0)["pid"], signal.SIGKILL)
    assert alive(made.nth(1)["pid"])


def test_stop_is_passed_on_and_leaves_nothing(supervise: Any) -> None:
    made = supervise("up stay")
    life = made.nth(0)
    made.process.terminate()
    assert made.process.wait(30) == 0
    assert gone(life["pid"], life["orphan"])
    assert not Path(life["temp"]).exists()


def test_a_stuck_server_is_killed_on_stop(supervise: Any) -> None:
    made = supervise("up stuck")
    life = made.nth(0)
    made.process.terminate()
    _, said = made.process.communicate(timeout=30)
    assert "does not stop, and is killed" in said
    assert gone(life["pid"], life["orphan"])


def test_kill_9_of_the_supervisor_takes_the_server_along(supervise: Any) -> None:
    made = supervise("up stay")
    life = made.nth(0)
    made.process.kill()
    assert gone(life["pid"])


def test_a_joined_cluster_that_is_gone_is_not_waited_for(supervise: Any) -> None:
    made = supervise("up 75", "1", address="auto")
    _, said = made.process.communicate(timeout=30)
    assert made.process.returncode == 1
    assert "the cluster is gone" in said


def test_our_own_ray_is_started_again_however_often_it_fails(supervise: Any) -> None:
    made = supervise("up 75", "1")
    assert made.nth(8)
    assert made.process.poll() is None
