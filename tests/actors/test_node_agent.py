"""The agent with plain hub and store, on the driver's double; kills with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agent_lab import FakeStore, plan, until, watts

from actors.hub import TelemetryHub
from actors.node_agent import NodeAgent, node_caps
from actors.watchdog import Watchdog
from qcluster.errors import InputError, NotReady, Refused
from qcluster.testing.nvml import FakeNvml, NVMLError_DriverNotLoaded

HERE = Path(__file__).resolve().parent


def test_readings_arrive_with_topology(start: Any) -> None:
    agent, hub, _ = start()
    snapshot = until(hub.latest)
    assert snapshot.topology.gpu_ids == ("a/0", "a/1")
    assert snapshot.simulated is False
    assert snapshot.gpu["power_w"].tolist() == [350, 350]
    assert hub.health()["sources"]["nvml:node=a"] == "live"
    until(lambda: agent.health()["reading"] == "live")


def test_a_restarted_hub_is_told_the_topology_again(start: Any) -> None:
    agent, hub, _ = start()
    until(hub.latest)
    fresh = TelemetryHub(())

    def away(_: Any) -> int:
        raise NotReady("telemetry-hub is away")

    hub.push = away
    until(lambda: "readings are lost" in agent.health()["reading"])
    agent._hub = fresh
    assert until(fresh.latest).topology.gpu_ids == ("a/0", "a/1")


def test_a_measured_reading_ends_the_stand_in(start: Any) -> None:
    agent, _, _ = start()
    hub = TelemetryHub(("simulate:nvl72",), stand_in="simulate:nvl72")
    until(hub.latest)
    agent._hub = hub
    snapshot = until(lambda: (s := hub.latest()) and not s.simulated and s)
    assert snapshot.topology.gpu_ids in ((), ("a/0", "a/1"))
    assert "ended" in hub.health()["sources"]["simulate:nvl72"]


def test_caps_are_set_and_put_back_on_stop(start: Any, driver: Path) -> None:
    agent, _, store = start()
    store.plan = plan()
    until(lambda: watts(driver) == [500, 400])
    assert until(lambda: agent.health()["plan_id"]) == store.plan["plan_id"]
    watchdog = agent.health()["watchdog_pid"]
    store.plan = plan({"a/0": 450.0, "a/1": 400.0})
    until(lambda: watts(driver) == [450, 400])
    assert agent.health()["watchdog_pid"] == watchdog
    agent.stop()
    assert watts(driver) == [700, 700]
    until(lambda: not psutil.pid_exists(watchdog))


def test_without_apply_it_only_says_what_it_would_do(start: Any, driver: Path) -> None:
    agent, _, store = start(apply=False)
    store.plan = plan()
    said = until(lambda: "would set" in (c := agent.health()["carrying"]) and c)
    assert "GPU 0 from 700 to 500 W, GPU 1 from 700 to 400 W" in said
    assert "--apply" in said
    assert watts(driver) == [700, 700]
    assert agent.health()["watchdog_pid"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"telemetry": {"snapshot_hash": "abc", "simulated": True}}, "simulated"),
        ({"telemetry": {}}, "simulated"),
        ({"expires_at": 1.0}, "expired"),
        ({"expires_at": None}, "never expires"),
        ({"nodes": []}, "no caps for a"),
        ({"nodes": [{"id": "a", "caps_w": {"b/0": 300.0}}]}, "not a GPU of a"),
        ({"nodes": [{"id": "a", "caps_w": {"a": 900.0}}]}, "not a GPU of a"),
        ({"nodes": [{"id": "a", "caps_w": {"a/0": 100.0}}]}, "outside the 200 to 700 W"),
        ({"nodes": [{"id": "a", "caps_w": {"a/0": float("nan")}}]}, "wants watts"),
        ({"nodes": [{"id": "a", "caps_w": {"a/7": 300.0}}]}, "GPU 7: InvalidArgument"),
    ],
)
def test_what_may_not_be_carried_out_is_not(
    start: Any, driver: Path, change: dict[str, Any], reason: str
) -> None:
    agent, _, store = start()
    store.plan = plan(**change)
    until(lambda: reason in agent.health()["carrying"])
    assert watts(driver) == [700, 700]


def test_a_stale_plan_is_not_started(start: Any, driver: Path) -> None:
    agent, _, store = start()
    store.plan, store.alarm = plan(stale=True), "no word from the energy planner"
    until(lambda: "no word" in agent.health()["carrying"])
    assert watts(driver) == [700, 700]


def test_an_expired_plan_is_undone_even_while_the_store_is_away(start: Any, driver: Path) -> None:
    agent, _, store = start()
    store.plan = plan(lasts_s=1.0)
    until(lambda: watts(driver) == [500, 400])
    store.away = True
    until(lambda: watts(driver) == [700, 700])
    assert until(lambda: agent.health()["caps_w"] == {})


def test_no_permission_degrades_to_advice(start: Any, driver: Path) -> None:
    gpus = [{}, {"forbidden": ["nvmlDeviceSetPowerManagementLimit"]}]
    driver.write_text(json.dumps(gpus))
    agent, _, store = start()
    store.plan = plan()
    until(lambda: agent.health()["mode"] == "advice")
    store.plan = plan()
    assert until(lambda: "no permission" in agent.health()["carrying"])
    assert watts(driver) == [700, 700]


def test_a_driver_that_goes_and_comes_back_is_a_state(tmp_path: Path) -> None:
    nv, hub = FakeNvml(1, init_error=NVMLError_DriverNotLoaded()), TelemetryHub(())
    agent = NodeAgent(hub, FakeStore(), tmp_path, node="a", period_s=0.01, nv=nv)
    try:
        until(lambda: "driver not loaded" in agent.health()["reading"])
        nv.init_error = None
        until(hub.latest)
    finally:
        agent.stop()


AGENT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_node_agent import FakeStore, plan
from actors.hub import TelemetryHub
from actors.node_agent import NodeAgent
store = FakeStore()
store.plan = plan(lasts_s={lasts_s})
NodeAgent(TelemetryHub(()), store, {state!r}, node="a", apply=True, period_s=0.05)
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def process(tmp_path: Path, driver: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """An agent in a process of its own, with caps in force."""
    running: list[subprocess.Popen[str]] = []

    def begin(lasts_s: float = 60.0) -> subprocess.Popen[str]:
        script = AGENT.format(tests=str(HERE), state=str(tmp_path / "state"), lasts_s=lasts_s)
        root = str(HERE.parent.parent)
        environment = {**os.environ, "PYTHONPATH": f"{HERE / 'driver'}:{root}"}
        running.append(
            subprocess.Popen([sys.executable, "-c", script], env=environment, process_group=0)
        )
        until(lambda: watts(driver) == [500, 400])
        return running[-1]

    yield begin
    for one in running:
        one.kill()
        one.wait()


def watchdogs(tmp_path: Path) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        try:
            command = one.cmdline()
        except psutil.Error:
            continue
        if "actors.watchdog" in command and str(tmp_path / "state" / "nodes" / "a") in command:
            found.append(one)
    return found


def test_kill_9_of_the_agent_leaves_no_caps_and_no_process(
    process: Any, driver: Path, tmp_path: Path
) -> None:
    agent = process()
    os.killpg(agent.pid, signal.SIGKILL)  # with everything in its process group
    agent.wait()
    until(lambda: watts(driver) == [700, 700])
    until(lambda: not watchdogs(tmp_path))


def test_a_stuck_agent_does_not_keep_caps_beyond_expiry(process: Any, driver: Path) -> None:
    agent = process(lasts_s=8.0)
    os.kill(agent.pid, signal.SIGSTOP)
    until(lambda: watts(driver) == [700, 700])


def test_with_the_watchdog_killed_too_the_next_agent_restores(
    process: Any, driver: Path, tmp_path: Path, start: Any
) -> None:
    agent = process()
    for watchdog in watchdogs(tmp_path):
        watchdog.kill()
    agent.kill()
    agent.wait()
    assert watts(driver) == [500, 400]
    again, _, _ = start()
    assert watts(driver) == [700, 700]
    assert again.health()["restored"] == {f"GPU-{i}": "restored to 700 W" for i in range(2)}


def test_a_killed_watchdog_is_replaced_before_the_next_change(
    start: Any, driver: Path, tmp_path: Path
) -> None:
    agent, _, store = start()
    store.plan = plan()
    until(lambda: watts(driver) == [500, 400])
    first = agent.health()["watchdog_pid"]
    os.kill(first, signal.SIGKILL)
    store.plan = plan({"a/0": 600.0, "a/1": 600.0})
    until(lambda: watts(driver) == [600, 600])
    assert agent.health()["watchdog_pid"] not in (None, first)


def test_without_a_watchdog_nothing_is_changed(
    start: Any, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.watchdog.sys.executable", "/bin/false")
    agent, _, store = start()
    store.plan = plan()
    until(lambda: "watchdog did not start" in agent.health()["carrying"])
    assert watts(driver) == [700, 700]


def test_a_watchdog_ignores_ctrl_c(driver: Path, tmp_path: Path) -> None:
    dog = Watchdog(tmp_path / "state" / "nodes" / "a")
    dog.guard(time.time() + 100)
    pid = dog.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    dog.guard(time.time() + 200)
    assert dog.pid == pid
    dog.close()
    until(lambda: not psutil.pid_exists(pid))


def test_caps_of_a_node() -> None:
    assert node_caps(plan(), "b", time.time()) == {0: 300.0}
    with pytest.raises(InputError):
        node_caps(plan(), "c", time.time())
    with pytest.raises(Refused):
        node_caps(plan(), "a", time.time() + 1000)


def test_caps_of_a_node_in_a_joint_plan() -> None:
    whole = plan(planner="joint", energy=plan(), nodes=[], absent={})
    assert node_caps(whole, "a", time.time()) == {0: 500.0, 1: 400.0}
    without = {**whole, "energy": None, "absent": {"energy": "no power reading yet"}}
    with pytest.raises(Refused, match="no power reading yet"):
        node_caps(without, "a", time.time())
    stale = {**whole, "expires_at": time.time() - 1}  # the joint plan's own time counts
    with pytest.raises(Refused, match="expired"):
        node_caps(stale, "a", time.time())
