"""Plans handed to Ray itself: placement groups, the autoscaler, node drain, Serve's replica counts.

``hand_over(plan)`` says exactly which calls it would make and makes none; with ``apply`` it makes
them. A job of a fabric plan becomes a placement group on the plan's nodes, kept within one NVLink
domain where the plan keeps it there (``topology_strategy`` on Ray's label ``ray.io/gpu-domain``).
What the jobs need is asked of the autoscaler. Nodes that an energy plan leaves idle, and no job and
no expert is on, are drained. Serve deployments get as many replicas as ``active_accelerators``
carry.

A plan's node is the Ray node with that name in its label ``qcluster.io/node``, else the only one
with that host name or address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Protocol

from actors.ray_calls import RayCalls
from qcluster.errors import InputError, QClusterError, Refused
from qcluster.exports.parts import assignment, parts, place_of
from qcluster.record import Record

__all__ = ["DOMAIN_LABEL", "NODE_LABEL", "Action", "Cluster", "Replicas", "hand_over"]

NODE_LABEL, DOMAIN_LABEL, _ID_LABEL = "qcluster.io/node", "ray.io/gpu-domain", "ray.io/node-id"
_HEAD = "node:__internal_head__"


@dataclass(frozen=True, kw_only=True, eq=False)
class Action(Record):
    """One call to Ray. ``says`` is the call as it would be typed; ``error`` why it is not made."""

    kind: str
    subject: str
    says: str
    arguments: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """A Serve deployment whose replicas run on ``per_replica`` accelerators of ``kind`` each."""

    app: str
    deployment: str
    kind: str = "gpu"
    per_replica: int = 1
    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        for name in ("per_replica", "least"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"wants a count of at least 1, got {value!r}", field=name)
        if self.most is not None and self.most < self.least:
            raise InputError(f"is below 'least', {self.least}", field="most")


class Cluster(Protocol):
    """What is asked of Ray; see ``actors.ray_calls``."""

    def nodes(self) -> list[dict[str, Any]]:
        """``ray.nodes()``."""
        ...

    def groups(self) -> list[str]:
        """Names of the placement groups that are there or wait."""
        ...

    def placement_group(self, **arguments: Any) -> None:
        """Make one, detached."""
        ...

    def request_resources(self, **arguments: Any) -> None:
        """Ask the autoscaler."""
        ...

    def drain_node(self, *, node_id: str, reason: str, reason_message: str) -> None:
        """Drain a node; raises Refused when Ray does not accept."""
        ...

    def scale(self, *, app: str, deployment: str, num_replicas: int) -> None:
        """Set a deployment's replicas."""
        ...


def hand_over(
    plan: Mapping[str, Any],
    *,
    apply: bool = False,
    pin: bool = True,
    replicas: Sequence[Replicas] = (),
    cluster: Cluster | None = None,
) -> list[Action]:
    """What Ray is told of a plan, in order; told only with ``apply``.

    Parameters
    ----------
    plan: a fabric, energy or joint plan, as ``to_dict`` gives it.
    pin: groups take the plan's own nodes; False leaves the choice of nodes within the domain to
        Ray, which can then move a group when a node dies.
    replicas: Serve deployments that follow ``active_accelerators``.
    cluster: the connected Ray; a stand-in for tests.

    An action that fails has an ``error``; the others are done all the same.

    Raises InputError for a plan with nothing to hand over; Refused to apply a plan that was made
    from simulated telemetry; NotReady without a Ray.
    """
    found = parts(plan)
    if not {"nvlink", "energy"} & found.keys():
        raise InputError("Ray takes plans of nvlink and energy; this one has neither")
    if apply and any(_simulated(part) for part in (plan, *found.values())):
        raise Refused("a plan from simulated telemetry cannot be applied")
    ray: Cluster = cluster or RayCalls()
    nodes = _Nodes(ray.nodes())
    actions: list[Action] = []
    if "nvlink" in found:
        actions += _groups(found["nvlink"], nodes, ray.groups(), pin)
        actions += _demand(actions)
    if "energy" in found:
        actions += _drains(found, nodes)
        actions += [_scale(found["energy"], want) for want in replicas]
    return [_do(action, ray) for action in actions] if apply else actions


def _simulated(plan: Mapping[str, Any]) -> bool:
    source = plan.get("telemetry")
    return bool(isinstance(source, Mapping) and source.get("simulated"))


class _Nodes:
    """Living Ray nodes by the names that plans have for them."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        living = [row for row in rows if row.get("Alive", row.get("alive"))]
        self._named: dict[str, Mapping[str, Any]] = {}
        for key in ("NodeManagerAddress", "NodeManagerHostname"):
            names = [row.get(key) for row in living]
            for name, row in zip(names, living, strict=True):
                if isinstance(name, str) and names.count(name) == 1:
                    self._named[name] = row
        for row in living:
            if name := (row.get("Labels") or {}).get(NODE_LABEL):
                self._named[name] = row

    def id(self, node: str) -> str | None:
        """Ray's id of a plan's node; None when Ray does not have it."""
        row = self._named.get(node)
        return None if row is None else str(row["NodeID"])

    def domain(self, names: Iterable[str]) -> str | None:
        """The domain that all these nodes are in; None when there is none."""
        rows = [self._named.get(name) for name in names]
        found = {(row or {}).get("Labels", {}).get(DOMAIN_LABEL) for row in rows}
        return found.pop() if len(found) == 1 else None

    def is_head(self, node: str) -> bool:
        """Whether Ray's head runs there."""
        return _HEAD in self._named.get(node, {}).get("Resources", {})


def _groups(
    plan: Mapping[str, Any], nodes: _Nodes, there: Sequence[str], pin: bool
) -> list[Action]:
    """A placement group a job: a bundle for each run of ranks on one node."""
    actions = []
    for job, gpus in assignment(plan).items():
        prefix, name = f"qcluster-{job}-", f"qcluster-{job}-{plan.get('plan_id', '')}"
        hosts = [place_of(gpu)[0] for gpu in gpus]
        runs = [(host, len(list(ranks))) for host, ranks in groupby(hosts)]
        domain = nodes.domain(hosts)
        arguments: dict[str, Any] = {
            "name": name,
            "bundles": [{"GPU": count} for _, count in runs],
            "lifetime": "detached",
        }
        error = None
        if missing := [host for host in hosts if nodes.id(host) is None]:
            error = f"Ray has no node '{missing[0]}'"
        elif other := [group for group in there if group.startswith(prefix)]:
            same = other[0] == name
            error = "is there" if same else f"runs in {other[0]}: remove that to move it"
        elif pin:
            arguments["bundle_label_selector"] = [{_ID_LABEL: nodes.id(host)} for host, _ in runs]
        if domain is not None:
            arguments["topology_strategy"] = {_ID_LABEL: "PACK", DOMAIN_LABEL: "STRICT_PACK"}
        actions.append(_action("placement_group", job, arguments, error))
    return actions


def _demand(groups: Sequence[Action]) -> list[Action]:
    """One request for what all jobs need: each request replaces the one before."""
    bundles = [bundle for action in groups for bundle in action.arguments["bundles"]]
    return [_action("request_resources", "all jobs", {"bundles": bundles})] if bundles else []


def _drains(found: Mapping[str, Mapping[str, Any]], nodes: _Nodes) -> list[Action]:
    """Nodes without power to use, and without a rank or an expert."""
    busy = set()
    if "nvlink" in found:
        for gpus in assignment(found["nvlink"]).values():
            busy |= {place_of(gpu)[0] for gpu in gpus}
    if "routing" in found:
        busy |= _serving(found["routing"])
    actions = []
    for row in found["energy"].get("nodes") or ():
        name = str(row.get("id"))
        if row.get("active", True) or name in busy:
            continue
        ray_id, error = nodes.id(name), None
        if ray_id is None:
            error = f"Ray has no node '{name}'"
        elif nodes.is_head(name):
            error = "Ray's head runs there"
        message = f"idle in plan {found['energy'].get('plan_id', '')}"
        arguments = {
            "node_id": ray_id, "reason": "DRAIN_NODE_REASON_IDLE_TERMINATION",
            "reason_message": message,
        }  # fmt: skip
        actions.append(_action("drain_node", name, arguments, error))
    return actions


def _serving(plan: Mapping[str, Any]) -> set[str]:
    """Nodes whose GPUs hold experts."""
    placement, gpus = plan["placement"], plan["gpu_ids"]
    held = {
        gpu
        for row in placement["slots"]
        for expert, gpu in zip(row, placement["gpu_of_slot"], strict=True)
        if expert >= 0
    }
    return {place_of(gpus[gpu])[0] for gpu in held}


def _scale(plan: Mapping[str, Any], want: Replicas) -> Action:
    active = (plan.get("active_accelerators") or {}).get(want.kind)
    subject = f"{want.app}/{want.deployment}"
    arguments: dict[str, Any] = {"app": want.app, "deployment": want.deployment}
    if isinstance(active, bool) or not isinstance(active, int):
        return _action("scale", subject, arguments, f"the plan counts no '{want.kind}'")
    number = max(active // want.per_replica, want.least)
    number = number if want.most is None else min(number, want.most)
    return _action("scale", subject, {**arguments, "num_replicas": number})


def _action(kind: str, subject: str, arguments: dict[str, Any], error: str | None = None) -> Action:
    typed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return Action(
        kind=kind, subject=subject, says=f"{kind}({typed})", arguments=arguments, error=error
    )


def _do(action: Action, ray: Cluster) -> Action:
    if action.error is not None:
        return action
    call: Callable[..., None] = getattr(ray, action.kind)
    try:
        call(**action.arguments)
    except QClusterError as error:
        return replace(action, error=str(error))
    return replace(action, done=True)
