"""What carrying a plan out would set, whether the agents are doing it, and how it is undone.

Agents on the nodes follow the newest safe joint plan by themselves when the server was started
with ``--apply``; nothing here sets a limit. A plan that may not be carried out is refused for the
reasons for which an agent would refuse it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from actors.node_agent import node_caps, power_part
from qcluster.errors import QClusterError, Refused

__all__ = ["apply_report", "restore_report"]


def apply_report(
    plan: Mapping[str, Any], current: Mapping[str, Any] | None, agents: Any, *, apply: bool
) -> dict[str, Any]:
    """``{plan_id, dry_run, expires_at, caps_w: {node: {gpu index: watts}}, agents}``.

    For a joint plan also ``routing: {plan_id, moved_slots}`` and ``nvlink: {plan_id, assignment}``,
    which the serving engine and the jobs' launcher carry out. ``current`` is the plan in force,
    ``agents`` has ``health`` as ``actors.cluster.Agents``. ``dry_run`` is false only where agents
    carry this plan out; those that a restored plan holds back go on with it. Raises Refused for a
    plan of another planner, from simulated telemetry, expired, or not the one that agents follow.
    """
    _check_planner(plan)
    now = time.time()
    nodes = power_part(plan)["nodes"]
    caps = {one["id"]: node_caps(plan, one["id"], now) for one in nodes if one["caps_w"]}
    if not caps:
        raise Refused("the plan has no caps")
    if apply and (current is None or current["plan_id"] != plan["plan_id"] or current["stale"]):
        newest = "none" if current is None else current["plan_id"]
        raise Refused(f"agents carry out the newest safe plan, which is {newest}")
    if apply and agents is not None:
        agents.resume()
    return {
        "plan_id": plan["plan_id"],
        "dry_run": not apply,
        "expires_at": plan["expires_at"],
        "caps_w": {node: {str(i): w for i, w in found.items()} for node, found in caps.items()},
        "agents": _health(agents),
        **_handed_over(plan),
    }


def _handed_over(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What others than our agents carry out of a joint plan."""
    wanted = {"routing": ("plan_id", "moved_slots"), "nvlink": ("plan_id", "assignment")}
    return {
        part: {name: plan[part][name] for name in names}
        for part, names in wanted.items()
        if plan.get(part) is not None
    }


def restore_report(plan: Mapping[str, Any], agents: Any, *, apply: bool) -> dict[str, Any]:
    """``{plan_id, dry_run, nodes: {node: what its agent did}}``: a carried-out plan is undone.

    Agents put back what stood before the plan, and carry no plan out until one is applied.
    Raises Refused for a plan that no agent carried out, NotReady when the agents are away.
    """
    _check_planner(plan)
    nodes = agents.undo(plan["plan_id"], dry_run=not apply) if agents is not None else {}
    if not nodes:
        raise Refused(f"no agent has carried {plan['plan_id']} out, so nothing is to be put back")
    dry_run = all(done.get("dry_run", not apply) for done in nodes.values())
    return {"plan_id": plan["plan_id"], "dry_run": dry_run, "nodes": nodes}


def _check_planner(plan: Mapping[str, Any]) -> None:
    if plan["planner"] not in ("joint", "energy"):
        raise Refused(
            f"only joint and energy plans are carried out, this one is of {plan['planner']}"
        )


def _health(agents: Any) -> dict[str, Any]:
    """What each node's agent says; empty where there are none or nobody answers."""
    try:
        found: dict[str, Any] = agents.health() if agents is not None else {}
    except QClusterError as error:
        return {"": {"carrying": str(error)}}
    return found
