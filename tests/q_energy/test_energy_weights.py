"""What ``qcluster train`` wrote is what plans then use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from actors.journal import Journal
from qcluster.cli import main
from qcluster.deadline import Deadline
from qcluster.errors import FormatError, InputError
from qcluster.q_energy import EnergyPlanner, plan_energy
from qcluster.q_energy.curve_net import CurveNet, default_net
from qcluster.q_energy.meta import MetaNet, default_meta
from qcluster.q_energy.nets import CURVES, META, nets_in
from qcluster.q_energy.recap import plan_units_of
from qcluster.q_energy.requests import EnergyPlanRequest
from qcluster.q_energy.training import train_gnn, train_meta
from qcluster.request import parse_request
from qcluster.telemetry import Node, Snapshot, Topology

NODES = ("a", "b", "c")


def sweep_file(path: Path, power: float) -> Path:
    """Two jobs whose speed falls as the limit to this power."""
    rows = [
        (job, limit, min(limit, draw), 100.0 / min(1.0, limit / draw) ** power)
        for job, draw in (("x", 240.0), ("y", 180.0))
        for limit in (100, 125, 150, 175, 200, 225, 250)
    ]
    pd.DataFrame(rows, columns=["job", "power_limit_w", "power_w", "seconds"]).to_csv(path)
    return path


def trained(folder: Path, power: float = 0.05) -> Path:
    data = sweep_file(folder / "sweep.csv", power)
    train_gnn({"data": str(data), "generated": 0, "epochs": 60}, out=folder)
    return folder


def cluster() -> Snapshot:
    nodes = tuple(Node(id=name, gpus=1, model="V100", min_w=100.0, max_w=250.0) for name in NODES)
    return Snapshot(
        seq=1, ts_s=1.0, topology=Topology(nodes=nodes), alive=np.ones(3, bool),
        gpu={"power_w": np.array([225.0, 175.0, 230.0])},
    )  # fmt: skip


def test_trained_curves_decide_the_predicted_speed(tmp_path: Path) -> None:
    config = {"weights": str(trained(tmp_path))}
    ours = plan_energy(cluster(), budget_w=420.0, config=config)
    plain = plan_energy(cluster(), budget_w=420.0)
    assert ours.throughput > plain.throughput + 0.05, "the sweep says that caps cost little"
    planner = EnergyPlanner({**config, "budget_w": 420.0})
    live = planner.plan(cluster(), None, {}, deadline=Deadline.after(60.0))
    planner.verify(live, cluster())
    EnergyPlanner().verify(live, cluster())
    assert live.throughput == pytest.approx(ours.throughput)
    units, _ = plan_units_of(live, cluster())
    assert not np.allclose(units.memory, 0.3)


def test_a_refit_takes_effect_at_the_next_plan_and_a_broken_one_does_not(tmp_path: Path) -> None:
    trained(tmp_path)
    planner = EnergyPlanner({"weights": str(tmp_path), "budget_w": 420.0})

    def plan() -> tuple[float, list[str]]:
        found = planner.plan(cluster(), None, {}, deadline=Deadline.after(60.0))
        planner.verify(found, cluster())
        return found.throughput, found.warnings

    first, _ = plan()
    trained(tmp_path, 1.0)
    os.utime(tmp_path / CURVES, ns=(1, 1))
    second, _ = plan()
    assert second < first - 0.05
    (tmp_path / CURVES).write_bytes(b"cut")
    third, lines = plan()
    assert third == second
    assert any(CURVES in line and "those from before are used" in line for line in lines)
    fresh = EnergyPlanner({"weights": str(tmp_path / "none"), "budget_w": 420.0})
    lines = fresh.plan(cluster(), None, {}, deadline=Deadline.after(60.0)).warnings
    assert any("those of the package are used" in line for line in lines)


def test_a_directory_may_hold_either_network(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=rf"{tmp_path}.*has neither"):
        nets_in(tmp_path)
    train_meta({"epochs": 1, "generated": 1}, out=tmp_path)
    nets = nets_in(tmp_path)
    assert nets.curves is default_net()
    assert nets.meta is not default_meta()
    assert nets_in(tmp_path) is nets, "read once"
    assert nets_in(None).meta is default_meta()
    (tmp_path / META).with_suffix(".json").unlink()
    with pytest.raises(FormatError, match=META):
        nets_in(tmp_path)
    assert isinstance(nets.meta, MetaNet)
    assert isinstance(nets.curves, CurveNet)


def test_the_command_takes_weights_and_a_request_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    power = tmp_path / "power.csv"
    power.write_text("ts_s,node,gpu,power_w\n0,a,0,225\n0,b,0,175\n0,c,0,230\n")
    topology = tmp_path / "cluster.json"
    rows = [{"id": n, "gpus": 1, "model": "V100", "min_w": 100, "max_w": 250} for n in NODES]
    topology.write_text(json.dumps({"nodes": rows}))
    asked = ["energy", str(power), "--topology", str(topology), "--budget-w", "420", "--json"]
    assert main([*asked, "--weights", str(tmp_path)]) == 2
    assert "has neither" in capsys.readouterr().err
    trained(tmp_path)
    speeds = []
    for more in ([], ["--weights", str(tmp_path)]):
        assert main([*asked, *more]) == 0
        speeds.append(json.loads(capsys.readouterr().out)["throughput"])
    assert speeds[1] > speeds[0] + 0.05
    body = {**EnergyPlanRequest.example, "config": {"weights": str(tmp_path)}}
    with pytest.raises(InputError, match=r"'config\.weights'.*names no files"):
        parse_request("energy.plan", body).run()


def test_the_controller_is_refitted_from_a_servers_store(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for k in range(12):
        plan = {
            "plan_id": f"p{k}", "planner": "energy", "created_at": float(k),
            "choice": {"category": "ring" if k < 6 else "tree"},
            "costs": {"classical": 1.0, "gnn": 1.1} if k else {},
        }  # fmt: skip
        journal.append(plan, "g")
    journal.append({"plan_id": "n", "planner": "nvlink", "created_at": 99.0}, "g")
    for data in (tmp_path, tmp_path / "plans.sqlite"):
        report = train_meta({"data": str(data), "epochs": 1, "generated": 1}, out=tmp_path / "w")
        # A plan's costs are those of the window before it: the seventh plan's are a ring's.
        assert (report["categories"], report["windows"]) == (2, 11)
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"SQLite format 3\x00" + b"x" * 100)
    with pytest.raises(FormatError, match=r"damaged\.sqlite: is no store of plans"):
        train_meta({"data": str(damaged)}, out=tmp_path)
    with pytest.raises(FormatError, match=r"plans\.sqlite"):
        train_meta({"data": str(tmp_path / "w")}, out=tmp_path)
