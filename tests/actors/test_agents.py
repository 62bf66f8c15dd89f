from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors import agents
from actors.agents import AgentKeeper
from qcluster.deadline import Deadline


class FakeCluster:
    """Nodes that a test adds and takes away; ``log`` says what was done on them."""

    def __init__(self, **living: str) -> None:
        self.living, self.states = living, dict.fromkeys(living, "ready")
        self.log: list[tuple[str, str]] = []
        self.broken: Exception | None = None

    def nodes(self) -> dict[str, str]:
        if self.broken:
            raise self.broken
        return dict(self.living)

    def driver(self, node_id: str) -> str:
        state = self.states[node_id]
        if state == "leaving":
            raise RuntimeError("the node is gone")
        return state

    def start(self, node_id: str, name: str) -> None:
        self.log.append((node_id, name))

    def forget(self, node_id: str, name: str) -> None:
        self.log.append((node_id, f"{name} forgotten"))


@pytest.fixture
def keep() -> Iterator[Callable[[FakeCluster], AgentKeeper]]:
    kept: list[AgentKeeper] = []

    def begin(cluster: FakeCluster) -> AgentKeeper:
        kept.append(AgentKeeper(cluster, period_s=0.005))
        return kept[-1]

    yield begin
    for one in kept:
        one.stop()


def until(condition: Callable[[], Any]) -> Any:
    deadline = Deadline.after(20)
    while not (found := condition()):
        deadline.check()
        time.sleep(0.002)
    return found


def test_every_node_with_a_driver_has_one_agent(keep: Any) -> None:
    cluster = FakeCluster(n1="a", n2="b", n3="c")
    cluster.states["n3"] = "no driver"
    keeper = keep(cluster)
    until(lambda: len(keeper.health()["agents"]) == 2)
    until(lambda: keeper.health()["without"] == {"n3": "no driver"})
    assert sorted(cluster.log) == [("n1", "a"), ("n2", "b")]


def test_nodes_that_leave_and_come_back(keep: Any) -> None:
    cluster = FakeCluster(n1="a", n2="b")
    keeper = keep(cluster)
    until(lambda: len(cluster.log) == 2)
    del cluster.living["n2"]
    until(lambda: ("n2", "b forgotten") in cluster.log)
    cluster.states["n4"] = "ready"
    cluster.living["n4"] = "b"  # the same machine, a new node
    until(lambda: ("n4", "b") in cluster.log)
    assert keeper.health()["agents"] == {"n1": "a", "n4": "b"}


def test_a_driver_that_comes_later_is_found(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "_PROBE_AGAIN_S", 0.01)
    cluster = FakeCluster(n1="a")
    cluster.states["n1"] = "driver not loaded"
    keeper = keep(cluster)
    until(lambda: keeper.health()["without"])
    cluster.states["n1"] = "ready"
    until(lambda: cluster.log == [("n1", "a")])


def test_two_machines_of_one_name_are_told_apart(keep: Any) -> None:
    cluster = FakeCluster(n1="a", n2="a")
    keep(cluster)
    until(lambda: len(cluster.log) == 2)
    assert sorted(cluster.log) == [("n1", "a"), ("n2", "a-n2")]


def test_a_node_that_fails_delays_no_other(keep: Any) -> None:
    cluster = FakeCluster(n1="a", n2="b")
    cluster.states["n1"] = "leaving"
    keeper = keep(cluster)
    until(lambda: ("n2", "b") in cluster.log)
    assert "the node is gone" in until(lambda: keeper.health()["alarm"])


def test_a_cluster_that_cannot_be_asked_is_an_alarm(keep: Any) -> None:
    cluster = FakeCluster(n1="a")
    cluster.broken = ConnectionError("head is away")
    keeper = keep(cluster)
    until(lambda: "head is away" in (keeper.health()["alarm"] or ""))
    cluster.broken = None
    until(lambda: cluster.log)
    until(lambda: keeper.health()["alarm"] is None)


def test_stop_names_the_nodes_with_agents(keep: Any) -> None:
    cluster = FakeCluster(n1="a")
    keeper = keep(cluster)
    until(lambda: cluster.log)
    assert until(keeper.stop) == ["n1"]
