"""The toggles in every combination, and the choice among them in live planning."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from test_energy_plan import planned, snapshot

from qcluster.deadline import Deadline
from qcluster.q_energy import EnergyConfig, EnergyPlan, EnergyPlanner
from qcluster.q_energy.capping import CapProblem
from qcluster.q_energy.jobs import job_tasks
from qcluster.q_energy.meta import PIPELINES, SAFE
from qcluster.q_energy.pipelines import category_of, hindsight, pipelines, propose
from qcluster.q_energy.units import units_from_snapshot
from qcluster.telemetry import Job, Node, Topology

JOBS = (
    Job(id="a", gpus=2, kind="ring", duration_s=60, power_w=900),
    Job(id="b", gpus=1, kind="allreduce", duration_s=60, power_w=500, after=("a",)),
    Job(id="c", gpus=1, kind="allreduce", duration_s=90, power_w=400),
)


def known_gpus(power: list[float], **changes: Any) -> Any:
    """A snapshot of GPUs that the shipped network was trained on: 100 to 250 W."""
    nodes = tuple(Node(id=n, gpus=2, model="V100", min_w=100, max_w=250) for n in "ab")
    return snapshot(power, topology=Topology(nodes=nodes), **changes)


@pytest.mark.parametrize("toggles", list(product((False, True), repeat=3)))
def test_every_combination_of_toggles_plans_and_is_verified(toggles: tuple[bool, ...]) -> None:
    qaoa, gnn, meta = toggles
    config = {"qaoa": qaoa, "gnn": gnn, "meta": meta, "budget_w": 700.0}
    snap = known_gpus([240, 120, 230, 60], jobs=JOBS)
    plan = planned(EnergyPlanner(config), snap)
    again = planned(EnergyPlanner(config), replace(snap, seq=2), plan)
    for one in (plan, again):
        assert one.pipeline in pipelines(EnergyConfig.read(config))
        assert one.caps_w.sum() <= 700
        assert EnergyPlan.from_dict(json.loads(json.dumps(one.to_dict()))) == one
        assert (one.choice is not None) == meta


@pytest.mark.parametrize(
    ("toggles", "allowed"),
    [
        ({"gnn": False}, {"independent"}),
        ({}, {"gnn"}),
        ({"qaoa": True, "gnn": False}, {"qaoa"}),
        ({"qaoa": True}, {"gnn+qaoa"}),
        ({"gnn": False, "meta": True}, set(PIPELINES)),
        ({"meta": True}, {SAFE, "gnn"}),
        ({"qaoa": True, "gnn": False, "meta": True}, {SAFE, "qaoa"}),
        ({"qaoa": True, "meta": True}, {SAFE, "gnn", "qaoa", "gnn+qaoa"}),
    ],
)
def test_meta_chooses_among_what_is_on_and_the_safe_one(toggles: dict, allowed: set) -> None:
    assert set(pipelines(EnergyConfig(**toggles))) == allowed


def test_all_toggles_off_plans_each_node_alone() -> None:
    snap = known_gpus([240, 200, 110, 60])
    alone = planned(EnergyPlanner({"gnn": False, "budget_w": 650.0}), snap)
    assert alone.pipeline == "independent"
    shared = planned(EnergyPlanner({"budget_w": 650.0}), snap)
    # The busy node gets what the idle one does not need only where the budget is shared.
    assert np.minimum(alone.caps_w, [240, 200, 110, 60])[:2].sum() <= 325 + 51
    assert shared.throughput > alone.throughput


def test_gpus_that_the_network_does_not_know_are_planned_by_physics_and_it_is_said() -> None:
    known = planned(EnergyPlanner({"budget_w": 700.0}), known_gpus([240, 120, 230, 60]))
    unknown = planned(EnergyPlanner({"budget_w": 1550.0}), snapshot([650, 300, 640, 100]))
    assert "unlike those the network was trained on" in unknown.reasons["gnn"]
    assert "4 of 4" not in known.reasons.get("gnn", "")


def test_live_planning_learns_from_what_each_pipeline_would_have_cost() -> None:
    planner = EnergyPlanner({"gnn": False, "meta": True, "budget_w": 700.0})
    plan: Any = None
    for seq in range(1, 6):
        snap = replace(known_gpus([240, 240, 60, 60], jobs=JOBS), seq=seq)
        plan = planned(planner, snap, plan)
    assert plan.choice.category == "allreduce, dependent"
    assert set(plan.proposals) == {"independent", "classical", "gnn"}
    assert plan.costs["classical"] < plan.costs["independent"]
    known = plan.meta.categories["allreduce, dependent"]
    assert known.windows == 4
    assert known.wins[PIPELINES.index("independent")] == 0
    assert plan.pipeline != "independent"
    assert plan.choice.by in ("lstm+policy", "hedge")


def test_hindsight_charges_qaoa_only_where_it_ran() -> None:
    snap = known_gpus([240, 120, 230, 60], jobs=JOBS)
    meta = EnergyPlanner({"gnn": False, "meta": True, "budget_w": 700.0})
    plan = planned(meta, snap)
    assert plan.pipeline == SAFE
    units = units_from_snapshot(snap, meta.config)
    costs = hindsight(plan, units)
    assert {"independent", "classical", "gnn"} == set(costs)
    ran = replace(plan, pipeline="qaoa", schedule=planned(
        EnergyPlanner({"qaoa": True, "budget_w": 700.0}), snap
    ).schedule)  # fmt: skip
    assert set(hindsight(ran, units)) == set(PIPELINES)


def test_a_change_of_gpus_keeps_what_was_learned_but_charges_nothing() -> None:
    meta = EnergyPlanner({"meta": True, "budget_w": 700.0})
    first = planned(meta, known_gpus([240, 120, 230, 60], jobs=JOBS))
    second = planned(meta, known_gpus([240, 120, 230, 60], jobs=JOBS), first)
    moved = replace(second, gpus=("x", *second.gpus[1:]))
    third = meta.plan(known_gpus([240] * 4, jobs=JOBS), moved, {}, deadline=Deadline.after(1))
    assert third.costs == {}
    assert third.meta == second.meta


def test_proposals_keep_the_budget() -> None:
    snap = known_gpus([240, 120, 230, 60])
    units = units_from_snapshot(snap, EnergyConfig())
    problem = CapProblem.of(units, 700.0)
    for proposal in propose(problem, np.full(4, 150.0), PIPELINES).values():
        assert proposal.caps_w.sum() <= 700 + 1e-6
        assert (proposal.power_w <= 150 + 1e-9).all()


def test_categories_name_most_gpus_traffic() -> None:
    assert category_of(()) == "no jobs"
    assert category_of(JOBS[2:]) == "allreduce"
    assert category_of((JOBS[0],)) == "ring"


def test_power_modes_stretch_jobs_only_where_asked_and_lower_the_peak() -> None:
    topology = known_gpus([1, 1, 1, 1]).topology
    jobs = [Job(id=name, gpus=1, duration_s=600, power_w=230, deadline_s=1500) for name in "abc"]
    plain, _, _ = job_tasks(jobs, EnergyConfig(), topology)
    assert all(not task.modes for task in plain)
    tasks, _, step = job_tasks(jobs, EnergyConfig(power_modes=True), topology)
    for task in tasks:
        times, watts = zip(*task.modes, strict=True)
        assert list(times) == sorted(times)
        assert list(watts) == sorted(watts, reverse=True)
        assert times[0] * step >= 600
        assert watts[-1] >= 100 * 0.5
    low = planned(
        EnergyPlanner({"budget_w": 700.0, "power_modes": True}),
        known_gpus([240] * 4, jobs=tuple(jobs)),
    )
    high = planned(EnergyPlanner({"budget_w": 700.0}), known_gpus([240] * 4, jobs=tuple(jobs)))
    assert low.schedule.peak_w < high.schedule.peak_w
    assert job_tasks(jobs, EnergyConfig(power_modes=True), None)[0][0].modes == ()
