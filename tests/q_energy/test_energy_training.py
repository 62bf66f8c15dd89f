"""Training from files: what is written loads again, and bad files are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.curve_net import CurveNet
from qcluster.q_energy.curves import speed
from qcluster.q_energy.meta import MetaNet, MetaState, choose
from qcluster.q_energy.training import read_sweep, train_gnn, train_meta
from qcluster.trainings import training


def sweep_file(path: Path, jobs: int = 6) -> Path:
    """Jobs on a 400 W GPU that follow the physical model."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(jobs):
        demand, memory = rng.uniform(200, 390), rng.uniform(0.1, 0.6)
        for limit in (150, 200, 250, 300, 350, 400):
            fast = float(speed(limit, demand, 80.0, memory))
            rows.append((f"j{k}", f"g{k % 2}", limit, min(limit, demand), 10.0 / fast))
    names = ["job", "group", "power_limit_w", "power_w", "seconds"]
    pd.DataFrame(rows, columns=names).to_csv(path, index=False)
    return path


def test_curves_are_fitted_to_a_file_and_saved(tmp_path: Path) -> None:
    data = sweep_file(tmp_path / "sweep.csv")
    report = train_gnn({"data": str(data), "generated": 1}, out=tmp_path / "new" / "weights")
    assert report["jobs"] == 6
    assert report["readings"] == 36
    assert report["speed_error"] < 0.05
    found = CurveNet.load(report["weights"]).predict(read_sweep(data).graph)
    assert found.learned.all()


def test_groups_join_jobs(tmp_path: Path) -> None:
    edges = read_sweep(sweep_file(tmp_path / "sweep.csv")).graph.edges
    assert {(int(a) % 2, int(b) % 2) for a, b in edges.T} == {(0, 0), (1, 1)}
    assert edges.shape == (2, 12)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda f: f.drop(columns="seconds"), "seconds"),
        (lambda f: f.assign(power_w=f["power_w"].where(f.index != 3)), r"row 5.*power_w"),
        (lambda f: f.assign(seconds=f["seconds"].where(f.index != 0, -1.0)), r"row 2.*seconds"),
        (lambda f: f.assign(seconds="fast"), r"row 2.*seconds"),
        (lambda f: f[f["power_limit_w"] > 340], "at least 3 limits"),
    ],
)
def test_a_bad_sweep_is_named_by_row_and_field(tmp_path: Path, edit, named: str) -> None:
    path = sweep_file(tmp_path / "sweep.csv")
    edit(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(FormatError, match=named):
        read_sweep(path)


def test_a_sweep_of_a_spreadsheet_reads_alike(tmp_path: Path) -> None:
    path = sweep_file(tmp_path / "sweep.csv")
    wide = tmp_path / "wide.csv"
    pd.read_csv(path).to_csv(wide, index=False, sep=";", decimal=",", encoding="utf-16")
    ours, theirs = read_sweep(path).graph, read_sweep(wide).graph
    assert np.array_equal(ours.features, theirs.features)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.csv"):
        read_sweep(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(FormatError, match=r"x\.csv"):
        read_sweep(tmp_path / "x.csv")


def test_the_controller_is_fitted_to_stored_plans(tmp_path: Path) -> None:
    plans = [
        {"choice": {"category": "ring"}, "costs": {"classical": 1.2, "gnn": 1.0}} for _ in range(30)
    ]
    data = tmp_path / "plans.jsonl"
    data.write_text("\n".join(map(json.dumps, plans)) + "\n\n")
    report = train_meta({"data": str(data), "generated": 4, "epochs": 30}, out=tmp_path)
    assert (report["categories"], report["windows"]) == (1, 30)
    net = MetaNet.load(report["weights"])
    assert choose(MetaState(), "ring", ("classical", "gnn"), net).pipeline == "classical"


def test_bad_plans_and_settings_are_named(tmp_path: Path) -> None:
    data = tmp_path / "plans.jsonl"
    data.write_text('{"choice": null}\n{')
    with pytest.raises(FormatError, match="row 2"):
        train_meta({"data": str(data)}, out=tmp_path)
    data.write_text("[1]")
    with pytest.raises(FormatError, match="wants a plan"):
        train_meta({"data": str(data)}, out=tmp_path)
    with pytest.raises(InputError, match="epochs"):
        train_meta({"epochs": 0}, out=tmp_path)
    with pytest.raises(InputError, match=r"config\.data"):
        train_gnn({}, out=tmp_path)


def test_both_are_kinds_of_the_train_verb(tmp_path: Path) -> None:
    data = sweep_file(tmp_path / "sweep.csv")
    function, rest = training({"kind": "energy-gnn", "data": str(data), "epochs": 2})
    assert function(rest, out=tmp_path, resume=False, note=print)["kind"] == "energy-gnn"
    function, rest = training({"kind": "energy-meta", "epochs": 1, "generated": 1})
    assert function(rest, out=tmp_path, resume=False, note=print)["generated"] == 1


def test_sweeps_as_zeus_publishes_them(tmp_path: Path) -> None:
    head = "dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power\n"
    rows = [
        f"cifar100,shufflenetv2,{batch},adam,{limit},{2000 / limit},{0.9 * limit}\n"
        for batch in (64, 128)
        for limit in (100, 150, 200)
    ]
    path = tmp_path / "zeus.csv"
    path.write_text(head + "".join(rows))
    sweep = read_sweep(path)
    assert sweep.graph.n == 2
    assert len(sweep.cap) == 6
    assert sweep.graph.edges.shape == (2, 2), "one network at two batch sizes"
    path.write_text("job,power_limit_w,power_w,seconds\n,100,90,5\n")
    with pytest.raises(FormatError, match=r"row 2.*'job': is empty"):
        read_sweep(path)
