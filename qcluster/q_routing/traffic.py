"""Traffic: few GPUs for each token, at even load.

A token's picks are served by a greedy cover (Chvatal 1979) that turns away from GPUs which are
ahead in load and, where a fabric is known, from far ones. ``gather`` makes placements for it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_routing._traffic_kernels import cover_layer
from qcluster.q_routing.fabric import FabricLike, distances, far_of
from qcluster.q_routing.problem import Placement, PlacementProblem
from qcluster.q_routing.traces import Trace

__all__ = ["crossing", "dispatch", "fan_out", "holds", "read_picks", "serve"]

Ints = NDArray[np.int64]

LOAD_SLACK = 0.28
"""How far a GPU may lead the others, as a share of the final mean and divided by the number of
GPUs, before picks turn away: the more GPUs, the smaller the room that a lead may take.
"""
LOAD_WEIGHT = 38.0
"""How strongly they then turn away: 1/38 further, wholly."""
_FIT_TOKENS = 4096


def dispatch(
    placement: Placement, expert_ids: ArrayLike, *, fabric: FabricLike | None = None
) -> Ints:
    """GPU of each pick, same shape as ``expert_ids`` (tokens, layers, k).

    Each token's picks go to few GPUs, with a ``fabric`` to near ones, while the GPUs of a layer
    stay evenly loaded for their speeds; tokens are served in order. Raises InputError when an
    expert is out of range, the layers are not those of the placement, or the fabric has other GPUs.
    """
    picks = _picks(expert_ids, placement.num_experts)
    layers = len(placement.slots)
    if picks.shape[1] != layers:
        raise InputError(f"wants {layers} layers, got {picks.shape[1]}", field="expert_ids")
    live = np.flatnonzero(placement.speed > 0)
    far = far_of(None if fabric is None else distances(fabric, placement.num_gpus), live)
    out = np.empty_like(picks)
    for x in range(layers):
        on = holds(placement.slots[x], placement.gpu_of_slot, placement.num_experts,
                   placement.num_gpus)[:, live]  # fmt: skip
        row = np.ascontiguousarray(picks[:, x])
        chosen, _, _ = serve(row, on, placement.speed[live], far)
        out[:, x] = live[chosen]
    return out


def serve(
    picks: Ints, on: NDArray[np.bool_], speed: NDArray[np.float64], far: NDArray[np.float64]
) -> tuple[Ints, float, NDArray[np.float64]]:
    """GPU of each pick (tokens, k) of one layer, what the visits cost, and the load (gpus,)."""
    chosen, load = np.empty_like(picks), np.zeros(len(speed))
    slack = LOAD_SLACK / len(speed)
    cost = cover_layer(picks, on, speed, far, LOAD_WEIGHT, slack, load, chosen)
    return chosen, float(cost), load


def fan_out(gpus: ArrayLike) -> float:
    """Mean number of distinct GPUs that a token is sent to in a layer, for (tokens, layers, k)."""
    ordered = np.sort(np.asarray(gpus), axis=-1)
    return float(1 + (np.diff(ordered, axis=-1) != 0).sum(axis=-1).mean())


def crossing(gpus: ArrayLike) -> float:
    """Share of visits, from the second layer on, to a GPU that did not serve the token in the layer
    before, for (tokens, layers, k).
    """
    served = np.asarray(gpus)
    now, last = served[:, 1:], served[:, :-1]
    fresh = ~(now[..., :, None] == last[..., None, :]).any(axis=-1)
    k = now.shape[-1]
    earlier = (now[..., :, None] == now[..., None, :]) & np.tri(k, k, -1, dtype=bool)
    first = ~earlier.any(axis=-1)
    return float((fresh & first).sum() / max(int(first.sum()), 1))


def read_picks(problem: PlacementProblem, trace: ArrayLike | Trace) -> Ints:
    """Router picks (tokens, layers, k) that fit the problem: at most 4,096 tokens, evenly spaced.

    ``trace`` are the picks, or a ``Trace`` that holds them. Raises InputError when experts or
    layers are not those of the load.
    """
    layers, experts = problem.load.shape[1:]
    picks = _picks(trace.expert_ids if isinstance(trace, Trace) else trace, experts)
    if picks.shape[1] != layers:
        raise InputError(f"wants {layers} layers, got {picks.shape[1]}", field="trace")
    return picks[:: -(-len(picks) // _FIT_TOKENS)]


def holds(slots: Ints, owner: Ints, experts: int, gpus: int) -> NDArray[np.bool_]:
    """(experts, gpus) which GPU has a copy of which expert, from slots (num_slots,) of a layer."""
    on = np.zeros((experts, gpus), dtype=np.bool_)
    used = slots >= 0
    on[slots[used], owner[used]] = True
    return on


def _picks(expert_ids: ArrayLike, experts: int) -> Ints:
    ids = np.asarray(expert_ids)
    if ids.dtype.kind not in "iu" or ids.ndim != 3 or 0 in ids.shape:
        message = f"wants whole numbers (tokens, layers, k), got {ids.dtype} of {ids.shape}"
        raise InputError(message, field="expert_ids")
    if int(ids.min()) < 0 or int(ids.max()) >= experts:
        raise InputError(f"holds an expert outside 0 to {experts - 1}", field="expert_ids")
    return ids.astype(np.int64)
