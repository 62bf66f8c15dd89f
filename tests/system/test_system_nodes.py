"""A node that is lost: planned without at once, its power limits back, and a new one taken in."""

from __future__ import annotations

from pathlib import Path

import pytest
from nodes import Nodes

pytestmark = pytest.mark.system

FULL = [700.0, 700.0]


def test_plans_leave_a_lost_node_out_and_take_a_new_one_in(tmp_path: Path) -> None:
    with Nodes(tmp_path) as nodes:
        nodes.until(lambda: nodes.planned() == 6)
        nodes.until(lambda: nodes.limits_w("1") != FULL)
        nodes.kill(nodes.nodes[0])
        nodes.until(lambda: nodes.planned() == 4, 30.0)
        plan = nodes.joint()
        assert plan is not None
        dead = [gpu for gpu, rate in zip(plan["gpu_ids"], plan["rate"], strict=True) if rate == 0]
        assert len(dead) == 2
        nodes.until(lambda: nodes.limits_w("1") == FULL, 60.0)
        nodes.add("3")
        nodes.until(lambda: nodes.planned() == 6, 120.0)
        nodes.until(lambda: nodes.limits_w("3") != FULL, 60.0)
