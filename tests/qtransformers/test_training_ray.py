"""QuantumTrainer on Ray Train's workers: kills, elastic runs, Ray Data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_worlds import in_world

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(560)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``training_on_ray.py`` says: one Ray for all that is tested here."""
    directory = tmp_path_factory.mktemp("ray")
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{HERE}", "OMP_NUM_THREADS": "1",
        "HOME": str(directory),
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, str(HERE / "training_on_ray.py"), str(directory)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(timeout=540)
    finally:
        # Ray's agents stay in the child's group and outlive it when it is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, err[-4000:]
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    result["directory"] = directory
    return result


def test_killed_workers_change_nothing(found: dict[str, Any], tmp_path: Path) -> None:
    options = {"stop": 99, "max_steps": 14}
    whole = in_world(2, "train_some", directory=str(tmp_path), **options)[0]
    assert found["killed"]["kills"] == ["killed-4", "killed-9"]
    assert found["killed"]["losses"] == whole["losses"]
    assert found["killed"]["weights"] == whole["weights"]
    # Ray registers a checkpoint a moment after the workers reported it.
    assert found["killed"]["resumed_from"] in {3, 6, 9}
    assert found["killed"]["workers"] == 2


def test_the_log_has_every_step_once(found: dict[str, Any]) -> None:
    lines = (found["directory"] / "killed" / "steps.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == [2, 4, 6, 8, 10, 12, 14]


def test_start_up_is_reported_apart(found: dict[str, Any]) -> None:
    assert found["killed"]["startup_s"] > found["killed"]["step_s_median"]


def test_elastic_runs_take_what_there_is_and_go_on_elsewhere(found: dict[str, Any]) -> None:
    assert found["elastic"]["first"]["workers"] in (1, 2)
    assert found["elastic"]["more"]["resumed_from"] == 4
    assert found["elastic"]["more"]["losses"][:4] == found["elastic"]["first"]["losses"]
    assert found["elastic"]["more"]["workers"] == 1


def test_ray_data_are_read(found: dict[str, Any]) -> None:
    assert found["data"]["samples"] == 8
    assert len(found["data"]["losses"]) == 2
