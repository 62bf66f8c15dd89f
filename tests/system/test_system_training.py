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

import numpy as np
import pytest
from training_elastic import RUN
from training_worlds import in_world, text, tiny

from qcluster.qtransformers.data import TokenWindows
from qcluster.qtransformers.loop import TrainingLoop
from qcluster.qtransformers.order import GlobalOrder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.system, pytest.mark.timeout(560)]


def told(program: str, directory: Path) -> dict[str, Any]:
    """What a program of this folder says that starts a Ray of its own."""
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{HERE}", "OMP_NUM_THREADS": "1",
        "HOME": str(directory),
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, str(HERE / program), str(directory)],
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


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One Ray for kills, an elastic run and Ray Data."""
    return told("training_on_ray.py", tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A cluster of two nodes: one is announced to go, one comes, one is killed, one comes."""
    return told("training_elastic.py", tmp_path_factory.mktemp("elastic"))


def test_killed_workers_change_nothing(found: dict[str, Any]) -> None:
    """Bit for bit, beside workers of the same Ray that nothing happened to."""
    whole, killed = found["whole"], found["killed"]
    assert killed["kills"] == ["killed-4", "killed-9"]
    assert killed["losses"] == whole["losses"]
    assert killed["weights"] == whole["weights"]
    assert (killed["workers"], whole["workers"]) == (2, 2)


def test_killed_workers_go_on_from_a_checkpoint(found: dict[str, Any]) -> None:
    # Ray registers a checkpoint a moment after the workers reported it.
    assert found["killed"]["resumed_from"] in {3, 6, 9}


def test_workers_of_ray_learn_as_plain_processes_do(found: dict[str, Any], tmp_path: Path) -> None:
    plain = in_world(2, "train_some", directory=str(tmp_path), stop=99, max_steps=14)[0]
    assert np.allclose(found["whole"]["losses"], plain["losses"], rtol=1e-5, atol=0)


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


def test_ray_data_pass_by_and_are_not_loaded(found: dict[str, Any]) -> None:
    """Sixty steps of six are two windows of 300; blocks of 256 are read until they are there."""
    data = found["data"]
    assert data["samples"] == 100_000
    assert len(data["losses"]) == 60
    assert data["pulled"] <= 600 + 256
    assert data["held"] <= 600 + 256


def test_ray_data_come_in_one_order_on_any_number_of_workers(found: dict[str, Any]) -> None:
    data = found["data"]
    assert data["both"]["workers"] == 2
    assert data["both"]["evaluations"][0]["loss"] > 0
    assert np.allclose(data["both"]["losses"], data["alone"], rtol=1e-4)


def test_workers_follow_the_cluster(elastic: dict[str, Any]) -> None:
    starts = [note for note in elastic["seen"] if "start" in note]
    begun = sorted({(note["start"], note["world"]) for note in starts})
    assert [world for _, world in begun] == [2, 1, 2, 1, 2]
    assert sum(note["world"] for note in starts) == 1 * 2 + 4 * 3
    assert elastic["log"] == ["drained True ", "added", "killed", "added"]
    assert elastic["steps"] == 20


def test_an_announced_end_is_stored_at_once(elastic: dict[str, Any]) -> None:
    """The step after the gate is the last that both workers made, and nothing was made twice."""
    begun = sorted({(n["start"], n["world"]) for n in elastic["seen"] if "start" in n})
    made = {note["step"] for note in elastic["seen"] if note.get("world") == 2 and "step" in note}
    assert begun[1][0] in made
    assert begun[1][0] + 1 not in made


def test_the_global_order_is_kept_while_workers_come_and_go(elastic: dict[str, Any]) -> None:
    """Steps that a lost worker made are made again, with the same samples."""
    order, seen = GlobalOrder(74, RUN["batch_size"]), 0
    for step in range(1, 21):
        wanted = order.batch(seen).tolist()
        seen += len(wanted)
        for world in (1, 2):
            mine = [n for n in elastic["seen"] if n.get("step") == step and n["world"] == world]
            shares = {n["rank"]: n["read"] for n in mine}
            if len(shares) == world:
                assert [i for rank in range(world) for i in shares[rank]] == wanted
    assert seen == elastic["samples"]


def test_losses_are_those_of_one_worker(elastic: dict[str, Any]) -> None:
    loop = TrainingLoop(
        tiny(dropout=0.0), TokenWindows(text(), 8), config={**RUN, "save_every": None}
    )
    assert np.allclose(loop.run().losses, elastic["losses"], rtol=1e-4)
