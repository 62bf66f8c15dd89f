"""What a power plan takes as telemetry, topology and configuration, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qcluster.cli import main
from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError
from qcluster.q_energy import EnergyConfig, EnergyPlanner, plan_energy
from qcluster.q_energy.jobs import schedule_jobs
from qcluster.q_energy.traces import as_trace
from qcluster.telemetry import Job, Snapshot, Topology


def test_frames_are_refused_by_column() -> None:
    frame = pd.DataFrame({"ts_s": [0.0, 1.0], "node": "a", "gpu": [0.0, 0.0], "power_w": [5, 6]})
    assert as_trace(frame).ids == ("a/0",)
    for column, value in (("node", None), ("gpu", None), ("power_w", "x"), ("ts_s", "x")):
        with pytest.raises(InputError, match=f"'{column}'"):
            as_trace(frame.assign(**{column: value}))
    with pytest.raises(InputError, match=r"'config': wants EnergyConfig or a mapping, got 3"):
        plan_energy(frame, config=3)  # type: ignore[arg-type]
    odd = {"nodes": [], "accelerators": [{"id": "q", "idle_w": 90, "active_w": 50}]}
    with pytest.raises(InputError, match=r"accelerators\[0\].active_w.*below idle_w = 90"):
        plan_energy(frame, odd)
    with pytest.raises(InputError, match="wants a mapping with 'nodes'"):
        plan_energy(frame, [1])  # type: ignore[arg-type]


def test_a_slow_schedule_does_not_cost_the_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"ts_s": [0.0, 0.0], "node": ["a", "b"], "power_w": [500.0, 100.0]})
    spans = iter((0.0,))

    class Slow:
        """The first deadline is over at once, as after a schedule that took too long."""

        after = staticmethod(lambda seconds: Deadline.after(next(spans, seconds)))

    monkeypatch.setattr("qcluster.q_energy.energy_plan.Deadline", Slow)
    assert plan_energy(frame, budget_w=400.0).solver.used == "concave-hull"


def test_gpus_inside_a_metered_node_count_once() -> None:
    frame = pd.DataFrame(
        {"ts_s": 0.0, "node": ["a", "a", "a"], "gpu": ["0", "1", "x"],
         "power_w": [300.0, 310.0, 900.0]}
    )  # fmt: skip
    trace = as_trace(frame)
    whole = replace(trace, ids=("a/0", "a/1", "a"))
    plan = plan_energy(whole, budget_w=1000.0)
    assert plan.gpus == ("a",)
    assert any("2 GPUs are counted in their nodes'" in line for line in plan.warnings)
    node = {"id": "a", "gpus": 2, "model": "H100"}
    assert plan_energy(whole, {"nodes": [node]}, budget_w=1500.0).overhead_w == 290.0


def _jobs(*rows: dict[str, object]) -> tuple[Job, ...]:
    return Job.parse_all([{"gpus": 1, "power_w": 5.0, **row} for row in rows])


def test_deadlines_are_refused_in_seconds_by_job() -> None:
    first, second = {"id": "a", "duration_s": 50}, {"id": "b", "duration_s": 2.5, "after": ["a"]}
    with pytest.raises(Infeasible, match=r"'b' is done after 52.5 s .* 12.5 s past its deadline"):
        schedule_jobs(_jobs(first, {**second, "deadline_s": 40}), EnergyConfig())
    late = schedule_jobs(_jobs(first, {**second, "deadline_s": 52.5}), EnergyConfig())
    assert late is not None
    assert late.peak_w == 5.0


def test_fractions_of_a_step_do_not_make_a_deadline_impossible() -> None:
    times = {"a": 10.01, "b": 7.3, "c": 3.77}
    rows = [
        {"id": name, "duration_s": seconds, "after": list(times)[:i][-1:], "deadline_s": 21.08}
        for i, (name, seconds) in enumerate(times.items())
    ]
    found = schedule_jobs(_jobs(*rows), EnergyConfig())
    assert found is not None
    step = found.notes["step_s"]
    starts = [found.start[name] * step for name in times]
    assert starts == pytest.approx([0, 10.01, 17.31])


def test_the_verb_tells_where_jobs_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("ts_s,node,gpu,power_w\n0,a,0,300\n0,a,1,310\n")
    topology = {
        "nodes": [{"id": "a", "gpus": 2, "model": "H100"}],
        "accelerators": [{"id": "q", "kind": "quantum", "idle_w": 50, "active_w": 90, "queue": 0}],
    }
    job = {"id": "x", "gpus": 2, "duration_s": 60, "power_w": 600, "accelerator_s": {"quantum": 5}}
    (tmp_path / "topo.json").write_text(json.dumps(topology))
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    verb = ["energy", str(tmp_path / "t.csv")]
    more = ["--topology", str(tmp_path / "topo.json"), "--jobs", str(tmp_path / "jobs.json"),
            "--budget-w", "1000", "--power-modes"]  # fmt: skip
    assert main([*verb, *more]) == 0
    out = capsys.readouterr().out
    assert "2 gpu, 1 quantum" in out
    assert "goes to" in out
    assert "start s" in out
    assert main([*verb, "--deadline", "3"]) == 2
    assert "--deadline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (({"id": "a", "duration_s": 50, "deadline_s": 10},), "40 s past its deadline"),
        (
            ({"id": "a", "duration_s": 5, "after": ["b"]},
             {"id": "b", "duration_s": 5, "after": ["a"]}),
            "wait for each other",
        ),
    ],
)  # fmt: skip
def test_jobs_that_cannot_be_scheduled_do_not_stop_live_caps(
    jobs: tuple[dict[str, object], ...], words: str
) -> None:
    snapshot = Snapshot(
        seq=1,
        ts_s=1.0,
        topology=Topology.parse({"nodes": [{"id": "a", "gpus": 2, "model": "H100"}]}),
        alive=np.ones(2, bool),
        gpu={"power_w": np.array([600.0, 300.0])},
        jobs=_jobs(*jobs),
    )
    planner = EnergyPlanner({"budget_w": 900.0})
    plan = planner.plan(snapshot, None, {}, deadline=Deadline.after(1.0))
    planner.verify(plan, snapshot)
    assert plan.schedule is None
    assert any(words in line for line in plan.warnings)
