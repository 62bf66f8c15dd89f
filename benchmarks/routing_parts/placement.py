"""Placement against EPLB: balance, proof, duplicates on a GPU, time."""

from __future__ import annotations

from statistics import median
from typing import Any

import harness

from qcluster.q_routing import place_experts
from routing_parts import loads, opponents, timing

_FIGURES = ("balancedness", "doubled", "time_ratio")


def cases() -> list[dict[str, Any]]:
    flat = {"nodes": 1, "groups": 1, "mode": "global"}
    pinned = {"nodes": 4, "groups": 8, "mode": "hierarchical"}
    found = [
        {"name": f"Zipf {s} 256 to {gpus}", "load": loads.zipf(s), "slots": 288, "gpus": gpus}
        | flat
        for gpus in (32, 72)
        for s in (0.5, 0.8, 1.1)
    ]
    found += [
        {"name": f"real {task} 64 to 16", "load": loads.real(task), "slots": 96, "gpus": 16} | flat
        for task in ("intent", "law")
    ]
    found += [
        {"name": f"groups on nodes, Zipf {s}", "load": loads.zipf(s), "slots": 288, "gpus": 32}
        | pinned
        for s in (0.5, 0.8, 1.1)
    ]
    return found


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Every case: ours beside SGLang's and, where given, DeepSeek's; times alternated."""
    del fresh  # times of opponents are only worth something measured beside ours
    sides = {"sglang": opponents.sglang(), "deepseek": opponents.deepseek()}
    sides = {name: call for name, call in sides.items() if call is not None}
    rows, results = [], []
    for case in cases():
        result = _one(case, sides, 3 if quick else 7)
        results.append(result)
        rows.append((
            result["name"], result["balancedness"], result["upper_bound"],
            result["balancedness"] / result["upper_bound"], result["doubled"], result["cpu_ms"],
            *(result["opponents"].get(n, {}).get(f, "-") for n in sides for f in _FIGURES),
        ))  # fmt: skip
    harness.table(
        "Placement (time ratio: CPU time of the opponent over ours, all on one thread)",
        (
            "case", "ours", "bound", "of bound", "doubled", "CPU ms",
            *(label for n in sides for label in (n, "doubled", "time ratio")),
        ),
        rows,
    )  # fmt: skip
    return results


def _one(case: dict[str, Any], sides: dict[str, Any], repeats: int) -> dict[str, Any]:
    load, pinned = case["load"], case["mode"] == "hierarchical"

    def ours() -> Any:
        return place_experts(
            load,
            num_slots=case["slots"],
            num_gpus=case["gpus"],
            num_nodes=case["nodes"],
            num_groups=case["groups"],
            mode=case["mode"],
        )

    placement = ours()
    reached, doubled = loads.counted(placement.slots, load, case["gpus"])
    result: dict[str, Any] = {
        "name": case["name"],
        "balancedness": reached,
        "upper_bound": placement.upper_bound,
        "doubled": doubled,
        "cpu_ms": 1e3 * median(timing.seconds(ours) for _ in range(repeats)),
        "opponents": {},
    }
    for name, call in sides.items():
        given = (load, case["slots"], case["groups"], case["nodes"], case["gpus"], pinned)

        def theirs(call: Any = call, given: Any = given) -> Any:
            return call(*given)

        score, twice = loads.counted(theirs(), load, case["gpus"])
        mine, other = timing.paired(ours, theirs, repeats)
        result["opponents"][name] = {
            "balancedness": score, "doubled": twice, "time_ratio": other / mine,
        }  # fmt: skip
    return result
