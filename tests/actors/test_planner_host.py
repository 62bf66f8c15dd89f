"""The host with plain hub and store objects and a real worker process; no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from actors.hub import TelemetryHub
from actors.planner_host import PlannerHost
from actors.store import PlanStore
from qcluster.deadline import Deadline
from qcluster.errors import NotReady, QClusterError
from qcluster.telemetry import Batch, Block, Topology

TOPOLOGY = Topology.parse({"nodes": [{"id": "a", "gpus": 2}]})
HERE = Path(__file__).resolve().parent


class FakeHost(PlannerHost):
    name: ClassVar[str] = "fake"
    path: ClassVar[str] = "fake_planner:FakePlanner"


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[TelemetryHub, PlanStore, FakeHost]]]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    hosts: list[FakeHost] = []

    def begin(mode: str = "ok", **more: Any) -> tuple[TelemetryHub, PlanStore, FakeHost]:
        hub, store = TelemetryHub(()), PlanStore(str(tmp_path), ("fake",))
        more = {"period_s": 0.2, "deadline_s": 0.3, **more}
        hosts.append(FakeHost(hub, store, {"mode": mode}, **more))
        return hub, store, hosts[-1]

    yield begin
    for host in hosts:
        host.stop()


def feed(hub: TelemetryHub, ts_s: float, up: tuple[float, float] = (1.0, 1.0)) -> None:
    block = Block.of("gpu", TOPOLOGY.gpu_ids, {"up": np.array(up), "power_w": np.full(2, 300.0)})
    hub.push([Batch(source="t", ts_s=ts_s, topology=TOPOLOGY, blocks=(block,), simulated=True)])


def until(condition: Callable[[], Any]) -> Any:
    deadline = Deadline.after(60)
    while not (found := condition()):
        deadline.check()
    return found


def alarm(store: PlanStore, text: str) -> Any:
    return until(lambda: text in (store.latest("fake")["alarm"] or ""))


def test_plans_follow_telemetry_and_know_their_predecessor(start: Any) -> None:
    hub, store, host = start()
    feed(hub, 100.0)
    first = until(lambda: store.latest("fake")["plan"])
    assert first["telemetry"]["simulated"] is True
    assert first["telemetry"]["snapshot_hash"] == hub.latest().hash
    assert first["expires_at"] > first["created_at"]
    assert first["previous_seq"] is None
    feed(hub, 101.0)
    second = until(lambda: (p := store.latest("fake")["plan"])["seen_seq"] == 2 and p)
    assert second["previous_seq"] == 1
    until(lambda: host.health()["cycles"] == 2)
    assert host.health()["failures"] == 0


def test_no_telemetry_is_an_alarm(start: Any) -> None:
    _, store, _ = start()
    alarm(store, "no new telemetry")


def test_starved_after_a_plan_keeps_it_and_says_so(start: Any) -> None:
    hub, store, _ = start()
    feed(hub, 100.0)
    until(lambda: store.latest("fake")["plan"])
    alarm(store, "no new telemetry")
    assert store.latest("fake")["plan"]["stale"] is True


def test_a_planner_that_is_not_ready_says_what_it_lacks(start: Any) -> None:
    hub, store, _ = start("not_ready")
    feed(hub, 100.0)
    alarm(store, "no expert load yet")


def test_a_stuck_planner_is_killed_and_said(start: Any) -> None:
    hub, store, host = start("stuck")
    feed(hub, 100.0)
    alarm(store, "killed")
    assert host.health()["failures"] >= 1


@pytest.mark.parametrize(
    ("mode", "text"), [("crash", "exit status 9"), ("invalid", "expert 3 sits nowhere")]
)
def test_bad_plans_are_never_stored(start: Any, mode: str, text: str) -> None:
    hub, store, _ = start(mode)
    feed(hub, 100.0)
    alarm(store, text)
    assert store.health()["plans"] == 0


def test_plans_of_other_gpus_are_not_safe(start: Any) -> None:
    hub, store, _ = start()
    feed(hub, 100.0)
    whole = until(lambda: store.latest("fake")["plan"])
    feed(hub, 101.0, up=(1.0, 0.0))
    degraded = until(
        lambda: (p := store.latest("fake")["plan"])["plan_id"] != whole["plan_id"] and p
    )
    assert degraded["seen_seq"] == 2


def test_a_lost_gpu_does_not_wait_for_the_next_period(start: Any) -> None:
    hub, store, host = start(period_s=600.0)
    feed(hub, 1.0)
    until(lambda: store.latest("fake")["plan"])
    feed(hub, 2.0, (1.0, 0.0))
    until(lambda: host.health()["cycles"] == 2)


def test_another_configuration_is_taken_over_without_a_gap(start: Any) -> None:
    hub, store, host = start("ok")
    feed(hub, 1.0)
    until(lambda: store.latest("fake")["plan"])
    pid = host.health()["worker_pid"]
    assert not host.configure({"mode": "ok"}), "it is the same"
    assert host.health()["worker_pid"] == pid
    with pytest.raises(QClusterError):
        host.configure({"mode": "ok", "fail_to_start": True})
    feed(hub, 2.0)
    until(lambda: host.health()["cycles"] == 2)
    assert host.configure({"mode": "ok", "more": 1})
    feed(hub, 3.0)
    until(lambda: store.latest("fake")["plan"]["config"] == {"mode": "ok", "more": 1})
    assert host.health()["failures"] == 0


def test_a_host_that_starts_again_has_the_configuration_of_the_last(start: Any) -> None:
    _, store, _ = start("ok")
    store.configure({"fake": {"mode": "ok", "more": 2}})
    hub, _, host = start("ok")
    until(lambda: host.configure({"mode": "ok", "more": 2}) is False)
    feed(hub, 1.0)
    until(lambda: host.health()["cycles"] == 1)


def test_a_store_that_fails_does_not_stop_the_host(start: Any) -> None:
    hub, store, host = start()
    real = store.put

    def broken(*_: Any) -> int:
        store.put = real
        raise OSError("disk full")

    store.put = broken
    feed(hub, 100.0)
    until(lambda: host.health()["failures"])
    feed(hub, 101.0)
    until(lambda: store.latest("fake")["plan"])


def test_plans_made_while_the_store_is_away_are_delivered_after(start: Any) -> None:
    hub, store, host = start()
    feed(hub, 100.0)
    first = until(lambda: store.latest("fake")["plan"])
    real, away = store.put, NotReady("plan-store is away")

    def gone(*_: Any) -> Any:
        raise away

    reads = store.newest, store.report
    store.put = store.newest = store.report = gone
    for ts_s in (101.0, 102.0):
        before = host.health()["cycles"]
        feed(hub, ts_s)
        until(lambda before=before: host.health()["cycles"] > before)
    until(
        lambda: (
            "2 plans wait for the store" in (host.health()["alarm"] or "")
            or "away" in (host.health()["alarm"] or "")
        )
    )
    assert host.health()["undelivered"] == 2
    store.newest, store.report = reads
    store.put = real
    until(lambda: store.health()["plans"] == 3)
    last = until(lambda: (p := store.latest("fake")["plan"])["seen_seq"] == 3 and p)
    # Planning went on with the plan in force, though nobody had it on disk.
    assert last["previous_seq"] == 2
    assert first["seen_seq"] == 1


def test_a_wrong_store_gets_no_plan_and_the_right_one_gets_all(start: Any, tmp_path: Path) -> None:
    hub, store, host = start()
    feed(hub, 100.0)
    until(lambda: host.health()["undelivered"] == 0 and host._seen and host._seen[1] == 1)
    empty = PlanStore(str(tmp_path / "other"), ("fake",))
    host._store = empty
    feed(hub, 101.0)
    until(lambda: host.health()["undelivered"] == 1)
    until(lambda: empty.health()["fence"])
    assert empty.health()["plans"] == 0
    host._store = store
    until(lambda: store.health()["plans"] == 2)
