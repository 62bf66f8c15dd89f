"""Why a plan is as it is, in sentences and figures, from the plan's own envelope.

Used by ``qcluster plans explain`` and by the HTTP route, so that both say the same. It reads only
what every plan carries and knows no domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["explain"]


def explain(plan: Mapping[str, Any]) -> dict[str, Any]:
    """``{plan_id, planner, because: [sentences], figures: {...}}`` for a plan's ``to_dict``."""
    return {
        "plan_id": plan["plan_id"],
        "planner": plan["planner"],
        "because": [
            _solver(plan),
            _bound(plan),
            *_baselines(plan),
            *_conflicts(plan),
            *_pipelines(plan),
            _telemetry(plan),
            *_notes(plan),
        ],
        "figures": {
            name: plan.get(name)
            for name in ("objective", "lower_bound", "gap", "baselines", "quantum_gain", "wall_s")
        },
    }


def _solver(plan: Mapping[str, Any]) -> str:
    solver = plan["solver"]
    taken = f"{solver['used']} solved it in {1e3 * (plan['wall_s'] or 0):.1f} ms"
    if solver["fallback_reason"]:
        return f"{taken}; {solver['requested']} was asked for, but {solver['fallback_reason']}."
    return f"{taken}, as asked."


def _bound(plan: Mapping[str, Any]) -> str:
    objective = plan["objective"]
    if plan["lower_bound"] is None:
        reason = (plan.get("reasons") or {}).get("lower_bound", "unknown")
        return f"The objective is {objective:.6g} (smaller is better); no bound: {reason}."
    gap = "no" if not plan["gap"] else f"at most {plan['gap']:.3%}"
    return (
        f"The objective is {objective:.6g} (smaller is better); it is proven that nothing is "
        f"below {plan['lower_bound']:.6g}, so there is {gap} room left."
    )


def _baselines(plan: Mapping[str, Any]) -> list[str]:
    objective = plan["objective"]
    lines = []
    for name, value in sorted((plan.get("baselines") or {}).items(), key=lambda item: item[1]):
        if value == objective:
            lines.append(f"The baseline {name} reaches the same.")
        elif objective:
            worse = (value - objective) / abs(objective)
            word = "worse" if worse > 0 else "better"
            lines.append(f"The baseline {name} gives {value:.6g}, {abs(worse):.2%} {word}.")
    gain = plan.get("quantum_gain")
    if gain is None:
        reason = (plan.get("reasons") or {}).get("quantum_gain", "not measured")
        return [*lines, f"Quantum gain: none to report, {reason}."]
    verdict = "gained" if gain > 0 else "gained nothing against"
    return [*lines, f"The quantum path {verdict} the best classical baseline ({gain:+.6g})."]


def _conflicts(plan: Mapping[str, Any]) -> list[str]:
    """Of a joint plan: what stood in the way between its parts, and which parts there are not."""
    lines = []
    for one in plan.get("conflicts") or []:
        step = ""
        if one["before"] is not None and one["after"] is not None:
            step = f" (a step took {one['before']:.4f} of the ideal, now {one['after']:.4f})"
        between = " and ".join(one["between"])
        lines.append(f"Between {between}: {one['what']}; resolved by: {one['resolution']}{step}.")
    lines += [f"No {part}: {why}." for part, why in (plan.get("absent") or {}).items()]
    return lines


def _pipelines(plan: Mapping[str, Any]) -> list[str]:
    """Of a power plan whose pipeline was chosen: who chose, and what each costs by job category."""
    power = plan.get("energy") or plan
    choice = power.get("choice")
    if not choice:
        return []
    lines = [f"Pipeline {choice['pipeline']}, chosen by {choice['by']}: {choice['reason']}."]
    for category, costs in (power.get("pipeline_table") or {}).items():
        known = sorted((cost, name) for name, cost in costs.items() if cost is not None)
        told = ", ".join(f"{name} {cost:.4f}" for cost, name in known)
        lines.append(f"Mean cost over the cheapest for '{category}': {told}.")
    return lines


def _telemetry(plan: Mapping[str, Any]) -> str:
    source = plan["telemetry"]
    if not source["snapshot_hash"]:
        return "It was made from the request alone, not from live telemetry."
    kind = "simulated" if source["simulated"] else "live"
    return (
        f"It was made from {kind} snapshot {source['snapshot_hash']}, {source['age_s']:.1f} s old."
    )


def _notes(plan: Mapping[str, Any]) -> list[str]:
    return [f"Note: {line}" for line in plan.get("warnings") or []]
