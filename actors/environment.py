"""Every Ray variable that qcluster sets, with its reason. Nothing else in the tree sets one.

They must be in the environment before Ray's processes start, so ``qcluster serve`` puts them there
for a cluster of its own; for a cluster that is already up, ``cluster.yaml`` sets the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

__all__ = ["NAMESPACE", "SETTINGS", "STATE_LABEL", "cluster_environment", "own_token"]

NAMESPACE = "qcluster"
"""Ray namespace of all named actors."""

STATE_LABEL = "qcluster.io/state"
"""Ray label of the node that has the state directory; it stays when the node's id changes."""

SETTINGS: Mapping[str, str] = {
    # A lost node is noticed after 3 misses at 0.5 s: 1.4 s instead of 15 s.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # A dead HTTP proxy is replaced in about 5 s instead of 31 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # The picture of a rack comes with the answer; above 100 kB it would be fetched afterwards.
    "RAY_max_direct_call_object_size": "1000000",
    # Workers step back behind Ray's own daemons, and planners whose plan is not the one carried out
    # behind the one whose is: from 15, where Ray starts workers, there is no room for that.
    "RAY_worker_niceness": "5",
    # Nothing is reported to anybody outside the cluster.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray hides devices from workers without GPUs of their own by default; planners need none.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray's own log lines of all actors on our stderr would bury what the user should read.
    "RAY_DEDUP_LOGS": "1",
    "RAY_AUTH_MODE": "token",
}


def cluster_environment(token: Path) -> dict[str, str]:
    """The variables for a cluster of our own; those that the user has set keep their values.

    ``token`` is the file with Ray's token: one per state directory, never the user's own.
    """
    chosen = {name: os.environ.get(name, value) for name, value in SETTINGS.items()}
    if "RAY_AUTH_TOKEN" not in os.environ:
        chosen["RAY_AUTH_TOKEN_PATH"] = str(token)
    # One thread a process: the planners run side by side, and BLAS pools would fight for cores.
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **chosen}


def own_token(state_dir: Path) -> Path:
    """The token file of this state directory, made with mode 0600 if it is not there."""
    path = state_dir / "ray_token"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return path
