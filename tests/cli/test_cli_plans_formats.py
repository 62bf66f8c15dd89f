"""``qcluster plans show --format``: stored plans and plan files as others read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.journal import Journal
from qcluster.cli import main

PLAN: dict[str, Any] = {
    "planner": "nvlink",
    "plan_id": "0001",
    "created_at": 1.7e9,
    "assignment": {"job": ["a/0", "a/1", "b/0", "b/1"]},
    "jobs": [{"id": "job", "gpus": ["a/0", "a/1", "b/0", "b/1"], "bandwidth_gb_s": 50.0}],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    return str(path)


def test_one_file_goes_to_stdout_and_notes_to_stderr(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plans", "show", file, "--format", "slurm"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("#!/bin/bash\n#SBATCH --job-name=job\n")
    assert "no topology given" in told.err


def test_files_go_to_a_directory(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text("nodes: [{id: a, gpus: 2, domain: r}, {id: b, gpus: 2, domain: r}]")
    out = tmp_path / "out"
    command = ["plans", "show", file, "-f", "slurm", "--topology", str(topology), "-o", str(out)]
    assert main(command) == 0
    listed = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert listed == {path.name for path in out.iterdir()}
    assert "BlockName=r Nodes=[a-b]" not in (out / "topology.conf").read_text()
    assert "BlockName=r Nodes=a,b" in (out / "topology.conf").read_text()


def test_a_stored_plan_is_found_by_its_planner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path)
    journal.append(PLAN | {"telemetry": {}, "solver": {}, "gap": None, "objective": 1.0}, 1.0)
    journal.close()
    state = ["--state-dir", str(tmp_path)]
    assert main(["plans", "show", "latest:nvlink", "-f", "ranks", *state]) == 0
    assert capsys.readouterr().out.startswith("rank 0=a slot=0\nrank 1=a slot=1\nrank 2=b slot=0")
    assert main(["plans", "show", "latest:nvlink", *state]) == 0
    assert json.loads(capsys.readouterr().out)["plan_id"] == "0001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "trtllm"], "field '--format': wants one of vllm, "),
        (["-f", "vllm"], "vllm is made of a plan of routing; this one is of nvlink"),
        (["-f", "ranks", "--job", "x"], "the plan has no such job; it has job"),
        (["-f", "sglang", "--dense-layers", "-1"], "--dense-layers"),
        (["-f", "slurm", "--topology", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_bad_usage_is_one_line(
    file: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plans", "show", file, *arguments]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1


def test_a_placement_of_the_command_line_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load, placed = tmp_path / "load.csv", tmp_path / "placement.json"
    load.write_text("3,1,9,2\n1,5,2,2\n")
    given = ["place", str(load), "--gpus", "2", "--nodes", "1", "--slots", "6", "--json"]
    assert main(given) == 0
    placed.write_text(capsys.readouterr().out)
    assert main(["plans", "show", str(placed), "-f", "sglang"]) == 0
    told = capsys.readouterr()
    assert (
        json.loads(told.out)["physical_to_logical_map"] == json.loads(placed.read_text())["slots"]
    )
    assert "2 ranks of 3 slots, 2 redundant" in told.err


@pytest.mark.parametrize("text", ["[]", "{}", '{"planner": 3}', '{"planner": NaN}', "{", ""])
def test_files_that_are_no_plans_are_named(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["plans", "show", str(path), "-f", "slurm"]) == 2
    assert "bad.json" in capsys.readouterr().err
