"""A planner that starts anew goes on from the stored plan as if nothing had happened."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.q_energy import EnergyPlan, EnergyPlanner
from qcluster.telemetry import Node, Snapshot, Topology


@pytest.mark.parametrize("hold", ["draw", "caps"])
def test_a_plan_that_was_stored_is_gone_on_from_alike(hold: str) -> None:
    rng = np.random.default_rng(0)
    topology = Topology(
        nodes=tuple(Node(id=n, gpus=3, model="H100", min_w=200, max_w=700) for n in "ab")
    )
    planner = EnergyPlanner({"budget_w": 2400.0, "hold": hold, "meta": hold == "caps"})
    limit, previous = np.full(6, 700.0), None
    for k in range(8):
        power = np.minimum(rng.uniform(200, 690, 6), limit)
        power[rng.random(6) < 0.3] = np.nan
        power[0] = 400.0 if k < 4 else 300.0  # another job, which has to be noticed
        rate = np.full(6, 5.0) * (limit / 700.0) ** 0.5
        snapshot = Snapshot(
            seq=k, ts_s=float(k), topology=topology, alive=np.ones(6, bool),
            gpu={"power_w": power, "power_limit_w": limit, "work_rate": rate},
        )  # fmt: skip
        plans = []
        for before in (previous, None if previous is None else stored(previous)):
            plan = EnergyPlanner(planner.config.model_dump()).plan(
                snapshot, before, {}, deadline=Deadline.after(60.0)
            )
            planner.verify(plan, snapshot)
            plans.append(plan)
        assert plans[1].caps_w == pytest.approx(plans[0].caps_w)
        assert plans[1].reserve_w == pytest.approx(plans[0].reserve_w)
        if hold == "draw":
            seen = [plan.sightings for plan in plans]
            assert seen[1].changes == seen[0].changes  # type: ignore[union-attr]
            assert np.isfinite(seen[1].silence_s).all()  # type: ignore[union-attr]
        previous, limit = plans[0], plans[0].caps_w


def stored(plan: EnergyPlan) -> EnergyPlan:
    """As it comes back from the store, through JSON that knows no infinity."""
    return EnergyPlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
