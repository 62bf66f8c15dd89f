"""Jobs go to another accelerator only where that is predicted to be better."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_energy_plan import planned, snapshot

from qcluster.errors import FormatError
from qcluster.q_energy import EnergyPlanner, plan_energy
from qcluster.q_energy.dispatch import dispatch_jobs, dispatched
from qcluster.telemetry import Accelerator, Job, Node, Topology

NODE = Node(id="a", gpus=4, model="H100", min_w=200, max_w=700)


def site(**changes: float) -> Topology:
    return Topology(
        nodes=(NODE,),
        accelerators=(replace(Accelerator(id="q", idle_w=50, active_w=900), **changes),),
    )


def job(seconds: float, **changes: object) -> Job:
    return replace(
        Job(id="j", gpus=2, duration_s=100, power_w=1000, accelerator_s={"quantum": seconds}),
        **changes,
    )


def test_a_job_goes_where_it_costs_less_and_is_done_in_time() -> None:
    (row,) = dispatch_jobs([job(60)], site())
    assert (row.to, row.extra_w) == ("q", 850)
    assert row.accelerator_j == 51_000 < row.gpu_j == 100_000


@pytest.mark.parametrize(
    ("one", "where", "why"),
    [
        (job(130, deadline_s=500), site(), "no energy is saved"),
        (job(110), site(active_w=60), "are left"),
        (job(60), site(queue=3), "are left"),
    ],
)
def test_a_job_stays_where_the_accelerator_is_no_better(
    one: Job, where: Topology, why: str
) -> None:
    (row,) = dispatch_jobs([one], where)
    assert row.to is None
    assert why in row.reason


def test_an_accelerator_takes_one_job_after_another() -> None:
    jobs = [job(60, id=name) for name in "xyz"]
    assert [row.to for row in dispatch_jobs(jobs, site())] == ["q", None, None]


def test_jobs_that_name_no_seconds_there_are_not_asked_about() -> None:
    assert dispatch_jobs([job(60, accelerator_s={})], site()) == ()
    assert dispatch_jobs([job(60)], None) == ()


def test_others_still_wait_for_a_job_that_was_sent_away() -> None:
    jobs = (job(60), Job(id="k", gpus=1, duration_s=10, power_w=300, after=("j",)))
    moved = dispatched(jobs, dispatch_jobs(jobs, site()))
    assert moved[0].duration_s == 60
    assert moved[1].after == ("j",)


def test_plans_count_used_accelerators_and_their_watts() -> None:
    snap = snapshot([650, 300, 640, 100])
    planner = EnergyPlanner({"budget_w": 2600.0})
    rest = planned(planner, snap)
    busy = planned(planner, replace(snap, seq=2, jobs=(job(60),)))
    assert rest.active_accelerators == {"gpu": 4, "quantum": 0}
    assert busy.active_accelerators == {"gpu": 4, "quantum": 1}
    assert busy.overhead_w == rest.overhead_w + 850
    assert busy.dispatch[0].to == "q"
    assert type(busy).from_dict(busy.to_dict()).dispatch == busy.dispatch
    worse = planned(planner, replace(snap, seq=3, jobs=(job(130),)))
    assert worse.active_accelerators["quantum"] == 0
    once = plan_energy(snap, jobs=[job(60)], budget_w=2600.0)
    assert once.active_accelerators["quantum"] == 1


@pytest.mark.parametrize("bad", [5, {"quantum": 0}, {"quantum": "x"}, {"quantum": -1}])
def test_bad_seconds_are_refused_by_name(bad: object) -> None:
    with pytest.raises(FormatError, match="accelerator_s"):
        Job.parse_all([{"id": "j", "gpus": 1, "accelerator_s": bad}])
