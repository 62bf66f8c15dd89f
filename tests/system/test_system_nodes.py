"""Nodes that are lost or ended: planned without at once, and no answer is lost with them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest
from nodes import Nodes
from servers import free_port

from deployments.app import ApiOptions, deploy, withdraw

pytestmark = pytest.mark.system

FULL = [700.0, 700.0]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("nodes")) as found:
        found.until(lambda: found.planned() == 6)
        yield found


def test_plans_leave_a_lost_node_out_and_take_a_new_one_in(nodes: Nodes) -> None:
    nodes.until(lambda: nodes.limits_w("1") != FULL)
    nodes.kill(nodes.nodes.pop(0))
    nodes.until(lambda: nodes.planned() == 4, 30.0)
    plan = nodes.joint()
    assert plan is not None
    dead = [gpu for gpu, rate in zip(plan["gpu_ids"], plan["rate"], strict=True) if rate == 0]
    assert len(dead) == 2
    nodes.until(lambda: nodes.limits_w("1") == FULL, 60.0)
    nodes.add("3")
    nodes.until(lambda: nodes.planned() == 6, 120.0)
    nodes.until(lambda: nodes.limits_w("3") != FULL, 60.0)


def test_the_end_of_a_node_costs_no_answer(nodes: Nodes) -> None:
    """Clients that never try again ask while a node gets SIGTERM, until plans leave it out."""
    port, stopped = free_port(), Event()

    def ask() -> list[int]:
        found = []
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as http:
            while not stopped.is_set():
                found.append(http.get("/v1/plans/joint/latest").status_code)
        return found

    deploy("127.0.0.1", port, ApiOptions(replicas=2))
    try:
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask) for _ in range(2)]
            try:
                victim = nodes.nodes.pop(0)
                raylet = victim.all_processes["raylet"][0].process
                raylet.send_signal(signal.SIGTERM)
                raylet.wait(60)
                nodes.until(lambda: nodes.planned() == 4, 60.0)
            finally:
                stopped.set()
            statuses = [status for one in asked for status in one.result()]
    finally:
        withdraw()
    assert statuses
    assert set(statuses) == {200}
