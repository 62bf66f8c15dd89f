"""The life of a server: first plan, kills of every part, Ctrl-C, restart with its plans."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import ROOT, Server, slowness

PLANNERS = ("routing", "energy", "nvlink", "joint")
# What is promised (``slowness``), and how long to wait before a thing counts as never coming.
FIRST_PLAN_S, HEAD_BACK_S, NEVER_S = 40.0, 30.0, 300.0

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def slow() -> float:
    return slowness()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("kills"), "--telemetry", "simulate:nvl72")
    try:
        server.wait_ready()
        yield server
    finally:
        server.destroy()


def plan_ids(server: Server) -> set[str]:
    found: set[str] = set()
    for planner in PLANNERS:
        answer = server.http.get(f"/v1/plans/{planner}/history", params={"limit": 1000})
        found |= {p["plan_id"] for p in answer.raise_for_status().json()["plans"]}
    return found


def read_through(server: Server, seconds: float) -> tuple[int, list[str], float]:
    """Read plans and page for a while: how many reads, which failed, the worst stall."""
    reads, failures, worst = 0, [], 0.0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for path in ("/v1/plans", "/", "/healthz"):
            began = time.monotonic()
            try:
                answer = server.http.get(path)
                if answer.status_code != 200:
                    failures.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            except httpx.TransportError as error:
                failures.append(f"{path}: {error!r}")
            worst = max(worst, time.monotonic() - began)
            reads += 1
    return reads, failures, worst


def test_the_first_valid_plan_comes(slow: float, tmp_path: Path) -> None:
    server = Server(tmp_path, "--telemetry", "simulate:nvl72")
    try:
        took = server.wait_ready(NEVER_S)
        print(f"first plan of every planner after {took:.1f} s")
        assert took <= slow * FIRST_PLAN_S
        assert set(server.plans()["plans"]) >= set(PLANNERS)
    finally:
        server.destroy()


@pytest.mark.parametrize(
    "role",
    [
        "ray::RoutingPlanner",
        "ray::EnergyPlanner",
        "ray::NVLinkPlanner",
        "ray::TelemetryHub",
        "ray::PlanStore",
        "ray::ServeReplica:qcluster-api",
        "ray::ServeReplica:qcluster-events",
        "ray::ServeController",
        "qcluster.worker",
    ],
)
def test_kill_9_loses_no_plan_and_planning_goes_on(running: Server, role: str) -> None:
    acknowledged = plan_ids(running)
    running.kill(role)
    reads, failures, _ = read_through(running, 4.0)
    assert reads > 10
    # A client without retries may see the moment of death of what it was talking to.
    assert len(failures) <= 6, failures
    running.until(lambda: running.http.get("/readyz").status_code == 200, 300.0)
    assert acknowledged <= plan_ids(running)
    before = running.plans()["plans"]

    def all_moved() -> bool:
        now = running.plans()["plans"]
        return all(now[name]["plan_id"] != before[name]["plan_id"] for name in PLANNERS)

    running.until(all_moved, 300.0)


@pytest.mark.parametrize("role", ["gcs/gcs_server", "raylet/raylet "])
def test_a_dead_head_is_started_again_with_its_plans(
    running: Server, role: str, slow: float
) -> None:
    acknowledged = plan_ids(running)
    last = {name: running.plans()["plans"][name]["plan_id"] for name in PLANNERS}
    killed = time.monotonic()
    dead = running.kill(role)

    def back() -> bool:
        if not [pid for pid in running.pids(role) if pid != dead]:
            return False
        # Nothing is at these paths until the application is deployed again.
        path = "/v1/plans/routing/history"
        return running.http.get(path, timeout=2.0).status_code == 200 and (
            acknowledged <= plan_ids(running)
        )

    running.until(back, NEVER_S)
    took = time.monotonic() - killed
    print(f"{role}: stored plans back after {took:.1f} s")
    assert took <= slow * HEAD_BACK_S
    running.until(lambda: running.http.get("/readyz").status_code == 200, NEVER_S)
    now = {name: running.plans()["plans"][name]["plan_id"] for name in PLANNERS}
    assert all(now[name] != last[name] for name in PLANNERS)


def test_a_dead_planner_is_an_alarm_and_its_plan_goes_stale(running: Server) -> None:
    running.until(lambda: running.http.get("/readyz").status_code == 200, NEVER_S)
    pid = running.pids("ray::EnergyPlanner")[0]
    subprocess.run(["kill", "-STOP", str(pid)], check=True)  # alive but starved
    try:
        found = running.until(
            lambda: (v := running.http.get("/v1/plans/energy/latest").json())["alarm"] and v, 60.0
        )
        assert "no word from the energy planner" in found["alarm"]
        assert found["plan"]["stale"] is True
        assert found["plan"]["age_s"] > 2
        assert running.http.get("/readyz").status_code == 503
    finally:
        subprocess.run(["kill", "-CONT", str(pid)], check=True)
    running.until(lambda: running.http.get("/readyz").status_code == 200, 300.0)


def test_ctrl_c_leaves_nothing_and_ends_no_other_ray(tmp_path: Path) -> None:
    first = Server(tmp_path / "a", "--telemetry", "simulate:nvl72", "--replicas", "1")
    second = Server(tmp_path / "b", "--telemetry", "simulate:nvl72", "--replicas", "1")
    try:
        first.wait_ready(180.0)
        second.wait_ready(180.0)
        stored = plan_ids(first)
        assert first.stop(signal.SIGINT) == 0, first.log.read_text()
        assert first.left_over() == []
        assert second.http.get("/readyz").status_code == 200
        again = Server(tmp_path / "a", "--telemetry", "push", "--replicas", "1")
        try:
            again.until(lambda: again.http.get("/healthz").status_code == 200, 300.0)
            assert stored <= again.until(lambda: plan_ids(again))
            shown = again.http.get("/v1/plans/routing/latest").json()
            assert shown["plan"]["stale"] is True
            assert again.stop(signal.SIGTERM) == 0
            assert again.left_over() == []
        finally:
            again.destroy()
    finally:
        first.destroy()
        second.destroy()


def test_a_killed_server_leaves_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, "--telemetry", "simulate:nvl72", "--replicas", "1")
    try:
        server.wait_ready()
        server.process.kill()
        server.process.wait()
        assert server.left_over(30.0) == []
    finally:
        server.destroy()


def test_the_same_state_directory_twice_is_refused(running: Server) -> None:
    command = [sys.executable, "-m", "qcluster", "serve", "--port", "18999"]
    command += ["--state-dir", str(running.state_dir), "--telemetry", "push"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 1
    assert f"in use by the server at {running.url}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_status_and_plans_verbs_see_the_running_server(running: Server) -> None:
    def verb(*arguments: str) -> Any:
        command = [sys.executable, "-m", "qcluster", *arguments]
        command += ["--state-dir", str(running.state_dir)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
        ).stdout

    assert running.url in verb("status")
    for planner in PLANNERS:
        assert planner in verb("plans", "list")
        assert "objective" in verb("plans", "explain", f"latest:{planner}")


def test_no_network_beyond_loopback_is_listened_on(running: Server) -> None:
    with socket.socket() as probe:
        probe.settimeout(2)
        address = socket.gethostbyname(socket.gethostname())
        if address.startswith("127."):
            pytest.skip("this machine has no address beyond loopback")
        assert probe.connect_ex((address, running.port)) != 0
