"""Where plain classes become Ray actors, and typed handles to them.

Every actor is named, detached and restarted by Ray as often as it takes; its methods may be
retried because they are idempotent. Handles are typed: callers write ``hub.wait(3, 1.0)`` and get
a value, not an object reference, and an actor that is away raises NotReady.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.environment import NAMESPACE
from actors.hub import TelemetryHub
from actors.jobs import JobDesk
from actors.planner_host import PlannerHost
from actors.planners import HOSTS
from actors.store import PlanStore
from qcluster.errors import NotReady, QClusterError

__all__ = ["Remote", "connect", "start_cluster", "stop_cluster"]

HUB, STORE, JOBS = "telemetry-hub", "plan-store", "job-desk"
# Long polls hold a thread each: planners, event streams and the health checks of every replica.
_THREADS = 64


class Remote:
    """A handle to a named actor that is called like the object itself.

    Looks the actor up by name on every failure, so it survives restarts and can be pickled to
    anywhere in the cluster.
    """

    def __init__(self, name: str, timeout_s: float = 35.0) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._handle: Any = None

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **kwargs: self._call(method, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_timeout_s": self._timeout_s, "_handle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _call(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
            reference = getattr(self._handle, method).remote(*args, **kwargs)
            return ray.get(reference, timeout=self._timeout_s)
        except QClusterError:
            raise
        except (RayError, ValueError, TimeoutError) as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, QClusterError):
                raise cause from None
            self._handle = None
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NotReady(f"{self._name} is away: {message}") from None


def connect(name: str) -> Any:
    """A handle to the actor called ``name``."""
    return Remote(name)


def planner_name(planner: str) -> str:
    """Actor name of a planner's host."""
    return f"{planner}-planner"


def start_cluster(
    *,
    telemetry: Sequence[str],
    state_dir: Path,
    planners: Sequence[str] = tuple(HOSTS),
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    period_s: float = 2.0,
) -> None:
    """Start hub, store and planners; those that are up already stay as they are.

    The store is tied to this node, because the state directory is on its disk.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    hosts = tuple(planners)
    _actor(TelemetryHub, HUB).remote(tuple(telemetry))
    _actor(PlanStore, STORE, scheduling_strategy=here).remote(str(state_dir), hosts)
    _actor(JobDesk, JOBS, scheduling_strategy=here).remote(str(state_dir))
    for name in hosts:
        host: type[PlannerHost] = HOSTS[name]
        config = dict((configs or {}).get(name, {}))
        _actor(host, planner_name(name)).remote(connect(HUB), connect(STORE), config, period_s)


def stop_cluster(planners: Sequence[str] = tuple(HOSTS)) -> None:
    """End the actors. Stored plans stay on disk."""
    for name in [*map(planner_name, planners), HUB, STORE, JOBS]:
        try:
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        except (ValueError, RayError):
            continue  # it is not there


def _actor(cls: type, name: str, **options: Any) -> Any:
    return ray.remote(cls).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_THREADS,
        **options,
    )
