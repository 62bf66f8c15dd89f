"""Trials as MLflow runs, read back through MLflow's own client."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from qcluster.cli import main
from qcluster.errors import InputError, MissingDependency
from qcluster.q_hpo import MLflowLog, Study

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": 0, "high": 1},
    "opt": {"name": {"type": "choice", "values": ["sgd", "adam"]}, "fixed": [1, 2]},
}


def told(study: Study, i: int) -> None:
    trial = study.ask()
    if i % 4 == 3:
        study.tell(trial.id, None, "failed")
    else:
        study.tell(trial.id, trial.config["x"], step=i)


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/runs.db"


def runs_of(uri: str, run_id: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("qcluster")
    found = client.search_runs(
        [experiment.experiment_id], f"tags.\"mlflow.parentRunId\" = '{run_id}'"
    )
    return {run.data.tags["qcluster.trial"]: run for run in found}


def test_every_trial_is_a_run_once(uri: str) -> None:
    study = Study(SPACE, seed=0, strategy="sobol")
    log = MLflowLog(uri)
    for i in range(8):
        told(study, i)
        assert log.update(study) == 1
    study.ask()  # still running: no run yet
    again = MLflowLog(uri)  # another process later
    assert again.run_id == log.run_id
    assert again.update(study) == 0
    again.finish(study)
    runs = runs_of(uri, log.run_id)
    assert sorted(runs) == [t.id for t in study.history if t.status != "running"]
    for trial in study.history[:-1]:
        run = runs[trial.id]
        assert run.data.params["opt/name"] == trial.config["opt"]["name"]
        assert float(run.data.params["x"]) == trial.config["x"]
        if trial.value is None:
            assert run.info.status == "FAILED"
            assert run.data.tags["status"] == "failed"
        else:
            assert run.info.status == "FINISHED"
            assert run.data.metrics["value"] == trial.value
    from mlflow import MlflowClient

    whole = MlflowClient(tracking_uri=uri).get_run(log.run_id)
    assert study.best is not None
    assert whole.data.metrics["best"] == study.best.value
    assert whole.data.tags["best.x"] == str(study.best.config["x"])
    assert whole.info.status == "FINISHED"


def test_two_searches_are_two_runs(uri: str) -> None:
    assert MLflowLog(uri, run="a").run_id != MLflowLog(uri, run="b").run_id


def test_a_store_that_refuses_is_one_line(uri: str) -> None:
    with pytest.raises(InputError, match="MLflow refuses"):
        MLflowLog("nonsense://store")


def test_without_mlflow_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("mlflow"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match="pip install mlflow-skinny"):
        MLflowLog()


def test_the_verb_logs_the_sweep(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text("x: {type: uniform, low: 0, high: 1}\n")
    (tmp_path / "hpo_mlflow_objective.py").write_text("def loss(c):\n    return c['x']\n")
    sweep = ["hpo", "space.yaml", "--objective", "hpo_mlflow_objective:loss", "--in-process"]
    assert main([*sweep, "-n", "4", "--mlflow", uri]) == 0
    assert main([*sweep, "-n", "6", "--mlflow", uri, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["trials"] == 6
    log = MLflowLog(uri, run="hpo")
    assert len(runs_of(uri, log.run_id)) == 6
    from mlflow import MlflowClient

    files = {f.path for f in MlflowClient(tracking_uri=uri).list_artifacts(log.run_id)}
    assert {"history.csv", "best.json", "history.svg"} <= files
    assert main([*sweep, "-n", "3", "--out", "o", "--mlflow", "nonsense://x"]) == 2
