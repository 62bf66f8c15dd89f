"""Training of the learned parts from a configuration, as a user types it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nvlink_cases import dgx1_data

from qcluster.cli import main
from qcluster.errors import InputError
from qcluster.q_nvlink import (
    ContentionModel,
    Models,
    RoutePolicy,
    parse_node_link,
    plan_fabric,
    train_classifier,
    train_rl,
)


@pytest.fixture
def fabric_file(tmp_path):
    path = tmp_path / "fabric.json"
    path.write_text(json.dumps(dgx1_data()))
    return str(path)


def test_a_classifier_from_simulated_layouts(tmp_path, fabric_file):
    out = str(tmp_path / "c.safetensors")
    found = train_classifier({"output": out, "rows": 200, "fabrics": [fabric_file]})
    assert found["rows"] == 200
    assert found["balanced_accuracy"] > 0.7
    model = ContentionModel.load(out)
    plan = plan_fabric(
        parse_node_link(dgx1_data()),
        [{"id": "a", "gpus": 4}],
        config={"classifier": True},
        models=Models(contention=model),
        deadline_s=3.0,
    )
    assert plan.solver.used in ("classifier", "first-fit")


def test_a_classifier_from_stored_history(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=8).tolist() for _ in range(60)]
    lines = [json.dumps({"features": row, "contended": row[2] > 0}) for row in rows[:30]]
    lines += [
        json.dumps({"params": {"layout": {"features": row, "contended": row[2] > 0}}})
        for row in rows[30:]
    ]
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join([*lines, ""]))
    config = {"output": str(tmp_path / "c.safetensors"), "history": str(path)}
    found = train_classifier({**config, "kind": "nvlink-classifier", "quantum_kernel": True})
    assert found["rows"] == 60
    assert found["kernel"] == "quantum"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{", "row 1"),
        ("3", "row 1"),
        ('{"params": {}}', "row 1"),
        ('{"features": [1], "contended": true}', "features"),
    ],
)
def test_a_bad_history_names_file_and_row(tmp_path, text, names):
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=names) as caught:
        train_classifier({"output": "x", "history": str(path)})
    assert "history.jsonl" in str(caught.value)


def test_a_policy_for_random_fabrics(tmp_path):
    out = str(tmp_path / "r.safetensors")
    config = {"output": out, "generations": 1, "population": 2, "batch": 1}
    found = train_rl({"kind": "nvlink-rl", **config})
    assert len(found["returns"]) == 1
    assert RoutePolicy.load(out).gains == found["gains"]


def test_a_policy_for_ones_own_fabric_and_jobs(tmp_path, fabric_file):
    jobs = tmp_path / "jobs.json"
    profile = [{"id": "a", "gpus": 8, "traffic": {"kind": "all_to_all", "bytes": 1e9}}]
    jobs.write_text(json.dumps(profile))
    out = str(tmp_path / "r.safetensors")
    config = {"output": out, "fabric": fabric_file, "jobs": str(jobs), "generations": 1}
    found = train_rl({**config, "population": 2, "batch": 1})
    assert found["busiest"] <= 1.0
    jobs.write_text(json.dumps([{**profile[0], "gpus": 9}]))
    with pytest.raises(InputError, match="too few"):
        train_rl(config)


def test_the_command_trains_and_plans_with_what_it_trained(tmp_path, fabric_file, capsys):
    out, config = str(tmp_path / "trained"), tmp_path / "train.yaml"
    config.write_text("kind: nvlink-rl\ngenerations: 1\npopulation: 2\nbatch: 1\n")
    assert main(["train", str(config), "--out", out, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["train", str(config), "--out", out, "--json", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2 * first["episodes"]
    config.write_text("kind: nvlink-classifier\nrows: 60\n")
    assert main(["train", str(config), "--out", out]) == 0
    capsys.readouterr()
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps([{"id": "a", "gpus": 4, "traffic": {"kind": "ring", "bytes": 1e9}}]))
    asked = ["nvlink", fabric_file, "--jobs", str(jobs), "--rl", "--classifier", "--json"]
    assert main([*asked, "--weights", out]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["config"]["rl"] is True
    assert "routes_solver" in plan["params"]
    assert main([*asked, "--weights", str(tmp_path)]) == 2
    assert "weights" in capsys.readouterr().err
    config.write_text("kind: nvlink-rl\npopulation: 3\n")
    assert main(["train", str(config), "--out", out]) == 2
    assert "population" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "config", "text"),
    [
        (train_rl, {}, "output"),
        (train_rl, {"output": "x", "fabric": "f"}, "jobs"),
        (train_rl, {"output": "x", "population": 3}, "population"),
        (train_classifier, {"output": "x", "rows": 1}, "rows"),
        (train_classifier, {"output": "x", "kind": "other"}, "kind"),
        (train_classifier, {"output": "x", "history": "no-such-file"}, "no-such-file"),
    ],
)
def test_bad_configurations_name_the_field(train, config, text):
    with pytest.raises(InputError, match=text):
        train(config)
