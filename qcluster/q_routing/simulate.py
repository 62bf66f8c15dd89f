"""What a way of planning would have done on a recorded trace, window after window.

Each window is served by the plan made from what came before it, as a live cluster would: nothing
is scored on the load that it was planned for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_routing.config import PlacementConfig
from qcluster.q_routing.placement import place_experts
from qcluster.q_routing.problem import Placement, balancedness
from qcluster.q_routing.split import split
from qcluster.q_routing.traces import Window
from qcluster.q_routing.traffic import dispatch, fan_out
from qcluster.q_routing.windows import blend
from qcluster.record import Record

__all__ = ["Simulation", "simulate"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation(Record):
    """Figures of each window but the first, which is only planned on; arrays (windows - 1,).

    ``ts_s`` its start; ``equal`` and ``weighted`` its balancedness with copies sharing equally and
    with the split at dispatch time; ``moved`` slots changed before it; ``switched`` whether a
    switch of domain was seen before it; ``fan_out`` GPUs a token visits in a layer and
    ``covered`` the balancedness of that dispatch, both NaN unless asked for.
    """

    ts_s: NDArray[np.float64]
    equal: NDArray[np.float64]
    weighted: NDArray[np.float64]
    moved: NDArray[np.int64]
    switched: NDArray[np.bool_]
    fan_out: NDArray[np.float64]
    covered: NDArray[np.float64]
    slots: int

    @property
    def moved_share(self) -> float:
        """Mean share of all slots that a replan changed; the first plan is none."""
        return float(self.moved[1:].mean()) / self.slots if len(self.moved) > 1 else 0.0


def simulate(
    windows: Iterable[Window],
    *,
    num_slots: int,
    num_gpus: int,
    config: PlacementConfig | None = None,
    replan: bool = True,
    cover: bool = False,
) -> Simulation:
    """Plan and serve the ``windows`` of a ``replay`` in turn.

    ``config`` has the live planner's toggles (its slots and mode are not looked at); ``replan``
    False keeps the first plan. With ``cover`` experts are placed by the picks of the window before
    and tokens are dispatched to few GPUs, so that fan-out is known. Raises InputError when there
    are fewer than two windows, or the slots cannot hold the experts.
    """
    config = config or PlacementConfig()
    seen: list[NDArray[np.float64]] = []
    rows: list[tuple[float, ...]] = []
    plan: Placement | None = None
    last: Window | None = None
    for now in windows:
        moved, switch = 0, False
        if last is not None:
            load, switch = blend(np.stack(seen), config.memory, config.switch_distance)
            if plan is None or replan:
                made = place_experts(
                    load,
                    num_slots=num_slots,
                    num_gpus=num_gpus,
                    previous=plan,
                    max_moved=None if plan is None else config.max_moved,
                    trace=last.expert_ids if cover else None,
                )
                moved, plan = len(made.moves), made
            rows.append((now.ts_s, *_served(plan, now, cover), moved, switch))
        seen = [*seen, now.load][-config.windows :]
        last = now
    if plan is None:
        raise InputError("a simulation wants at least two windows", field="windows")
    ts, equal, weighted, fan, covered, moves, switches = map(np.array, zip(*rows, strict=True))
    return Simulation(
        ts_s=ts,
        equal=equal,
        weighted=weighted,
        moved=moves.astype(np.int64),
        switched=switches.astype(np.bool_),
        fan_out=fan,
        covered=covered,
        slots=plan.slots.size,
    )


def _served(plan: Placement, now: Window, cover: bool) -> tuple[float, float, float, float]:
    equal, weighted = plan.balancedness_on(now.load), split(plan, now.load).balancedness
    if not cover:
        return equal, weighted, float("nan"), float("nan")
    gpus = dispatch(plan, now.expert_ids)
    layers = gpus.shape[1]
    carried = np.stack([np.bincount(gpus[:, x].ravel(), minlength=plan.num_gpus)
                        for x in range(layers)]).astype(np.float64)  # fmt: skip
    return equal, weighted, fan_out(gpus), balancedness(carried, plan.speed)
