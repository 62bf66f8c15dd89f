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


def mesh_snapshot():
    import time

    from qcluster.telemetry import Job, Link, Node, Snapshot, Topology

    topology = Topology(
        nodes=(Node(id="h", gpus=8),),
        links=tuple(
            Link(source=f"h/{a}", target=f"h/{b}", bandwidth_gb_s=25.0, links=1)
            for a in range(8)
            for b in range(a + 1, 8)
            if (a ^ b).bit_count() == 1 or a ^ b == 7
        ),
    )
    jobs = (
        Job(id="a", gpus=4, kind="allreduce", bytes=1e9),
        Job(id="b", gpus=3, kind="all_to_all", bytes=1e9),
    )
    return Snapshot(
        seq=1, ts_s=time.time(), topology=topology, alive=np.ones(8, dtype=bool), jobs=jobs
    )


def test_the_live_planner_uses_trained_weights_and_sees_a_refit(tmp_path, fabric_file, monkeypatch):
    from qcluster.deadline import Deadline
    from qcluster.q_nvlink import NVLinkPlanner
    from qcluster.q_nvlink import plan as planning

    seen = []
    real = planning.run_classified

    def spy(problem, *, model, **more):
        seen.append(model.rows)
        return real(problem, model=model, **more)

    monkeypatch.setattr(planning, "run_classified", spy)
    state = mesh_snapshot()
    planner = NVLinkPlanner({"weights": str(tmp_path), "classifier": True, "rl": True})

    def plan():
        found = planner.plan(state, None, {}, deadline=Deadline.after(2.0))
        planner.verify(found, state)
        return found

    assert any("weights" in line for line in plan().warnings)  # nothing trained yet
    config = {"fabrics": [fabric_file], "kind": "nvlink-classifier"}
    train_classifier({**config, "rows": 60}, out=tmp_path)
    assert not any("weights" in line for line in plan().warnings)
    train_classifier({**config, "rows": 90}, out=tmp_path)
    plan()
    assert seen[-2:] == [60, 90]
    # A damaged file does not stop planning: the last good weights stay.
    (tmp_path / "nvlink-classifier.safetensors").write_bytes(b"x")
    assert any("those from before" in line for line in plan().warnings)
    assert seen[-1] == 90


def test_live_history_refits_the_classifier(tmp_path):
    from qcluster.deadline import Deadline
    from qcluster.q_nvlink import NVLinkPlanner

    state, planner = mesh_snapshot(), NVLinkPlanner({})
    stored = planner.plan(state, None, {}, deadline=Deadline.after(2.0)).to_dict()
    lines = []
    for i in range(40):
        layout = json.loads(json.dumps(stored["params"]["layout"]))
        layout["contended"] = i % 2 == 0
        name = next(iter(layout["features"]))
        layout["features"][name] += i % 2
        lines.append(json.dumps({**stored, "params": {"layout": layout}}))
    path = tmp_path / "plans.jsonl"
    path.write_text("\n".join(lines))
    found = train_classifier({"history": str(path)}, out=tmp_path)
    assert found["rows"] == 40
    assert found["balanced_accuracy"] > 0.9
