"""Ask and tell against a real server from a trainer in shell, its study host killed meanwhile."""

from __future__ import annotations

import json
import math
import os
import subprocess

import pytest
from servers import ROOT, Server

from qcluster.q_hpo import Study

SPACE = {
    "lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "layers": {"type": "randint", "low": 1, "high": 5},
}

PATIENCE = 600
"""Seconds for twelve trials and two new processes of the host, on a busy machine."""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(2 * PATIENCE)]


def test_a_trainer_in_shell_outlives_its_study_host(server: Server) -> None:
    command = ["sh", str(ROOT / "examples" / "hpo_http.sh"), server.url, "in-shell", "12"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    path = "/v1/hpo/studies/in-shell"
    for trials in (3, 7):
        server.until(
            lambda wanted=trials: (
                (found := server.http.get(path)).status_code == 200
                and found.json()["trials"] >= wanted
            )
        )
        server.kill("StudyHost")
    out, err = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, err
    shown = json.loads(out)
    assert shown["trials"] == 12
    assert shown["running"] == []
    assert set(shown["statuses"]) <= {"ok", "failed"}
    # The same search without server, shell and crashes.
    study = Study(SPACE, seed=1)
    trials = server.http.get(path + "/history").json()["trials"]
    assert [t["id"] for t in trials] == [f"r{i}.0" for i in range(12)]
    for told in trials:
        trial = study.ask()
        assert trial.config == told["config"]
        study.tell(trial.id, told["value"], told["status"])
        if told["value"] is not None:
            config = told["config"]
            loss = (math.log10(config["lr"]) + 3) ** 2 + config["layers"] / 10
            assert told["value"] == pytest.approx(loss, rel=1e-4)
