"""``qcluster train`` with two workers, typed as its user does: progress, a kill, ``--resume``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from qcluster.cli import main

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

CONFIG = {
    "kind": "transformer",
    # Without dropout, whose draws differ between one worker and two.
    "model": {
        "d_model": 16,
        "nhead": 2,
        "num_decoder_layers": 1,
        "max_length": 32,
        "dropout": 0.0,
    },
    "data": {"limit": 40_000, "length": 16},
    "training": {"max_steps": 400, "batch_size": 4, "save_every": 20, "log_every": 5},
}


@contextlib.contextmanager
def verb(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The verb as a child; whatever it started is ended with it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "qcluster", "train", "two.yaml", "--out", "out", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_for_step(child: subprocess.Popen[str], step: int) -> list[str]:
    """Lines of progress until one has come so far."""
    assert child.stderr is not None
    lines = []
    for line in child.stderr:
        lines.append(line)
        if line.startswith("step ") and int(line.split()[1].split("/")[0]) >= step:
            return lines
    raise AssertionError("".join(lines))


def test_a_killed_verb_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**CONFIG, "workers": 2}))
    with verb(tmp_path) as child:
        lines = wait_for_step(child, 60)
        os.kill(child.pid, signal.SIGKILL)
    assert lines[0] == "starting Ray ...\n"
    with verb(tmp_path, "--resume", "--json") as child:
        out, err = child.communicate(timeout=200)
    assert child.returncode == 0, err[-3000:]
    found = json.loads(out)
    assert found["resumed_from"] >= 20
    assert found["workers"] == 2
    assert found["steps"] == 400
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(CONFIG))
    assert main(["train", str(tmp_path / "one.yaml"), "-o", str(tmp_path / "one"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert np.allclose(found["losses"], alone["losses"], rtol=1e-3)
    steps = [int(r.split(",")[0]) for r in
             (tmp_path / "out" / "steps.csv").read_text().splitlines()[1:]]  # fmt: skip
    assert steps == list(range(5, 401, 5))
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_no_ray_at_the_address_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({**CONFIG, "workers": 2}))
    with verb(tmp_path, "--address", "127.0.0.1:1") as child:
        _, err = child.communicate(timeout=200)
    assert child.returncode != 0
    assert "127.0.0.1:1" in err.strip().splitlines()[-1]
    assert "Traceback" not in err
