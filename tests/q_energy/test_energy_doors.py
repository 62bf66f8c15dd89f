"""Wrong content at every door: one line that names what and where, and no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qcluster.cli import main
from qcluster.deadline import Deadline
from qcluster.errors import FormatError, InputError
from qcluster.q_energy import (
    Curve,
    EnergyPlanner,
    Op,
    allocate_budget,
    fit_forecaster,
    forecast_power,
    pipeline_frontier,
    plan_energy,
    read_psplib,
    select_nodes,
)
from qcluster.q_energy.formats import parse_trace
from qcluster.q_energy.requests import EnergyPlanRequest
from qcluster.request import parse_request
from qcluster.telemetry import Node, Snapshot, Topology

BLANK = 9223372036854775794


def scrape(*watts: object) -> str:
    labels = 'UUID="GPU-{0}",device="nvidia{0}",Hostname="n"'
    rows = [
        f'DCGM_FI_DEV_POWER_USAGE{{gpu="{k}",{labels.format(k)}}} {value}\n'
        for k, value in enumerate(watts)
    ]
    return "# TYPE DCGM_FI_DEV_POWER_USAGE gauge\n" + "".join(rows)


def test_a_scrape_says_why_it_has_no_power() -> None:
    with pytest.raises(FormatError, match="645123 W looks like milliwatts for n/0; wants watts"):
        parse_trace(scrape(645123.0, 71500.0))
    with pytest.raises(FormatError, match="looks like milliwatts for n/1"):
        parse_trace(scrape(300.0, 71500.0))
    with pytest.raises(FormatError, match="no power readings: 2 readings are an exporter's blank"):
        parse_trace(scrape(BLANK, 140737488355328.0))
    trace = parse_trace(scrape(300.0, BLANK, -5.0, "NaN"))
    assert trace.ids == ("n/0",)
    assert [line.partition(",")[0] for line in trace.warnings] == [
        "1 reading is an exporter's blank marker and left out",
        "1 reading is no power that there is and left out",
        "1 places have no reading",
    ]


@pytest.mark.parametrize("seconds", [1e-300, 5e-324, 1e-5])
def test_jobs_of_no_time_are_planned(seconds: float) -> None:
    jobs = [
        {"id": "a", "gpus": 1, "duration_s": seconds, "power_w": 100.0},
        {"id": "b", "gpus": 1, "duration_s": seconds, "power_w": 100.0, "after": ["a"]},
    ]
    plan = parse_request("energy.plan", {**EnergyPlanRequest.example, "jobs": jobs}).run()
    assert plan.schedule.peak_w == 100.0  # type: ignore[attr-defined]


def test_readings_of_a_request_come_in_any_order() -> None:
    rows = [
        {"ts_s": float(t), "node": node, "power_w": 300.0 + t + 100.0 * (node == "b")}
        for t in range(60)
        for node in "ab"
    ]

    def caps(telemetry: list[dict[str, Any]]) -> list[float]:
        body = {"telemetry": telemetry, "budget_w": 700.0}
        return list(parse_request("energy.plan", body).run().caps_w)  # type: ignore[attr-defined]

    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    assert caps(rows) == caps(rows[::-1]) == caps(shuffled)
    with pytest.raises(FormatError, match="telemetry, row 2, field 'power_w': -1 W is negative"):
        caps([rows[5], {**rows[0], "power_w": -1.0}])


def test_an_unknown_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    power = tmp_path / "power.csv"
    power.write_text("ts_s,node,gpu,power_w\n0,a,0,225\n")
    topology = tmp_path / "cluster.json"
    for model, named in (("Zork 9", "GPU model 'Zork 9' is not known"), ("", "names no GPU model")):
        topology.write_text(json.dumps({"nodes": [{"id": "a", "gpus": 1, "model": model}]}))
        assert main(["energy", str(power), "--topology", str(topology)]) == 2
        assert named in capsys.readouterr().err


def test_a_bad_duration_in_a_project_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.sm"
    path.write_text(
        "  - renewable : 1 R\nPRECEDENCE RELATIONS:\n1 1 1 2\n2 1 0\n***\n"
        "REQUESTS/DURATIONS:\n1 1 0 0\n2 1 -4 3\n***\n"
    )
    with pytest.raises(InputError, match=r"x\.sm, field 'task 2\.duration': wants 0 to"):
        read_psplib(path)


def test_python_calls_refuse_what_is_no_list() -> None:
    for wrong in (None, 3, np.zeros(2)):
        with pytest.raises(InputError, match="'curves': wants a list"):
            allocate_budget(wrong, budget_w=1.0)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="'curves': wants a list"):
            select_nodes(wrong, slo_s=1.0, budget_w=1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'runs'"):
        fit_forecaster(None)
    op = Op("a", (1.0,), (1.0,))
    with pytest.raises(InputError, match="'blocking_w'"):
        pipeline_frontier([op], blocking_w="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'devices'.*at least 0, got -1"):
        pipeline_frontier([op], blocking_w=1.0, devices=-1)
    for name in ([1], None, ""):
        with pytest.raises(InputError, match=r"'op\.id'"):
            Op(name, (1.0,), (1.0,))
    assert allocate_budget((Curve([1.0], [2.0]),), budget_w=1.0).value == 2.0


def test_one_history_is_a_run() -> None:
    times = np.arange(160.0)
    frame = pd.DataFrame({"ts_s": times, "node": "a", "power_w": 300 + 50 * np.sin(times / 5)})
    model = fit_forecaster(frame, horizons_s=(2.0,), rounds=5)
    found = forecast_power(frame, horizon_s=2.0, model=model)
    assert list(found.columns) == ["node", "ts_s", "q0.5", "q0.95"]


def test_toggles_that_do_nothing_say_so() -> None:
    frame = pd.DataFrame({"ts_s": [0.0], "node": ["a"], "power_w": [300.0]})
    warnings = plan_energy(frame, config={"hold": "draw"}).warnings
    assert any("hold draw needs live telemetry" in line for line in warnings)
    snapshot = Snapshot(
        seq=1, ts_s=1.0, topology=Topology(nodes=(Node(id="a", gpus=1, min_w=100, max_w=300),)),
        alive=np.ones(1, bool), gpu={"power_w": np.array([200.0])},
    )  # fmt: skip
    planner = EnergyPlanner({"hold": "draw", "meta": True})
    plan = planner.plan(snapshot, None, {}, deadline=Deadline.after(60.0))
    assert "nothing is learned" in plan.reasons["meta"]
