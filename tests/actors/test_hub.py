from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from actors.freshness import gpu_set
from actors.hub import TelemetryHub
from qcluster.deadline import Deadline
from qcluster.errors import FormatError
from qcluster.telemetry import SOURCES, Batch, Block, Topology

TOPOLOGY = Topology.parse({"nodes": [{"id": "a", "gpus": 2, "model": "H100"}]})


def batch(ts_s: float, watts: float = 300.0) -> Batch:
    block = Block.of("gpu", TOPOLOGY.gpu_ids, {"power_w": np.array([watts, watts])})
    return Batch(source="test", ts_s=ts_s, topology=TOPOLOGY, blocks=(block,))


class Scripted:
    """A source that delivers what it was given, then raises or ends."""

    name = "scripted"

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    async def batches(self) -> AsyncIterator[Batch]:
        for item in self.items:
            await asyncio.sleep(0)
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def scripted() -> Iterator[list[Any]]:
    script: list[Any] = []
    SOURCES.register("scripted", lambda _: Scripted(script))
    yield script
    SOURCES._found.pop("scripted")


def wait_for_state(hub: TelemetryHub, spec: str, start: str) -> str:
    deadline = Deadline.after(20)
    while not (state := hub.health()["sources"][spec]).startswith(start):
        deadline.check()
    return str(state)


def test_pushed_batches_become_snapshots() -> None:
    hub = TelemetryHub(())
    assert hub.latest() is None
    assert hub.push([batch(100.0), batch(101.0, 400.0)]) == 4
    snapshot = hub.latest()
    assert snapshot is not None
    assert snapshot.gpu["power_w"].tolist() == [400.0, 400.0]
    assert snapshot is hub.latest()  # made once, however many ask
    assert hub.health()["samples"] == 4
    assert hub.health()["gpus"] == 2


def test_wait_gives_the_next_snapshot_or_none() -> None:
    hub = TelemetryHub(())
    assert hub.wait(0, 0.0) is None
    hub.push([batch(100.0)])
    found = hub.wait(0, 20.0)
    assert found is not None
    assert found.seq == 1
    assert hub.wait(1, 0.0) is None
    # A caller that counts from before a restart of the hub gets what there is.
    again = hub.wait(99, 0.0)
    assert again is not None
    assert again.seq == 1


def test_a_node_that_has_left_wakes_those_who_wait() -> None:
    hub = TelemetryHub(())
    hub.push([batch(1.0)])
    seq = hub.latest().seq
    assert hub.lose("test")
    snapshot = hub.wait(seq, 5.0)
    assert snapshot is not None
    assert not snapshot.alive.any()
    assert not hub.lose("test")
    hub.push([batch(2.0)])
    assert hub.latest().alive.all()


def test_a_lost_gpu_is_told_at_once_to_those_who_plan() -> None:
    hub = TelemetryHub(())
    assert not hub.wait_other("x", 0.0), "nothing is known yet"
    hub.push([batch(1.0)])
    gpus = gpu_set(hub.latest())
    assert not hub.wait_other(gpus, 0.0)
    hub.lose("test")
    assert hub.wait_other(gpus, 5.0)


def test_a_source_runs_to_its_end(scripted: list[Any]) -> None:
    scripted += [batch(100.0), batch(101.0)]
    hub = TelemetryHub(("scripted",))
    wait_for_state(hub, "scripted", "ended")
    snapshot = hub.latest()
    assert snapshot is not None
    assert snapshot.ts_s == 101.0


def test_wrong_content_stops_a_source_with_an_alarm(scripted: list[Any]) -> None:
    scripted += [batch(100.0), FormatError("not a number", file="x.csv", row=7)]
    hub = TelemetryHub(("scripted",))
    state = wait_for_state(hub, "scripted", "stopped")
    assert "x.csv, row 7" in state
    snapshot = hub.latest()
    assert snapshot is not None
    assert [event.kind for event in snapshot.events] == ["alarm"]


def test_a_failing_source_is_tried_again(scripted: list[Any]) -> None:
    scripted += [OSError("connection reset")]
    hub = TelemetryHub(("scripted",))
    assert "connection reset" in wait_for_state(hub, "scripted", "retrying")
    scripted[:] = [batch(100.0)]
    wait_for_state(hub, "scripted", "ended")


def test_an_unknown_source_is_an_alarm_not_a_crash() -> None:
    hub = TelemetryHub(("nonsense",))
    assert "no telemetry source" in wait_for_state(hub, "nonsense", "retrying")


def test_waiting_for_a_snapshot_keeps_nobody_from_bringing_one() -> None:
    # Ray runs all methods of a class with a coroutine among them on one event loop, so that one
    # long poll would hold up every push.
    from actors.agents import AgentKeeper
    from actors.jobs import JobDesk
    from actors.node_agent import NodeAgent
    from actors.planners import HOSTS
    from actors.store import PlanStore

    for actor in (TelemetryHub, PlanStore, JobDesk, NodeAgent, AgentKeeper, *HOSTS.values()):
        assert not inspect.getmembers(actor, inspect.iscoroutinefunction), actor.__name__
