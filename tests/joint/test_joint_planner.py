"""One plan of three: what it promises, how it falls back, and what its verifier refuses."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_lab import joint, peers, snapshot, unequal, without

from qcluster.deadline import Deadline
from qcluster.errors import InputError, NotReady, SolverFailed
from qcluster.explain import explain
from qcluster.joint import JointConfig, JointPlan, JointPlanner
from qcluster.packed import PackedPlan, unpack
from qcluster.plan_diff import diff_plans, tell_diff
from qcluster.planner import in_force, run_planner, take_in

SHOWN = snapshot()
PATHS = {
    "joint": "qcluster.joint.planner:JointPlanner",
    "routing": "qcluster.q_routing.planner:RoutingPlanner",
    "nvlink": "qcluster.q_nvlink.planner:NVLinkPlanner",
    "energy": "qcluster.q_energy.planner:EnergyPlanner",
}


def test_all_parts_are_planned_on_one_snapshot():
    plan = joint(SHOWN)
    assert plan.measure == "experts"
    assert plan.absent == {}
    assert plan.made_here == ("routing", "nvlink", "energy")
    for part in (plan.routing, plan.nvlink, plan.energy, plan):
        assert part.telemetry.snapshot_hash == SHOWN.hash
    assert plan.lower_bound <= plan.objective
    assert plan.relative_speed == pytest.approx(1 / plan.objective)
    assert plan.relative_speed <= plan.upper_bound <= 1.0


def test_plans_of_the_same_snapshot_are_taken_as_they_are():
    others = peers(SHOWN)
    plan = joint(SHOWN, {"level_caps": False}, peers=others)
    assert plan.nvlink is others["nvlink"]
    assert plan.energy is others["energy"]
    assert "nvlink" not in plan.made_here
    later = snapshot(ticks=6)
    assert joint(later, peers=others).made_here == ("routing", "nvlink", "energy")


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.55, 0.7, 0.85]), st.sampled_from([0.0, 0.3]))
def test_never_slower_than_the_parts_apart(seed, budget, share):
    shown = unequal(SHOWN, seed)
    config = {"energy": {"budget_share": budget}, "communication_share": share}
    plan = joint(shown, config)
    assert plan.objective <= plan.baselines["apart"] * (1 + 1e-12)
    assert plan.lower_bound <= plan.objective * (1 + 1e-12)
    assert plan.energy.caps_w.sum() + plan.energy.overhead_w <= plan.energy.budget_w + 1e-3


def test_watts_and_experts_are_brought_together_where_caps_bite():
    plan = joint(unequal(SHOWN), {"energy": {"budget_share": 0.6}})
    assert plan.objective < 0.995 * plan.baselines["apart"]
    (conflict,) = [one for one in plan.conflicts if one.kind == "power"]
    assert conflict.before == pytest.approx(plan.baselines["apart"])
    assert conflict.after == pytest.approx(plan.objective)
    told = " ".join(explain(plan.to_dict())["because"])
    assert "Between energy and routing" in told
    assert conflict.resolution in told


def test_a_gpu_that_lost_links_gets_fewer_tokens():
    topology, up = SHOWN.topology, np.ones(len(SHOWN.topology.links))
    first = topology.gpu_ids[0]
    for i, link in enumerate(topology.links):
        if first in (link.source, link.target):
            up[i] = 0.3
    shown = without(SHOWN, link={**SHOWN.link, "link_up": up})
    plan = joint(shown, {"routing": {"max_moved": 1.0}})
    loads = plan.routing.gpu_load_after
    assert plan.rate[0] < 0.7
    assert loads[0] < 0.9 * np.median(loads)
    assert plan.objective < plan.baselines["apart"]
    (conflict,) = [one for one in plan.conflicts if one.kind == "links"]
    assert first in conflict.what
    assert conflict.resolution == "they get fewer tokens"


def test_without_experts_the_watts_of_a_job_are_levelled():
    shown = without(unequal(SHOWN), expert_load=None)
    plan = joint(shown, {"energy": {"budget_share": 0.6}})
    assert plan.measure == "jobs"
    assert "expert" in plan.absent["routing"]
    assert plan.objective < plan.baselines["apart"]
    index = {name: i for i, name in enumerate(plan.gpu_ids)}
    caps = dict(zip(plan.energy.gpus, plan.energy.caps_w, strict=True))
    assert sum(caps.values()) == pytest.approx(sum(caps.values()))
    for gpus in plan.nvlink.assignment.values():
        speeds = [plan.rate[index[gpu]] for gpu in gpus]
        assert max(speeds) - min(speeds) < 0.35


def test_where_draw_counts_experts_follow_the_caps_and_watts_stay():
    shown = unequal(SHOWN)
    plan = joint(shown, {"energy": {"budget_share": 0.6, "hold": "draw"}})
    assert "energy" in plan.made_here
    assert plan.solver.used in ("apart", "coordinated")
    assert plan.objective <= plan.baselines["apart"]
    assert "power follows placement" not in plan.baselines


def test_power_alone_is_a_plan_too():
    bare = dataclasses.replace(SHOWN.topology, links=())
    shown = without(SHOWN, topology=bare, link={}, expert_load=None, jobs=())
    plan = joint(shown)
    assert plan.measure == "gpus"
    assert set(plan.absent) == {"routing", "nvlink"}
    assert (plan.rate[shown.alive] > 0).all()


def test_nothing_to_plan_says_why_for_every_part():
    bare = dataclasses.replace(SHOWN.topology, nodes=(), links=())
    shown = without(
        SHOWN, topology=bare, alive=np.empty(0, bool), gpu={}, node={}, link={}, expert_load=None
    )
    with pytest.raises(NotReady, match=r"nvlink: .*energy: .*routing: "):
        joint(shown)


def test_a_part_that_cannot_be_planned_stays_as_it_was_while_it_is_safe():
    before = joint(SHOWN)
    later = snapshot(ticks=6)
    plan = joint(later, {"energy": {"budget_w": 10.0}}, previous=before)
    assert plan.energy.plan_id == before.energy.plan_id
    (conflict,) = [one for one in plan.conflicts if one.kind == "refused"]
    assert "smallest feasible budget" in conflict.what
    alone = joint(later, {"energy": {"budget_w": 10.0}})
    assert alone.energy is None
    assert "smallest feasible budget" in alone.absent["energy"]
    assert "there is no earlier plan" in alone.absent["energy"]


def test_gpus_that_do_not_answer_hold_nothing():
    alive = SHOWN.alive.copy()
    alive[[1, 6]] = False
    plan = joint(without(SHOWN, alive=alive))
    assert plan.rate[[1, 6]].tolist() == [0.0, 0.0]
    assert plan.routing.gpu_load_after[[1, 6]].tolist() == [0.0, 0.0]
    used = {gpu for gpus in plan.nvlink.assignment.values() for gpu in gpus}
    assert not used & {plan.gpu_ids[1], plan.gpu_ids[6]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: {"objective": p.objective * 0.9}, "stretch|bound"),
        (lambda p: {"rate": np.minimum(p.rate * 1.01, 1.0)}, "rates|stretch"),
        (lambda p: {"rate": p.rate[:-1]}, "rate a GPU"),
        (lambda p: {"rate": p.rate * np.nan}, "finite"),
        (lambda _: {"gpu_ids": ("x/0",)}, "other GPUs"),
        (lambda _: {"energy": None}, "energy is neither"),
        (lambda p: {"baselines": {"apart": p.objective * 0.5}}, "apart are better"),
        (
            lambda p: {"energy": dataclasses.replace(p.energy, caps_w=p.energy.caps_w * 3)},
            "energy: cap",
        ),
    ],
)
def test_the_verifier_refuses_what_is_not_so(change, why):
    plan = joint(unequal(SHOWN), {"energy": {"budget_share": 0.6}})
    with pytest.raises(SolverFailed, match=why):
        JointPlanner().verify(dataclasses.replace(plan, **change(plan)), unequal(SHOWN))


def test_a_plan_is_unsafe_once_a_gpu_that_it_uses_is_gone():
    plan = joint(SHOWN)
    alive = SHOWN.alive.copy()
    alive[0] = False
    with pytest.raises(SolverFailed, match="does not answer"):
        JointPlanner().verify(plan, without(SHOWN, alive=alive))


def test_json_and_back_and_the_difference_between_two():
    plan = joint(SHOWN)
    text = json.dumps(plan.to_dict(), allow_nan=False)
    again = JointPlan.from_dict(json.loads(text))
    assert again.to_dict() == plan.to_dict()
    JointPlanner().verify(again, SHOWN)
    other = joint(unequal(SHOWN), {"energy": {"budget_share": 0.6}}, previous=plan)
    told = tell_diff(diff_plans(plan.to_dict(), other.to_dict()))
    assert any(line.startswith("energy.caps_w") for line in told)


def test_planners_go_on_from_what_is_carried_out():
    whole = joint(SHOWN)
    own = peers(SHOWN)["energy"]
    earlier = dataclasses.replace(own, created_at=whole.created_at - 1)
    later = dataclasses.replace(own, created_at=whole.created_at + 1)
    assert in_force("energy", {"energy": earlier, "joint": whole}) is whole.energy
    assert in_force("energy", {"energy": later, "joint": whole}) is later
    assert in_force("energy", {"joint": whole}) is None
    assert in_force("joint", {"joint": whole}) is whole


def worked(
    config: dict[str, Any], stored: dict[str, Any], named: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A plan by the entry points of the worker process, given ``stored``, told of ``named``."""
    take_in(PATHS, {name: PackedPlan.of(plan).body for name, plan in stored.items()})
    newest = {name: plan["plan_id"] for name, plan in (named or stored).items()}
    return unpack(run_planner(PATHS, "joint", config, SHOWN, newest, 20.0, 5.0).body)


def test_the_worker_plans_with_stored_plans_of_its_peers():
    others = {name: plan.to_dict() for name, plan in peers(SHOWN).items()}
    made = worked({"level_caps": False}, others)
    assert made["planner"] == "joint"
    assert made["nvlink"]["plan_id"] == others["nvlink"]["plan_id"]
    again = worked({"level_caps": False}, {"joint": made}, {**others, "joint": made})
    assert again["plan_id"] != made["plan_id"]
    assert again["nvlink"]["plan_id"] == others["nvlink"]["plan_id"]


def test_the_worker_plans_without_what_it_cannot_read_or_was_not_given():
    others = {name: plan.to_dict() for name, plan in peers(SHOWN).items()}
    broken = {**others, "nvlink": {"plan_id": "x", "planner": "nvlink"}}
    assert worked({}, broken)["nvlink"]["plan_id"] != "x"
    take_in(PATHS, {"nvlink": b"damaged"})
    made = worked({}, {}, {"energy": {"plan_id": "never given"}})
    assert "energy" in made["made_here"]


def test_a_deadline_that_is_over_leaves_the_parts_as_they_are():
    others = peers(SHOWN)
    plan = JointPlanner().plan(SHOWN, None, others, deadline=Deadline.after(0.0))
    assert plan.solver.used == "apart"
    assert "no time left" in plan.solver.fallback_reason


def test_wrong_configurations_name_the_field():
    with pytest.raises(InputError, match=r"config\.energy\.budget_w"):
        JointPlanner({"energy": {"budget_w": "much"}})
    with pytest.raises(InputError, match=r"config\.communication_share"):
        JointConfig.read({"communication_share": 1.0})
