"""Next-window balance on real traces: plans made on what was seen, scored on what came after.

Every window is planned for with the windows before it and scored on the next. Equal split is what
serving engines do; weighted is the split at dispatch time.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from qcluster.q_routing import place_experts
from qcluster.q_routing.problem import Placement
from qcluster.q_routing.split import split
from qcluster.q_routing.windows import blend
from routing_parts import loads, opponents

SHAPES = ((80, 8), (96, 16))


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Stationary and alternating traces; full replans, sticky ones, none, and EPLB."""
    del quick, fresh
    eplb = opponents.sglang()
    series = {
        "stationary intent": loads.stationary("intent"),
        "stationary law": loads.stationary("law"),
        "alternating": loads.alternating(),
    }
    rows, results = [], []
    for name, windows in series.items():
        for slots, gpus in SHAPES:
            forms: dict[str, Any] = {
                "none": _keep,
                "full": _ours(slots, gpus, None),
                "sticky 5 %": _ours(slots, gpus, 0.05),
            }
            if eplb is not None:
                forms["EPLB"] = _theirs(eplb, slots, gpus)
            for form, plan in forms.items():
                result = {"trace": name, "slots": slots, "gpus": gpus, "form": form}
                result |= _score(windows, plan, slots, gpus)
                results.append(result)
                rows.append((
                    name, f"{slots}/{gpus}", form, result["equal"], result["weighted"],
                    result["moved"],
                ))  # fmt: skip
    harness.table(
        "Next window (1,000 tokens): balancedness and share of slots moved a replan",
        ("trace", "slots/GPUs", "replan", "equal", "weighted", "moved"),
        rows,
    )
    return results


def _score(windows: np.ndarray, plan: Any, slots: int, gpus: int) -> dict[str, float]:
    first = place_experts(windows[0], num_slots=slots, num_gpus=gpus)
    placement, moved = first, []
    mean = equal = weighted = 0.0
    for i in range(1, len(windows) - 1):
        before = placement
        placement = plan(windows[: i + 1], placement)
        moved.append(float((before.slots != placement.slots).mean()))
        real = windows[i + 1]
        mean += real.sum() / gpus
        equal += placement.gpu_loads(real).max(axis=1).sum()
        weighted += split(placement, real).time.sum()
    return {"equal": mean / equal, "weighted": mean / weighted, "moved": float(np.mean(moved))}


def _keep(seen: np.ndarray, last: Placement) -> Placement:
    del seen
    return last


def _ours(slots: int, gpus: int, share: float | None) -> Any:
    def plan(seen: np.ndarray, last: Placement) -> Placement:
        load, _ = blend(np.asarray(seen[-4:], dtype=float), 0.5, 0.25)
        if share is None:
            return place_experts(load, num_slots=slots, num_gpus=gpus)
        return place_experts(load, num_slots=slots, num_gpus=gpus, previous=last, max_moved=share)

    return plan


def _theirs(eplb: Any, slots: int, gpus: int) -> Any:
    def plan(seen: np.ndarray, last: Placement) -> Placement:
        found = eplb(seen[-1], slots, 1, 1, gpus, False)
        return Placement(
            slots=found,
            gpu_of_slot=last.gpu_of_slot,
            num_experts=last.num_experts,
            num_gpus=gpus,
            balancedness=0.0,
            upper_bound=1.0,
            speed=last.speed,
        )

    return plan
