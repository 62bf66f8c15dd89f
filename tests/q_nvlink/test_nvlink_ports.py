"""Ranks on ports that are too narrow change places with those that need less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvlink_cases import star_data

from qcluster.deadline import Deadline
from qcluster.q_nvlink import parse_node_link
from qcluster.q_nvlink.cuts import ceilings
from qcluster.q_nvlink.placement import run_best_subsets, verify_placement
from qcluster.q_nvlink.plan import plan_fabric
from qcluster.q_nvlink.ports import settle_ports
from qcluster.q_nvlink.problem import PlacementProblem, admit
from qcluster.q_nvlink.select import _residual, _state, select_gpus
from qcluster.q_nvlink.subsets import leftovers
from qcluster.telemetry import Job


def worn(lost: list[int], gpus: int = 16, switches: int = 6):
    """A star in which each GPU of ``lost`` has no link to one switch, all to the same."""
    data = star_data(gpus, switches)
    dead = {(f"g{i}", "s0") for i in lost}
    data["links"] = [row for row in data["links"] if (row["source"], row["target"]) not in dead]
    return parse_node_link(data)


def asked(fabric, jobs, reference, limit=None) -> PlacementProblem:
    return PlacementProblem(
        fabric, admit(fabric, jobs).jobs, {j.id: 0 for j in jobs}, reference, limit
    )


def jobs(small: int = 8, large: int = 8) -> list[Job]:
    return [
        Job(id="small", gpus=small, kind="all_to_all", bytes=1e6),
        Job(id="large", gpus=large, kind="all_to_all", bytes=1e9),
    ]


def test_all_of_them_move_at_once_and_the_bound_is_met():
    fabric = worn([8, 9, 10, 11])
    problem = asked(fabric, jobs(), {"small": tuple(range(8))}, 4)
    placement = {"small": list(range(8)), "large": list(range(8, 16))}
    found = settle_ports(problem, placement)
    verify_placement(problem, found)
    assert problem.moved(found) == 4
    assert problem.cost(placement) > 1.1 * problem.lower_bound()
    assert problem.cost(found) == pytest.approx(problem.lower_bound())


def test_the_budget_holds_and_free_gpus_cost_no_move_of_others():
    fabric = worn([8, 9, 10, 11])
    tight = asked(fabric, jobs(), {"small": tuple(range(8))}, 3)
    placement = {"small": list(range(8)), "large": list(range(8, 16))}
    assert tight.moved(settle_ports(tight, placement)) <= 3
    roomy = asked(fabric, jobs(small=4), {"small": tuple(range(4))}, 0)
    found = settle_ports(roomy, {"small": list(range(4)), "large": list(range(8, 16))})
    assert found["small"] == list(range(4))
    assert roomy.cost(found) == pytest.approx(roomy.lower_bound())


def test_pinned_ranks_stay_and_silent_jobs_need_nothing():
    fabric = worn([0])
    pinned = Job(id="a", gpus=2, kind="all_to_all", bytes=1e9, pinned=("g0",))
    problem = asked(fabric, [pinned, Job(id="b", gpus=1)], {})
    placement = {"a": [0, 1], "b": [2]}
    assert settle_ports(problem, placement) == placement


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_everyone_keeps_a_gpu_and_the_budget_holds(seed):
    rng = np.random.default_rng(seed)
    fabric = worn(rng.choice(16, 6, replace=False).tolist())
    some = [
        Job(id=f"j{i}", gpus=4, kind="allreduce", bytes=float(10 ** rng.uniform(6, 9)))
        for i in range(3)
    ]
    order = rng.permutation(16).tolist()
    placement = {job.id: order[4 * i : 4 * i + 4] for i, job in enumerate(some)}
    problem = asked(fabric, some, {k: tuple(v) for k, v in placement.items()}, int(rng.integers(8)))
    found = settle_ports(problem, placement)
    verify_placement(problem, found)
    assert {job: len(gpus) for job, gpus in found.items()} == dict.fromkeys(placement, 4)


def test_a_new_job_on_what_is_left_makes_the_others_give_way():
    fabric = worn([8, 9, 10, 11])
    before = plan_fabric(fabric, jobs()[:1], deadline_s=1.0)
    assert not {"g8", "g9", "g10", "g11"} & set(before.assignment["small"])
    after = plan_fabric(
        fabric, jobs(), config={"max_moved": 0.5}, previous=before, deadline_s=1.0, strict=False
    )
    assert after.objective == pytest.approx(after.lower_bound)
    assert after.moves <= 4


def test_leftovers_are_those_of_one_set_at_a_time():
    fabric = parse_node_link(star_data(12))
    problem = _state(fabric, ["g5"])
    rng = np.random.default_rng(0)
    sets = np.array([rng.choice(problem.free, 4, replace=False) for _ in range(20)])
    lost, whole = leftovers(problem.cap, problem.free, problem.hosts, sets)
    for row, a, b in zip(sets.tolist(), lost, whole, strict=True):
        assert _residual(problem, row) == (-float(a), float(b))
    assert (ceilings(problem.cap, problem.switches, sets) > 0).all()


def test_ties_leave_whole_hosts_when_flows_are_needed():
    # Thirteen GPUs are too many to enumerate cuts of; hosts have four.
    fabric = worn([0, 1], gpus=20)
    chosen = select_gpus(fabric, 16)
    assert set(chosen.gpus) == {f"g{i}" for i in range(4, 20)}
    assert chosen.exact


def test_the_stage_settles_ports_before_its_search_begins():
    fabric = worn([8, 9, 10, 11])
    problem = asked(fabric, jobs(), {"small": tuple(range(8))}, 4)
    found = run_best_subsets(problem, deadline=Deadline.after(0.0), seed=0, incumbent=None)
    assert found.objective == pytest.approx(problem.lower_bound())
