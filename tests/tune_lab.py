"""A Ray in a process of its own, and Ray Tune sweeps on it that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tune_driver import SPACE, loss

from qcluster.errors import FormatError
from qcluster.q_hpo import GPSearch, settle
from qcluster.q_hpo.ray_results import ray_trials

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DRIVER = HERE / "tune_driver.py"
PATIENCE = 900
"""Seconds for a sweep. One with many dead workers takes 50 on a quiet machine of two cores, and
minutes on a busy one: each failed trial costs a process that imports Ray."""


class Ray:
    """A Ray in a process of its own, and drivers on it."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            **os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token", "TUNE_GLOBAL_CHECKPOINT_S": "1",
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0",
        }  # fmt: skip
        self.environment.pop("RAY_ADDRESS", None)
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), "ray", "8"], env=self.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, "no Ray"

    def driver(self, mode: str, options: dict[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(DRIVER), mode, json.dumps({"address": self.address, **options})],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, mode: str, options: dict[str, Any]) -> Any:
        child = self.driver(mode, options)
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err[-4000:]
        # Ray writes to standard output too, at the end as well.
        return json.loads(next(line for line in out.splitlines() if line.startswith("{")))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def options(directory: Path, **more: Any) -> dict[str, Any]:
    directory.mkdir(exist_ok=True)
    return {"directory": str(directory), "seconds": 0.2, "faults": False, "restore": False,
            "samples": 12, "concurrency": 1, "retries": 0, **more}  # fmt: skip


def killed(cluster: Ray, wanted: dict[str, Any], moments: list[int]) -> Any:
    """The sweep, its driver killed by SIGKILL each time so many more trials have run.

    ``lost`` of what comes back is how many trials the searcher was told of that Ray's own table
    lacked after the last kill.
    """
    log = Path(wanted["directory"], "ran.jsonl")

    def ran() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    lost = 0
    for i, more in enumerate(moments):
        child = cluster.driver("sweep", {**wanted, "restore": i > 0})
        target = ran() + more
        while ran() < target:
            ended = child.poll() is not None  # before its trials are counted once more
            assert not ended or ran() >= target, (child.communicate()[1][-3000:], ran(), target)
            time.sleep(0.02)
        child.kill()
        child.communicate()
        # What Ray copies is of different moments then, and seldom a file of its own is cut short.
        there = Path(wanted["directory"], "results", "sweep")
        try:
            lost = settle(there) - len(ray_trials(there))
        except FormatError as error:
            pytest.skip(f"nothing is left to restore from: {error}")
    return {**cluster.finish("sweep", {**wanted, "restore": True}), "lost": lost}


def undisturbed(samples: int) -> list[tuple[Any, ...]]:
    """The same search without Ray."""
    search = GPSearch(metric="loss", mode="min", seed=3)
    search.set_search_properties(None, None, SPACE)
    for i in range(samples):
        config = search.suggest(str(i))
        assert config is not None
        result = {"loss": loss(config), "training_iteration": 1, "config": config}
        search.on_trial_complete(str(i), result)
    assert search.study is not None
    return [(t.number, t.config, t.value) for t in search.study.history]
