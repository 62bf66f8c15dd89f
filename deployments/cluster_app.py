"""The actors as a Serve application: for clusters that are described by YAML alone.

``deployments.cluster_app:build`` starts hub, store, planners and node agents on the cluster that
Serve runs on, where ``qcluster serve`` would otherwise do it. Its one replica runs on the head,
which owns the state directory. The actors outlive the replica and an upgrade of the application.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

__all__ = ["ClusterOptions", "build"]


class ClusterOptions(BaseModel):
    """Arguments of the application, as in the YAML's ``args``."""

    model_config = ConfigDict(extra="forbid")

    state_dir: str
    """Directory on the head where plans are stored; node agents use the same path on their node."""
    telemetry: list[str] = []
    """Sources of the hub, as for ``qcluster serve``; agents deliver without being listed."""
    stand_in: str | None = None
    """One of ``telemetry`` that runs until an agent delivers, such as ``simulate:nvl72``."""
    period_s: float = Field(2.0, ge=0.2, le=3600.0)
    apply: bool = False
    """Whether agents set power limits."""
    planners: dict[str, dict[str, Any]] = {}
    """Configurations by planner, such as ``energy: {budget_w: 40000}``; another one given to a
    running cluster is taken over without a gap."""
    backends: list[str] = []
    """Quantum backends of the gateway by preference, such as ``ibm:auto``; the last is built in."""


@serve.deployment(
    name="cluster",
    num_replicas=1,
    # Every Ray head has this resource, and no other node.
    ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
    health_check_period_s=5,
    health_check_timeout_s=40,
)
class Cluster:
    """Starts the actors; those that are up stay as they are."""

    def __init__(self, options: dict[str, Any]) -> None:
        from actors.cluster import HUB, STORE, connect, start_cluster

        chosen = ClusterOptions(**options)
        start_cluster(
            telemetry=chosen.telemetry,
            state_dir=Path(chosen.state_dir),
            period_s=chosen.period_s,
            agents=True,
            stand_in=chosen.stand_in,
            apply=chosen.apply,
            backends=chosen.backends,
            configs=chosen.planners,
        )
        self._parts = (connect(HUB), connect(STORE))

    def check_health(self) -> None:
        """Raises NotReady when hub or store does not answer."""
        for part in self._parts:
            part.health()

    def __call__(self) -> dict[str, Any]:
        """Health of hub and store."""
        hub, store = self._parts
        return {"hub": dict(hub.health()), "store": store.health()}


def build(args: ClusterOptions) -> Application:
    """The application; it has no route."""
    return Cluster.bind(args.model_dump())  # type: ignore[attr-defined]
