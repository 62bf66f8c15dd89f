"""Traffic: few GPUs for each token, at even load.

Experts that tokens pick together are put on one GPU (as Occult, 2025, and ExFlow, 2024, do), by
annealing under a load cap. Spare slots go to the busiest experts, for only what has copies can be
shared out when loads change, each copy to where it saves most visits. A token's picks are served by
a greedy cover (Chvatal 1979) that turns away from GPUs which are ahead in load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_routing._traffic_kernels import (
    anneal_groups,
    cover_layer,
    extra_gain,
    pair_counts,
)
from qcluster.q_routing.problem import EMPTY, Placement, PlacementProblem
from qcluster.q_routing.traces import Trace

__all__ = ["crossing", "dispatch", "fan_out", "place_by_traffic", "read_picks", "visits"]

Ints = NDArray[np.int64]

LOAD_SLACK = 0.32
"""How far a GPU may lead the others, as a share of the final mean and divided by the number of
GPUs, before picks turn away: the more GPUs, the smaller the room that a lead may take.
"""
LOAD_WEIGHT = 30.0
"""How strongly they then turn away: 1/30 further, wholly."""
_PLAN_WEIGHT, _PLAN_SLACK = 20.0, 0.03
_FIT_TOKENS, _ANNEAL_STEPS, _CAP = 4096, 200_000, 1.05


def dispatch(placement: Placement, expert_ids: ArrayLike) -> Ints:
    """GPU of each pick, same shape as ``expert_ids`` (tokens, layers, k).

    Each token's picks go to few GPUs, while the GPUs of a layer stay evenly loaded for their
    speeds; tokens are served in order. Raises InputError when an expert is out of range or the
    layers are not those of the placement.
    """
    picks = _picks(expert_ids, placement.num_experts)
    layers = len(placement.slots)
    if picks.shape[1] != layers:
        raise InputError(f"wants {layers} layers, got {picks.shape[1]}", field="expert_ids")
    out = np.empty_like(picks)
    live = np.flatnonzero(placement.speed > 0)
    for x in range(layers):
        on = _holds(placement.slots[x], placement.gpu_of_slot, placement.num_experts,
                    placement.num_gpus)[:, live]  # fmt: skip
        chosen = np.empty((picks.shape[0], picks.shape[2]), dtype=np.int64)
        row = np.ascontiguousarray(picks[:, x])
        load = np.zeros(len(live))
        cover_layer(
            row, on, placement.speed[live], LOAD_WEIGHT, LOAD_SLACK / len(live), load, chosen
        )
        out[:, x] = live[chosen]
    return out


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


def place_by_traffic(problem: PlacementProblem, picks: Ints, area: Ints, zone: Ints) -> Ints:
    """Slots (layers, num_slots) that keep ``picks`` (tokens, layers, k) of a token together.

    ``zone`` (gpus,) and ``area`` (layers, experts): experts stay in their zone, as groups of
    experts on their node in hierarchical mode.
    """
    layers = problem.load.shape[1]
    slots = np.full((layers, problem.num_slots), EMPTY, dtype=np.int64)
    total = problem.load.sum(axis=0)
    for part in range(int(zone.max()) + 1):
        live = np.flatnonzero((problem.speed > 0) & (zone == part))
        first = problem.slot_start[live]
        for x in range(layers):
            members = np.flatnonzero(area[x] == part)
            local = np.full(area.shape[1], -1)
            local[members] = np.arange(len(members))
            room = np.minimum(problem.slot_start[live + 1] - first, len(members))
            row = np.ascontiguousarray(local[picks[:, x]])
            on = _place_layer(row, total[x, members], room, problem.speed[live], x)
            for g, begin in enumerate(first):
                held = members[on[:, g]]
                slots[x, begin : begin + len(held)] = held
    return slots


def visits(problem: PlacementProblem, slots: Ints, picks: Ints) -> NDArray[np.float64]:
    """(layers,) GPUs visited by a token on average, times how far the fullest GPU is ahead of the
    mean: what a plan by traffic is to keep small.
    """
    live = np.flatnonzero(problem.speed > 0)
    speed, out = problem.speed[live], np.empty(len(slots))
    served = np.empty((len(picks), picks.shape[2]), dtype=np.int64)
    for x, row in enumerate(slots):
        on = _holds(row, problem.gpu_of_slot, problem.load.shape[2], problem.num_gpus)[:, live]
        load = np.zeros(len(live))
        number = cover_layer(
            np.ascontiguousarray(picks[:, x]),
            on,
            speed,
            LOAD_WEIGHT,
            LOAD_SLACK / len(live),
            load,
            served,
        )
        out[x] = number / len(picks) * float((load / speed).max() * speed.sum() / load.sum())
    return out


def _place_layer(
    picks: Ints, load: NDArray[np.float64], room: Ints, speed: NDArray[np.float64], seed: int
) -> NDArray[np.bool_]:
    """(experts, gpus) which GPU holds which expert; ``room`` (gpus,) slots are all used."""
    experts, gpus = len(load), len(room)
    pairs = pair_counts(picks, experts)
    home = _deal(load, room, speed)
    anneal_groups(pairs, load, home, speed, _CAP, _ANNEAL_STEPS, seed)
    on = np.zeros((experts, gpus), dtype=np.bool_)
    on[np.arange(experts), home] = True
    copies = np.ones(experts)
    for _ in range(int(room.sum()) - experts):
        worth = _worth(picks, on, room, speed)
        # The busiest expert for which a GPU with room is left.
        for e in np.argsort(-load / copies, kind="stable"):
            if worth[e].max() > 0:
                on[e, int(worth[e].argmax())] = True
                copies[e] += 1
                break
    return on


def _worth(
    picks: Ints, on: NDArray[np.bool_], room: Ints, speed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(experts, gpus) what one more copy would save in visits, less where the GPU is ahead in load;
    -1 where there is no room or a copy is already.
    """
    gain, served, carried = np.empty(on.shape), np.empty_like(picks), np.zeros(len(room))
    cover_layer(picks, on, speed, _PLAN_WEIGHT, _PLAN_SLACK, carried, served)
    extra_gain(picks, served, on, gain)
    ahead = carried / speed * (speed.sum() / max(carried.sum(), 1.0)) - 1
    worth = (gain + 1e-3) * np.maximum(0.05, 1 - 5 * ahead)[None, :]
    worth[:, on.sum(axis=0) >= room] = -1.0
    worth[on] = -1.0
    return np.asarray(worth, dtype=np.float64)


def _deal(load: NDArray[np.float64], room: Ints, speed: NDArray[np.float64]) -> Ints:
    """(experts,) a first home each: heaviest first to the GPU that is least loaded, with each
    GPU's part of all slots as its limit.
    """
    experts = len(load)
    part = room * experts // int(room.sum())
    for g in np.argsort(-(room - part), kind="stable"):
        if part.sum() < experts:
            part[g] += min(int(room[g] - part[g]), experts - int(part.sum()))
    home, total = np.zeros(experts, dtype=np.int64), np.zeros(len(room))
    for e in np.argsort(-load, kind="stable"):
        g = int(np.where(part > 0, (total + load[e]) / speed, np.inf).argmin())
        home[e] = g
        total[g] += load[e]
        part[g] -= 1
    return home


def _holds(slots: Ints, owner: Ints, experts: int, gpus: int) -> NDArray[np.bool_]:
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
