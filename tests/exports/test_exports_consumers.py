"""Exports read by the code of those they are for, where QCLUSTER_EXPORT_PEERS says it lies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcluster.exports import Settings, export, write
from qcluster.telemetry import Topology

Plans = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def peers() -> Path:
    named = os.environ.get("QCLUSTER_EXPORT_PEERS")
    if not named:
        pytest.skip("no consumers' code: set QCLUSTER_EXPORT_PEERS")
    return Path(named)


def understood(peers: Path, which: str, needs: str, file: Path, *more: str) -> Any:
    if not (peers / needs).exists():
        pytest.skip(f"{peers} has no {needs}")
    script = Path(__file__).with_name("read_back.py")
    command = [sys.executable, script, which, peers, file, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sglang_starts_with_the_plans_placement(peers: Path, plans: Plans, tmp_path: Path) -> None:
    settings = Settings(dense_layers=1)
    (file,) = write(export(plans["routing"], "sglang", settings), tmp_path)
    found = understood(peers, "sglang", "sglang/expert_location.py", file, "7")
    rows = json.loads(file.read_text())["physical_to_logical_map"]
    assert found["physical"] == rows
    assert found["per_rank"] == 3
    assert all(sum(copies) == 21 for copies in found["copies"])


def test_vllm_derives_the_maps_that_we_wrote(peers: Path, plans: Plans, tmp_path: Path) -> None:
    (file,) = write(export(plans["routing"], "vllm"), tmp_path)
    found = understood(peers, "vllm", "vllm/eplb_state.py", file)
    ours = json.loads(file.read_text())
    assert found["logical"] == ours["logical_to_physical_map"]
    assert found["count"] == ours["logical_replica_count"]


def test_vllm_ascend_reads_every_layer(peers: Path, plans: Plans, tmp_path: Path) -> None:
    (file,) = write(export(plans["routing"], "vllm-ascend"), tmp_path)
    found = understood(peers, "ascend", "vllm_ascend/eplb_utils.py", file)
    (text,) = export(plans["routing"], "sglang").files.values()
    for layer, row in zip(found, json.loads(text)["physical_to_logical_map"], strict=True):
        assert layer["slots"] == 21
        assert [expert for device in layer["placement"] for expert in device] == row


def test_kueues_own_schemas_hold_for_our_objects(
    peers: Path, plans: Plans, topology: Topology
) -> None:
    """The openAPIV3Schema of the installed resource definitions, the version that we name."""
    jsonschema = pytest.importorskip("jsonschema")
    if not (peers / "kueue").is_dir():
        pytest.skip(f"{peers} has no kueue")
    settings = Settings(topology=topology)
    (text,) = export(plans["joint"], "kubernetes", settings).files.values()
    checked = set()
    for path in (peers / "kueue").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        for row in yaml.safe_load_all(text):
            if row["kind"] != definition["names"]["kind"]:
                continue
            version = row["apiVersion"].split("/")[1]
            (schema,) = (
                v["schema"]["openAPIV3Schema"]
                for v in definition["versions"]
                if v["name"] == version and v["served"] and v["storage"]
            )
            jsonschema.Draft7Validator(_closed(schema)).validate(row)
            checked.add(row["kind"])
    assert checked == {"Topology", "ResourceFlavor"}


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused, as an API server warns of them."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed(part) for key, part in schema.items()}
    if isinstance(found.get("properties"), dict) and found["properties"].keys() - {"metadata"}:
        found.setdefault("additionalProperties", False)
    return found


def run_peer(peers: Path, code: str, folder: Path) -> Any:
    python = peers / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{peers} has no environment with mlflow and kubernetes")
    environment = {"MLFLOW_ALLOW_FILE_STORE": "true", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code],
        capture_output=True, text=True, check=False, cwd=folder, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MLFLOW = """
import json, mlflow
client = mlflow.MlflowClient("mlruns")
runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
(run,) = runs
where = client.download_artifacts(run.info.run_id, "plan.json")
print(json.dumps({"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags,
                  "status": run.info.status, "plan": json.load(open(where)),
                  "experiment": client.get_experiment(run.info.experiment_id).name}))
"""


@pytest.mark.parametrize("planner", ["routing", "energy", "nvlink", "joint"])
def test_mlflow_finds_a_finished_run_with_the_plan_in_it(
    peers: Path, plans: Plans, tmp_path: Path, planner: str
) -> None:
    plan = plans[planner]
    for _ in range(2):  # twice the same plan is one run
        write(export(plan, "mlflow"), tmp_path)
    run = run_peer(peers, MLFLOW, tmp_path)
    assert run["status"] == "FINISHED"
    assert run["experiment"] == f"qcluster-{planner}"
    assert run["plan"] == plan
    assert run["metrics"]["objective"] == plan["objective"]
    assert run["tags"]["planner"] == planner
    assert run["params"]["seed"] == str(plan["seed"])
    if planner == "joint":
        assert run["metrics"]["energy.budget_w"] == plan["energy"]["budget_w"]


KUBERNETES = """
import json, sys, yaml
from kubernetes import client
class Response:
    def __init__(self, row): self.data = json.dumps(row)
api, seen = client.ApiClient(), []
for row in yaml.safe_load_all(open("plan.yaml")):
    kind = {"Node": "V1Node", "PodTemplate": "V1PodTemplate"}.get(row["kind"])
    if kind:
        read = api.deserialize(json.dumps(row), kind, "application/json")
        seen.append(api.sanitize_for_serialization(read) == row)
print(json.dumps(seen))
"""


def test_the_python_clients_models_hold_every_field(
    peers: Path, plans: Plans, topology: Topology, tmp_path: Path
) -> None:
    write(export(plans["joint"], "kubernetes", Settings(topology=topology)), tmp_path)
    seen = run_peer(peers, KUBERNETES, tmp_path)
    assert len(seen) >= 2
    assert all(seen)
