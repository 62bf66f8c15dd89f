"""GPUs that somebody pushes readings of without saying what they are."""

from __future__ import annotations

import numpy as np
import pytest

from qcluster.deadline import Deadline
from qcluster.errors import NotReady
from qcluster.q_energy.planner import EnergyPlanner
from qcluster.telemetry import Batch, Block, Ring, Snapshot, Topology

KNOWN = Topology.parse({"nodes": [{"id": "a", "gpus": 4, "model": "H100"}]})
STRANGE = Topology.parse({"nodes": [{"id": "stranger", "gpus": 2}]})


def snapshot(*topologies: Topology) -> Snapshot:
    ring = Ring()
    for tick in range(4):
        for index, topology in enumerate(topologies):
            watts = np.full(len(topology.gpu_ids), 400.0 + 10 * tick)
            block = Block.of("gpu", topology.gpu_ids, {"power_w": watts})
            batch = Batch(source=f"s{index}", ts_s=100.0 + tick, topology=topology, blocks=(block,))
            ring.add(batch)
    return ring.snapshot()


@pytest.mark.parametrize("order", [(KNOWN, STRANGE), (STRANGE, KNOWN)])
def test_the_others_are_planned_and_the_stranger_is_said(order: tuple[Topology, ...]) -> None:
    planner, seen = EnergyPlanner({}), snapshot(*order)
    plan = planner.plan(seen, None, {}, deadline=Deadline.after(5))
    planner.verify(plan, seen)
    assert plan.gpus == KNOWN.gpu_ids
    assert any("2 GPUs without known power limits" in line for line in plan.warnings)
    again = planner.plan(seen, plan, {}, deadline=Deadline.after(5))
    planner.verify(again, seen)


def test_the_plan_is_that_of_the_known_part() -> None:
    planner = EnergyPlanner({})
    alone = planner.plan(snapshot(KNOWN), None, {}, deadline=Deadline.after(5))
    beside = planner.plan(snapshot(KNOWN, STRANGE), None, {}, deadline=Deadline.after(5))
    assert np.allclose(alone.caps_w, beside.caps_w)
    assert alone.objective == pytest.approx(beside.objective)


def test_nothing_known_is_not_ready() -> None:
    with pytest.raises(NotReady):
        EnergyPlanner({}).plan(snapshot(STRANGE), None, {}, deadline=Deadline.after(5))
