"""Plans handed to a real Ray of fake nodes: groups, autoscaler, drain and replicas as planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest
from servers import ROOT

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def handed() -> dict[str, Any]:
    """What Ray says after the hand-over."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = ROOT / "tests" / "system" / "fake_nodes.py"
    with tempfile.TemporaryDirectory(prefix="qh-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        done = subprocess.run(
            [sys.executable, script, temp],
            capture_output=True, text=True, check=False, env=environment, timeout=240,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def actions(handed: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {row["subject"]: row for row in handed["actions"] if row["kind"] == kind}


def test_a_dry_run_leaves_no_group_behind(handed: dict[str, Any]) -> None:
    assert handed["groups_before"] == []
    assert any(says.startswith("placement_group(") for says in handed["dry_calls"])


def test_ray_places_jobs_on_the_plans_nodes(handed: dict[str, Any]) -> None:
    assert handed["placed"]
    assert handed["groups"] == {
        "qcluster-inside-p1": ["n0", "n1"],
        "qcluster-across-p1": ["n2", "n3"],
    }


def test_the_domain_is_asked_for_where_the_plan_keeps_it(handed: dict[str, Any]) -> None:
    asked = {job: row["arguments"] for job, row in actions(handed, "placement_group").items()}
    assert asked["inside"]["topology_strategy"]["ray.io/gpu-domain"] == "STRICT_PACK"
    assert "topology_strategy" not in asked["across"]


def test_a_job_larger_than_what_is_free_in_a_domain_waits(handed: dict[str, Any]) -> None:
    assert handed["big_done"]
    assert not handed["big_placed"]


def test_idle_nodes_leave_and_busy_ones_stay(handed: dict[str, Any]) -> None:
    assert handed["drained"]
    assert handed["living"] == ["head", "n0", "n1", "n2", "n3"]


def test_the_autoscaler_is_asked_for_the_jobs(handed: dict[str, Any]) -> None:
    assert actions(handed, "request_resources")["all jobs"]["done"]
    assert handed["demand"] == 4


def test_serve_follows_active_accelerators(handed: dict[str, Any]) -> None:
    assert handed["scaled"]
    found = actions(handed, "scale")
    assert found["shop/Model"]["done"]
    assert "no application 'none'" in found["none/Model"]["error"]


def test_a_newer_plan_does_not_double_what_runs(handed: dict[str, Any]) -> None:
    assert handed["again"] == [
        "runs in qcluster-inside-p1: remove that to move it",
        "runs in qcluster-across-p1: remove that to move it",
    ]
