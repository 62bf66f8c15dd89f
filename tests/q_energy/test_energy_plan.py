"""The power plan, the live planner, the HTTP question, the table and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.cli import main
from qcluster.deadline import Deadline
from qcluster.errors import FormatError, Infeasible, InputError, NotReady, SolverFailed
from qcluster.q_energy import EnergyConfig, EnergyPlan, EnergyPlanner, Task, plan_energy, recommend
from qcluster.q_energy.capping import CapProblem, dual_bound, predicted_speed, solve_caps
from qcluster.q_energy.curves import clock_share, speed
from qcluster.q_energy.jobs import job_tasks, read_jobs
from qcluster.q_energy.requests import EnergyPlanRequest
from qcluster.q_energy.traces import as_trace
from qcluster.q_energy.units import Units
from qcluster.request import parse_request
from qcluster.telemetry import Accelerator, Job, Node, Snapshot, Topology


def make_units(seed: int, n: int = 24, nodes: int = 6) -> Units:
    rng = np.random.default_rng(seed)
    demand = rng.uniform(200, 700, n)
    return Units(
        kind="gpu",
        ids=tuple(f"g{i}" for i in range(n)),
        nodes=tuple(f"n{i}" for i in range(nodes)),
        node=np.arange(n) % nodes,
        min_w=np.full(n, 200.0),
        max_w=np.full(n, 700.0),
        p50_w=0.9 * demand,
        demand_w=demand,
        idle_w=np.minimum(140.0, 0.9 * demand),
        memory=rng.uniform(0, 0.8, n),
        overhead_w=np.full(nodes, 500.0),
    )


def snapshot(power: list[float], **changes: Any) -> Snapshot:
    topology = Topology(
        nodes=(
            Node(id="a", gpus=2, model="H100", min_w=200, max_w=700, clocks_mhz=(500, 1000, 1980)),
            Node(id="b", gpus=2, model="H100", min_w=200, max_w=700),
        ),
        accelerators=(Accelerator(id="q", idle_w=50, active_w=900),),
    )
    fields: dict[str, Any] = {
        "seq": 1,
        "ts_s": 1.0,
        "topology": topology,
        "alive": np.ones(4, bool),
        "gpu": {"power_w": np.array(power)},
    }
    return Snapshot(**{**fields, **changes})


def planned(planner: EnergyPlanner, snap: Snapshot, previous: Any = None) -> EnergyPlan:
    plan = planner.plan(snap, previous, {}, deadline=Deadline.after(1.0))
    planner.verify(plan, snap)
    return plan


@given(st.floats(0, 0.9), st.floats(300, 700))
def test_speed_rises_and_is_concave_up_to_the_demand(memory: float, demand: float) -> None:
    caps = np.linspace(200, 800, 61)
    value = speed(caps, demand, 140.0, memory)
    assert (np.diff(value) >= -1e-12).all()
    assert value[caps >= demand].min() == 1.0
    below = caps <= demand
    assert (np.diff(value[below], 2) <= 1e-9).all()
    assert clock_share(140.0, demand, 140.0) == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_no_caps_beat_the_bound_and_ours_come_close(seed: int, part: float) -> None:
    units = make_units(seed)
    low, high = units.min_w.sum(), np.maximum(units.demand_w, units.min_w).sum()
    problem = CapProblem.of(units, 3000.0 + low + part * (high - low))
    bound = -dual_bound(problem)
    answer = solve_caps(problem, shared=True, deadline=Deadline.after(1.0))
    assert answer.value.sum() <= problem.cap_budget_w + 1e-6
    assert bound - 2e-3 * units.n <= -answer.certificate.objective <= bound + 1e-9
    rng = np.random.default_rng(seed)
    for _ in range(20):
        extra = rng.dirichlet(np.ones(units.n)) * (problem.cap_budget_w - low)
        caps = np.minimum(units.min_w + extra, 700.0)
        assert predicted_speed(units, caps).sum() <= bound + 1e-9


def test_shared_budget_beats_independent_nodes_and_both_keep_it() -> None:
    problem = CapProblem.of(make_units(1), 3000.0 + 24 * 330)
    shared = solve_caps(problem, shared=True, deadline=Deadline.after(1.0))
    alone = solve_caps(problem, shared=False, deadline=Deadline.after(1.0))
    assert shared.certificate.objective < alone.certificate.objective
    assert alone.certificate.baselines["concave-hull"] == pytest.approx(
        shared.certificate.objective, rel=1e-6
    )
    assert alone.solver.used == "independent"


def test_budget_below_the_floors_names_the_smallest() -> None:
    with pytest.raises(Infeasible, match="smallest feasible budget is 7800 W"):
        CapProblem.of(make_units(0), 7000.0)


def test_plan_from_a_frame_with_a_topology() -> None:
    frame = pd.DataFrame(
        {
            "ts_s": [0, 0, 0, 0],
            "node": ["a", "a", "b", "b"],
            "gpu": [0, 1, 0, 1],
            "power_w": [650.0, 300.0, 640.0, 100.0],
        }
    )
    nodes = [{"id": name, "gpus": 2, "model": "H100"} for name in "ab"]
    plan = plan_energy(frame, {"nodes": nodes}, budget_w=1500.0)
    assert plan.gpus == ("a/0", "a/1", "b/0", "b/1")
    assert plan.caps_w.sum() <= 1500.0
    assert (plan.caps_w >= 200).all()
    assert plan.caps_w[0] > plan.caps_w[1] > 0
    assert plan.throughput <= plan.upper_bound
    assert plan.objective <= min(plan.baselines.values())
    assert plan.predicted_savings.baseline == "uncapped draw"
    assert plan.predicted_savings.energy_j > 0
    assert EnergyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_unmetered_gpus_are_assumed_at_full_demand() -> None:
    frame = pd.DataFrame({"ts_s": [0], "node": ["a"], "power_w": [3000.0]})
    nodes = [{"id": name, "gpus": 2, "min_w": 100, "max_w": 1000} for name in "ab"]
    plan = plan_energy(frame, {"nodes": nodes}, budget_w=5000.0)
    assert any("2 GPUs have no power reading" in line for line in plan.warnings)
    assert plan.overhead_w == pytest.approx(0.3 * 3000)


@pytest.mark.parametrize(
    ("telemetry", "topology", "words"),
    [
        (pd.DataFrame({"ts_s": [0], "power_w": [1]}), None, "node"),
        (5, None, "wants a Snapshot"),
        (
            pd.DataFrame({"ts_s": [0], "node": ["x"], "power_w": [1.0]}),
            {"nodes": [{"id": "a", "gpus": 1, "model": "H100"}]},
            "'x' of the telemetry",
        ),
        (
            pd.DataFrame({"ts_s": [0], "node": ["a"], "power_w": [1.0]}),
            {"nodes": [{"id": "a", "gpus": 1}]},
            "no power limits",
        ),
    ],
)
def test_bad_telemetry_is_named(telemetry: Any, topology: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        plan_energy(telemetry, topology)


def test_a_recorded_reading_far_above_the_limit_is_refused() -> None:
    frame = pd.DataFrame({"ts_s": [0.0, 1.0], "node": "a", "gpu": 0, "power_w": [300.0, 1500.0]})
    with pytest.raises(InputError, match=r"a/0 reads 1500 W, more than 1.5 times.*700 W"):
        plan_energy(frame, {"nodes": [{"id": "a", "gpus": 1, "model": "H100"}]}, budget_w=500.0)


def test_a_live_reading_far_above_the_limit_is_left_out_and_said() -> None:
    snap = snapshot([650, 1500, 640, 30])
    lost = snapshot([650, np.nan, 640, 30])
    plan, same = (planned(EnergyPlanner({"budget_w": 1300.0}), one) for one in (snap, lost))
    np.testing.assert_allclose(plan.caps_w, same.caps_w)
    assert any("1500 W of 'a/1'" in line for line in plan.warnings)
    assert any("1500 W" in line for line in plan_energy(snap, budget_w=1300.0).warnings)


def test_stamps_in_a_frame_need_a_zone() -> None:
    nodes = {"nodes": [{"id": "a", "gpus": 1, "model": "H100"}]}
    stamps = pd.to_datetime(["2026-01-01", "2026-01-02"])
    frame = pd.DataFrame({"ts_s": stamps, "node": "a", "gpu": 0, "power_w": [1.0, 2.0]})
    with pytest.raises(InputError, match="no time zone"):
        plan_energy(frame, nodes, budget_w=500.0)
    frame["ts_s"] = stamps.tz_localize("Europe/Berlin")
    assert as_trace(frame).ts_s[0] == pytest.approx(1767225600.0 - 3600.0)
    assert plan_energy(frame, nodes, budget_w=500.0).caps_w.sum() <= 500.0


def test_jobs_are_scheduled_with_their_own_deadlines() -> None:
    jobs = [
        Job(id="a", gpus=1, duration_s=60, power_w=500, deadline_s=70),
        Job(id="b", gpus=1, duration_s=60, power_w=500, after=("a",)),
        Job(id="c", gpus=1, duration_s=50, power_w=500, deadline_s=240),
        Job(id="d", gpus=1),
    ]
    frame = pd.DataFrame({"ts_s": [0], "node": ["a"], "power_w": [1000.0]})
    plan = plan_energy(frame, jobs=jobs)
    schedule = plan.schedule
    assert schedule is not None
    assert set(schedule.start) == {"a", "b", "c"}
    assert schedule.peak_w == 500
    step = schedule.notes["step_s"]
    assert schedule.start["a"] * step + 60 <= 70 + step
    assert plan_energy(frame, jobs=[Job(id="d", gpus=1)]).schedule is None
    with pytest.raises(InputError, match=r"jobs\.d"):
        job_tasks([*jobs, Job(id="e", gpus=1, duration_s=1, power_w=1, after=("d",))],
                  EnergyConfig())  # fmt: skip
    tasks = [Task("x", 2, 3000.0), Task("y", 2, 3000.0)]
    over = plan_energy(frame, jobs=tasks, budget_w=900, config=EnergyConfig(stretch=2.0))
    assert over.schedule is not None
    assert over.schedule.peak_w == 3000
    assert any("over the budget" in line for line in over.warnings)


def test_planner_plans_verifies_and_says_what_is_missing() -> None:
    planner = EnergyPlanner({"budget_w": 1550.0})
    planner.warm_up()
    plan = planned(planner, snapshot([650, 300, 640, 100]))
    assert plan.overhead_w == 50
    assert plan.caps_w.sum() + plan.overhead_w <= 1550
    assert plan.nodes[0].freq_cap_mhz["a/0"] in (500, 1000, 1980)
    assert plan.active_accelerators == {"gpu": 4, "quantum": 0}
    assert plan.planner == "energy"
    with pytest.raises(NotReady, match="no topology"):
        planner.plan(snapshot([], topology=Topology()), None, {}, deadline=Deadline.after(1))
    with pytest.raises(NotReady, match="no power reading"):
        planner.plan(snapshot([], gpu={}), None, {}, deadline=Deadline.after(1))


def test_default_budget_is_a_share_of_nameplate_with_a_warning() -> None:
    plan = planned(EnergyPlanner({}), snapshot([650, 300, 640, 100]))
    assert plan.budget_w == pytest.approx(0.8 * (2800 + 50))
    assert any("80% of nameplate" in line for line in plan.warnings)


def test_gpus_at_their_limit_are_assumed_to_want_more() -> None:
    snap = snapshot([300, 300, 300, 300])
    gpu = {**snap.gpu, "power_limit_w": np.array([300.0, 700, 700, 700])}
    plan = planned(EnergyPlanner({"budget_w": 2000.0}), replace(snap, gpu=gpu))
    assert plan.caps_w[0] > plan.caps_w[1]
    assert any("1 GPUs run at their limit" in line for line in plan.warnings)


def test_node_power_stands_in_for_boards_and_history_for_peaks() -> None:
    snap = snapshot(
        [],
        gpu={"sm_active": np.full(4, 0.5), "dram_active": np.full(4, 0.5)},
        node={"node_power_w": np.array([1000.0, 500.0])},
        power_ts_s=np.arange(20.0),
        power_w=np.concatenate([np.full((10, 2), 1200.0), np.full((10, 2), 1000.0)]),
    )
    plan = planned(EnergyPlanner({"budget_w": 2800.0}), snap)
    assert plan.overhead_w == pytest.approx(0.3 * 1500 + 50)
    # 0.7 * 1000 / 2, raised by the history's peak and the margin.
    assert plan.nodes[0].predicted_power_w["p95"] > 1000


def test_move_budget_and_ramp_hold_between_plans() -> None:
    start = EnergyPlanner({"budget_w": 1800.0})
    first = planned(start, snapshot([650, 300, 640, 100]))
    sticky = EnergyPlanner({"budget_w": 1800.0, "max_moved": 0.5, "max_ramp_w": 1e6})
    second = planned(sticky, snapshot([300, 650, 100, 640]), first)
    assert np.count_nonzero(np.abs(second.caps_w - first.caps_w) > 0.5) <= 2
    ramp = EnergyPlanner({"budget_w": 2600.0, "max_ramp_w": 100.0})
    low = planned(EnergyPlanner({"budget_w": 1300.0}), snapshot([650, 650, 650, 650]))
    third = planned(ramp, snapshot([650, 650, 650, 650]), low)
    assert 0 < third.caps_w.sum() - low.caps_w.sum() <= 100 + 1e-6
    with pytest.raises(InputError, match="need qaoa, gnn or meta"):
        EnergyPlanner({"gnn": False, "max_ramp_w": 1.0})
    # The budget falls further than the ramp reaches: the budget wins, and says so.
    drop = EnergyPlanner({"budget_w": 1000.0, "max_ramp_w": 10.0})
    fourth = planned(drop, snapshot([650, 650, 650, 650]), low)
    assert fourth.caps_w.sum() + fourth.overhead_w <= 1000
    assert any("limits lifted" in line for line in fourth.warnings)


def test_verify_refuses_what_cannot_be_carried_out() -> None:
    planner, snap = EnergyPlanner({"budget_w": 1550.0}), snapshot([650, 300, 640, 100])
    plan = planned(planner, snap)
    broken: list[Any] = [
        replace(plan, caps_w=plan.caps_w + 400),
        replace(plan, caps_w=plan.caps_w * 0.1),
        replace(plan, caps_w=plan.caps_w[:2]),
        replace(plan, budget_w=100.0),
        replace(plan, gpus=("x",) * 4),
        replace(plan, throughput=5.0),
        replace(plan, overhead_w=0.0),
    ]
    for bad in broken:
        with pytest.raises(SolverFailed):
            planner.verify(bad, snap)


def test_request_example_works_and_bad_bodies_are_named() -> None:
    plan = parse_request("energy.plan", EnergyPlanRequest.example).run()
    assert plan.schedule is not None
    assert plan.caps_w.sum() <= 1600
    body = {**EnergyPlanRequest.example, "telemetry": [{"ts_s": 0, "node": "a", "power_w": -1}]}
    with pytest.raises(InputError, match=r"telemetry, row 1.*negative"):
        parse_request("energy.plan", body).run()
    with pytest.raises(InputError, match=r"config\.nope"):
        parse_request("energy.plan", {**EnergyPlanRequest.example, "config": {"nope": 1}})


@pytest.mark.parametrize(
    ("workload", "hardware", "toggles", "on"),
    [
        ("Recurrent training job", "Available", "QAOA + Hybrid meta-learning", {"qaoa", "meta"}),
        ("Transformer inference", "Limited", "Classical GNN only", {"gnn"}),
        ("Mixed batch workloads", "Busy quantum hardware", "Hybrid meta-learning", {"meta"}),
        ("Power constrained", "None", "Classical fallback", set()),
    ],
)
def test_recommendation_rows(workload: str, hardware: str, toggles: str, on: set[str]) -> None:
    found = recommend(workload=workload.lower(), hardware=hardware)
    assert found.row["Recommended Toggles"] == toggles
    assert {name for name in ("qaoa", "gnn", "meta") if getattr(found.config, name)} == on


def test_outside_the_table_the_choices_are_listed() -> None:
    with pytest.raises(ValueError, match="Power constrained with None"):
        recommend(workload="mining", hardware="None")


def test_job_files_by_ending(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    path.write_text('[{"id": "a", "gpus": 1, "duration_s": 5, "power_w": 9}]')
    assert read_jobs(path)[0].id == "a"
    path.write_text("[")
    with pytest.raises(FormatError, match=r"jobs\.json: is not JSON"):
        read_jobs(path)
    with pytest.raises(FormatError, match="absent"):
        read_jobs(tmp_path / "absent.json")


def test_command_on_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "power.csv"
    path.write_text("node,ts_s,power_w\n" + "\n".join(f"n{i},0,{500 + i}" for i in range(20)))
    assert main(["energy", str(path), "--budget-w", "8000"]) == 0
    out = capsys.readouterr()
    assert "proven" not in out.out
    assert "8000 W" in out.out
    assert "4 more nodes" in out.err
    assert main(["energy", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["planner"] == "energy"
    assert main(["energy", str(path), "--budget-w", "10"]) == 2
    assert "smallest feasible budget" in capsys.readouterr().err
    assert main(["energy", str(tmp_path / "absent.csv")]) == 2


def test_command_on_a_project(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = str(data_dir / "energy" / "psplib" / "j30" / "j301_2.sm")
    assert main(["energy", project, "--stretch", "1.0", "--deadline-s", "0.2"]) == 0
    assert "proven bound" in capsys.readouterr().out
    assert main(["energy", project, "--deadline", "10"]) == 2
    assert "32 steps below the critical path" in capsys.readouterr().err


def test_command_on_the_real_cluster_trace(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_dir / "energy"
    trace = str(folder / "mlperf_power" / "gpt3_64node_run0.csv.gz")
    jobs = str(folder / "psplib" / "j30" / "j301_2.sm")
    assert main(["energy", trace, "--jobs", jobs, "--json", "--deadline-s", "0.3"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["gpus"]) == 64
    assert sum(plan["caps_w"]) <= plan["budget_w"] + 1e-6
    assert plan["schedule"]["peak_w"] > 0


def test_nvlink_is_shared_by_the_traffic_predicted_under_the_caps() -> None:
    snap = snapshot([650, 640, 300, 100])
    gpu = {**snap.gpu, "nvlink_tx_gb_s": np.array([30.0, 30.0, 20.0, np.nan])}
    plan = planned(EnergyPlanner({"budget_w": 1300.0}), replace(snap, gpu=gpu))
    shares = [node.nvlink_share for node in plan.nodes]
    assert sum(shares) == pytest.approx(1.0)
    # The busy node is slowed more, so it sends a smaller part than the 75 % of now.
    assert 0.5 < shares[0] < 0.75
    assert planned(EnergyPlanner({"budget_w": 1300.0}), snap).nodes[0].nvlink_share is None
