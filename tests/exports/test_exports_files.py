"""Runs of MLflow, rank files and NCCL graphs, and how files are written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcluster.errors import FormatError, InputError
from qcluster.exports import FORMATS, Export, Settings, export, write

Plans = dict[str, dict[str, Any]]


def run_of(plan: dict[str, Any], folder: Path) -> Path:
    write(export(plan, "mlflow"), folder)
    (meta,) = folder.glob("mlruns/*/*/meta.yaml")
    return meta.parent


def test_a_run_has_the_plans_figures_one_a_file(plans: Plans, tmp_path: Path) -> None:
    plan = plans["energy"]
    run = run_of(plan, tmp_path)
    meta = yaml.safe_load((run / "meta.yaml").read_text())
    assert meta["run_name"] == plan["plan_id"]
    assert meta["start_time"] <= meta["end_time"] == int(plan["created_at"] * 1000)
    ms, value, step = (run / "metrics" / "objective").read_text().split()
    assert (int(ms), float(value), step) == (meta["end_time"], plan["objective"], "0")
    assert (
        float((run / "metrics" / "baselines.common-cap").read_text().split()[1])
        == (plan["baselines"]["common-cap"])
    )
    assert (run / "params" / "config.gnn").read_text() == json.dumps(plan["config"]["gnn"])
    assert (run / "tags" / "simulated").read_text() == "true"
    assert json.loads((run / "artifacts" / "plan.json").read_text()) == plan


def test_runs_of_one_planner_share_an_experiment(plans: Plans, tmp_path: Path) -> None:
    first = run_of(plans["energy"], tmp_path / "a")
    second = run_of(plans["energy"] | {"plan_id": "another"}, tmp_path / "b")
    third = run_of(plans["nvlink"], tmp_path / "c")
    assert first.parent.name == second.parent.name != third.parent.name
    assert first.name != second.name


def test_figures_that_are_unknown_are_left_out(plans: Plans, tmp_path: Path) -> None:
    run = run_of(plans["nvlink"] | {"gap": None, "objective": 1}, tmp_path)
    assert not (run / "metrics" / "gap").exists()
    assert (run / "metrics" / "objective").exists()


@pytest.mark.parametrize("change", [{"plan_id": None}, {"created_at": None}, {"created_at": True}])
def test_a_plan_without_id_or_time_is_no_run(plans: Plans, change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=next(iter(change))):
        export(plans["energy"] | change, "mlflow")


def test_a_configurations_key_cannot_leave_the_run(plans: Plans, tmp_path: Path) -> None:
    plan = plans["nvlink"] | {"config": {"../../../../evil": 1}}
    with pytest.raises(InputError, match="cannot be a name"):
        write(export(plan, "mlflow"), tmp_path)


def test_rank_files_and_devices_follow_the_order_of_ranks(plans: Plans) -> None:
    jobs = plans["nvlink"]["assignment"]
    for job, gpus in jobs.items():
        (text,) = export(plans["nvlink"], "ranks", Settings(job=job)).files.values()
        rows = [line.split("=") for line in text.splitlines()]
        assert [row[0] for row in rows] == [f"rank {i}" for i in range(len(gpus))]
        assert [row[1].split()[0] for row in rows] == [gpu.split("/")[0] for gpu in gpus]
    (text,) = export(plans["nvlink"], "cuda").files.values()
    for job, hosts in json.loads(text).items():
        order = [f"{host}/{i}" for host, found in hosts.items() for i in found.split(",")]
        assert sorted(order) == sorted(jobs[job])


def test_nccl_gets_a_ring_of_each_job_on_one_host(plans: Plans) -> None:
    found = export(plans["nvlink"], "nccl")
    jobs = plans["nvlink"]["assignment"]
    single = {
        j for j, gpus in jobs.items() if len({g.split("/")[0] for g in gpus}) == 1 < len(gpus)
    }
    assert {name.removesuffix(".graph.xml") for name in found.files} == single
    assert len(found.notes) == len(jobs) - len(single)
    for name, text in found.files.items():
        root = ET.fromstring(text)
        ring = [int(gpu.attrib["dev"]) for gpu in root.iter("gpu")]
        want = [int(gpu.split("/")[1]) for gpu in jobs[name.removesuffix(".graph.xml")]]
        assert ring == want


def test_nccl_without_a_job_on_one_host_is_refused() -> None:
    plan = {"planner": "nvlink", "assignment": {"j": ["a/0", "b/0"]}, "jobs": []}
    with pytest.raises(InputError, match="no job of this plan runs on two or more GPUs"):
        export(plan, "nccl")


def test_files_stay_below_their_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lies outside"):
        write(Export(files={"../evil": "x"}), tmp_path / "here")
    plan = {"planner": "nvlink", "assignment": {"../evil": ["a/0"]}, "jobs": []}
    with pytest.raises(InputError, match="cannot be a file's name"):
        export(plan, "ranks")


def test_written_files_replace_older_ones_whole(tmp_path: Path) -> None:
    write(Export(files={"a/b.txt": "old"}), tmp_path)
    (path,) = write(Export(files={"a/b.txt": "new"}), tmp_path)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_every_format_is_promised_for_some_plan(plans: Plans) -> None:
    for form in FORMATS:
        assert export(plans["joint"], form).files
