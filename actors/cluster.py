"""Where plain classes become Ray actors, and typed handles to them.

Every actor is named, detached and restarted by Ray as often as it takes; its methods may be
retried because they are idempotent. Handles are typed: callers write ``hub.wait(3, 1.0)`` and get
a value, not an object reference, and an actor that is away raises NotReady.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.agents import AgentKeeper
from actors.attention_worker import AttentionWorker
from actors.codec_pool import CodecPool
from actors.environment import NAMESPACE, STATE_LABEL
from actors.gateway import QuantumGateway
from actors.hub import TelemetryHub
from actors.jobs import JobDesk
from actors.node_agent import NodeAgent
from actors.planner_host import PlannerHost
from actors.planners import HOSTS, checked_configs
from actors.store import PlanStore
from actors.studies import StudyHost
from qcluster.errors import NotFound, NotReady, QClusterError
from qcluster.telemetry.sources.nvml import driver_state, nvml_source

__all__ = ["Agents", "Remote", "connect", "start_cluster", "stop_cluster"]

HUB, STORE, JOBS, KEEPER = "telemetry-hub", "plan-store", "job-desk", "agent-keeper"
STUDIES = "study-host"
GATEWAY, CODEC = "quantum-gateway", "codec-pool"
ATTENTION = "attention-worker"
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
        except (QClusterError, RayError, ValueError, TimeoutError) as error:
            # An error that comes from an actor is Ray's, whatever class it claims to be, and its
            # text is a traceback; what was raised over there is its cause.
            cause = getattr(error, "cause", error)
            if isinstance(cause, QClusterError):
                raise cause from None
            self._handle = None
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise NotReady(f"{self._name} is away: {message}") from None


def connect(name: str, timeout_s: float = 35.0) -> Any:
    """A handle to the actor called ``name``."""
    return Remote(name, timeout_s)


class RayNodes:
    """The nodes of a Ray cluster, as the keeper of the agents sees them."""

    def __init__(self, state_dir: str, apply: bool, follow: str) -> None:
        self._state_dir, self._apply, self._follow = state_dir, apply, follow

    def nodes(self) -> dict[str, str]:
        """Living nodes: id and host name."""
        return {n["NodeID"]: n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"]}

    def driver(self, node_id: str) -> str:
        """The state of the GPU driver on a node."""
        probe = ray.remote(driver_state).options(
            num_cpus=0, max_retries=0, scheduling_strategy=_on(node_id)
        )
        return str(ray.get(probe.remote(), timeout=60.0).state)

    def start(self, node_id: str, name: str) -> None:
        """Start the node's agent."""
        # An agent that is stuck on an absent store must still see its plan expire.
        _actor(NodeAgent, agent_name(node_id), scheduling_strategy=_on(node_id)).remote(
            connect(HUB, 5.0), connect(STORE, 5.0), self._state_dir, node=name, apply=self._apply,
            follow=self._follow,
        )  # fmt: skip

    def forget(self, node_id: str, name: str) -> None:
        """End the agent of a node that has left; its watchdog there puts old limits back."""
        # First the hub: planners wait for nothing else.
        with contextlib.suppress(NotReady):
            connect(HUB, 5.0).lose(nvml_source(name))
        with contextlib.suppress(ValueError, RayError):
            ray.kill(ray.get_actor(agent_name(node_id), namespace=NAMESPACE))


class Agents:
    """All node agents, wherever they are."""

    def health(self) -> dict[str, Any]:
        """What each node's agent says, by node name; empty where there are no agents."""
        try:
            nodes = connect(KEEPER, 5.0).health()["agents"]
        except NotReady:
            return {}
        return {name: self._one(node_id) for node_id, name in nodes.items()}

    def undo(self, plan_id: str, *, dry_run: bool) -> dict[str, Any]:
        """Have every node that carried a plan out put back what stood before it.

        Gives by node what its agent did, or ``{error}``; see ``NodeAgent.undo``.
        """
        done: dict[str, Any] = {}
        for node_id, name in connect(KEEPER, 5.0).health()["agents"].items():
            try:
                done[name] = connect(agent_name(node_id), 15.0).undo(plan_id, dry_run=dry_run)
            except NotFound:
                continue
            except QClusterError as error:
                done[name] = {"error": str(error)}
        return done

    def resume(self) -> None:
        """Have agents carry plans out again after an ``undo``. Raises NotReady."""
        for node_id in connect(KEEPER, 5.0).health()["agents"]:
            connect(agent_name(node_id), 5.0).resume()

    def _one(self, node_id: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = connect(agent_name(node_id), 5.0).health()
        except NotReady as error:
            found = {"carrying": str(error)}
        return found


def agent_name(node_id: str) -> str:
    """Actor name of a node's agent."""
    return f"node-agent-{node_id}"


def _here() -> dict[str, Any]:
    """Options that let an actor run on this node and on no other."""
    node_id = ray.get_runtime_context().get_node_id()
    labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
    label = labels[node_id].get(STATE_LABEL)
    if label is None:
        return {"scheduling_strategy": _on(node_id)}
    return {"label_selector": {STATE_LABEL: label}}


def _on(node_id: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


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
    agents: bool = False,
    stand_in: str | None = None,
    apply: bool = False,
    backends: Sequence[str] = (),
) -> None:
    """Start hub, store, planners and the gateway to quantum ``backends`` (the built-in simulator
    alone without); those that are up already stay as they are, but planners take ``configs`` over,
    by planner, without a gap.

    The store is tied to this node, because the state directory is on its disk; so are hub and
    planners, because a node that is lost should not take along those who plan without it. They are
    tied by the node's label, which a node that comes back has again, or by its id where it has
    none. With ``agents`` every node that has GPUs gets a ``NodeAgent``, which sets power limits
    only if ``apply``; ``stand_in`` is the source that runs until one of them delivers.
    """
    here = _here()
    hosts = tuple(planners)
    _actor(TelemetryHub, HUB, **here).remote(tuple(telemetry), stand_in=stand_in)
    _actor(PlanStore, STORE, **here).remote(str(state_dir), hosts)
    _actor(JobDesk, JOBS, **here).remote(str(state_dir))
    _actor(StudyHost, STUDIES, **here).remote(str(state_dir))
    _actor(AttentionWorker, ATTENTION).remote()
    _actor(CodecPool, CODEC).remote()
    _actor(QuantumGateway, GATEWAY).remote(tuple(backends))
    chosen = checked_configs(configs or {})
    connect(STORE).configure(chosen)
    for name in hosts:
        host: type[PlannerHost] = HOSTS[name]
        actor = _actor(host, planner_name(name), **here).remote(
            connect(HUB), connect(STORE), chosen[name], period_s
        )
        actor.configure.remote(chosen[name])  # nothing happens where it was started with that
    if agents:
        follow = "joint" if "joint" in hosts else "energy"
        _actor(AgentKeeper, KEEPER, **here).remote(RayNodes(str(state_dir), apply, follow))


def stop_agents() -> None:
    """End the agents, which put the old power limits back first."""
    try:
        nodes = connect(KEEPER).stop()
        ray.kill(ray.get_actor(KEEPER, namespace=NAMESPACE))
    except (NotReady, ValueError, RayError):
        return  # there are none
    for node in nodes:
        with contextlib.suppress(NotReady):
            connect(agent_name(node), 10.0).stop()
        with contextlib.suppress(ValueError, RayError):
            ray.kill(ray.get_actor(agent_name(node), namespace=NAMESPACE))


def stop_cluster(planners: Sequence[str] = tuple(HOSTS)) -> None:
    """End the actors. Stored plans stay on disk."""
    stop_agents()
    others = [HUB, STORE, JOBS, STUDIES, ATTENTION, GATEWAY, CODEC]
    for name in [*map(planner_name, planners), *others]:
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
