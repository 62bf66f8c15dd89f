"""Placements by traffic: experts that tokens pick together stand together, near the layer before.

One objective a layer: pairs of experts times the distance of their GPUs (as in Occult, 2025), and
for each pick the way from where the layer before served the token (as in ExFlow, 2024), lowered by
annealing under a load cap. Distances are those of the fabric, so that node boundaries and narrow
links count for what they are; without one, every other GPU is as far. Spare slots go to the busiest
experts, for only what has copies can be shared out when loads change, each copy to where it saves
most visits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.moves import MoveBudget
from qcluster.q_routing._traffic_kernels import (
    anneal_groups,
    cover_layer,
    extra_gain,
    pair_counts,
    pull_back,
    visited,
)
from qcluster.q_routing.fabric import far_of, settle
from qcluster.q_routing.problem import EMPTY, PlacementProblem
from qcluster.q_routing.sticky import kinds, repaired, replan
from qcluster.q_routing.traffic import holds, serve

__all__ = ["place_by_traffic", "visits", "within"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_PLAN_WEIGHT, _PLAN_SLACK = 20.0, 0.03
_ANNEAL_STEPS, _CAP = 200_000, 1.05
_PULL = 1.0
"""Weight of the way from the layer before beside that between the experts of a token."""
_FARTHEST = 1.25
"""Distance of the farthest GPU to the planner; the nearest is at 1."""


def place_by_traffic(
    problem: PlacementProblem, picks: Ints, area: Ints, zone: Ints, distance: Floats
) -> Ints:
    """Slots (layers, num_slots) that keep ``picks`` (tokens, layers, k) of a token together.

    ``zone`` (gpus,) and ``area`` (layers, experts): experts stay in their zone, as groups of
    experts on their node in hierarchical mode. ``distance`` (gpus, gpus) as of ``distances``.
    """
    layers, experts = problem.load.shape[1:]
    slots = np.full((layers, problem.num_slots), EMPTY, dtype=np.int64)
    total, kind = problem.load.sum(axis=0), kinds(problem)
    soft, far = _softened(distance), far_of(distance, np.arange(problem.num_gpus))
    speed = np.where(problem.speed > 0, problem.speed, 1.0)
    before: Flags | None = None
    for x in range(layers):
        row = np.ascontiguousarray(picks[:, x])
        pull = np.zeros((experts, problem.num_gpus))
        if before is not None:
            pull = _PULL * pull_back(row, before, soft, experts)
        for part in range(int(zone.max()) + 1):
            live = np.flatnonzero((problem.speed > 0) & (zone == part))
            members = np.flatnonzero(area[x] == part)
            local = np.full(experts, -1)
            local[members] = np.arange(len(members))
            first = problem.slot_start[live]
            room = np.minimum(problem.slot_start[live + 1] - first, len(members))
            on = _place_layer(
                local[row], total[x, members], room, problem.speed[live],
                np.ascontiguousarray(soft[np.ix_(live, live)]), pull[np.ix_(members, live)], x,
            )  # fmt: skip
            for g, begin in enumerate(first):
                held = members[on[:, g]]
                slots[x, begin : begin + len(held)] = held
        on = holds(slots[x], problem.gpu_of_slot, experts, problem.num_gpus)
        now = visited(row, on, speed, far)
        slots[x], before = settle(problem, slots[x], distance, kind, now, before)
    return slots


def _softened(distance: Floats) -> Floats:
    """Distances whose longest is ``_FARTHEST``: a visit costs most of its price wherever it leads,
    so that a narrow link does not make up for many GPUs.
    """
    longest = float(distance.max(initial=1.0))
    if longest <= _FARTHEST:
        return distance
    scale = (_FARTHEST - 1) / (longest - 1)
    return np.where(distance > 0, 1 + (np.maximum(distance, 1) - 1) * scale, 0.0)


def visits(problem: PlacementProblem, slots: Ints, picks: Ints, distance: Floats) -> Floats:
    """(layers,) what a token's visits cost on average (GPUs, weighed by distance), times how far
    the fullest GPU is ahead of the mean: what a plan by traffic is to keep small.
    """
    live = np.flatnonzero(problem.speed > 0)
    speed, far, out = problem.speed[live], far_of(distance, live), np.empty(len(slots))
    for x, row in enumerate(slots):
        on = holds(row, problem.gpu_of_slot, problem.load.shape[2], problem.num_gpus)[:, live]
        _, cost, load = serve(np.ascontiguousarray(picks[:, x]), on, speed, far)
        out[x] = cost / len(picks) * float((load / speed).max() * speed.sum() / load.sum())
    return out


def within(
    problem: PlacementProblem,
    picks: Ints,
    before: Ints,
    max_moved: float,
    target: Ints,
    distance: Floats,
) -> Ints:
    """Layers of ``target`` while the budget lasts, best gain for each slot moved first; the rest
    of the budget goes to the load of the other layers.
    """
    near = repaired(problem, before)
    worth = visits(problem, near, picks, distance) - visits(problem, target, picks, distance)
    price = ((target != before) & (target != EMPTY)).sum(axis=1)
    forced = ((near != before) & (near != EMPTY)).sum(axis=1)
    left = MoveBudget.of(before, max_moved).limit - int(forced.sum())
    chosen = np.zeros(len(near), dtype=bool)
    for x in np.argsort(-worth / np.maximum(price, 1), kind="stable"):
        if worth[x] > 0 and price[x] - forced[x] <= left:
            chosen[x] = True
            left -= int(price[x] - forced[x])
    out = np.where(chosen[:, None], target, near)
    rest = np.flatnonzero(~chosen)
    if left > 0 and len(rest):
        part = replace(problem, load=np.ascontiguousarray(problem.load[:, rest]))
        share = min(1.0, (left + int(forced[rest].sum())) / before[rest].size)
        out[rest] = replan(part, before[rest], share, Deadline.never())
    return out


def _place_layer(
    picks: Ints, load: Floats, room: Ints, speed: Floats, distance: Floats, pull: Floats, seed: int
) -> Flags:
    """(experts, gpus) which GPU holds which expert; ``room`` (gpus,) slots are all used."""
    experts, gpus = len(load), len(room)
    home = _deal(load, room, speed)
    anneal_groups(
        pair_counts(picks, experts), pull, distance, load, home, speed, _CAP, _ANNEAL_STEPS, seed
    )
    on = np.zeros((experts, gpus), dtype=np.bool_)
    on[np.arange(experts), home] = True
    copies, far = np.ones(experts), far_of(distance, np.arange(gpus))
    for _ in range(int(room.sum()) - experts):
        worth = _worth(picks, on, room, speed, far)
        # The busiest expert for which a GPU with room is left.
        for e in np.argsort(-load / copies, kind="stable"):
            if worth[e].max() > 0:
                on[e, int(worth[e].argmax())] = True
                copies[e] += 1
                break
    return on


def _worth(picks: Ints, on: Flags, room: Ints, speed: Floats, far: Floats) -> Floats:
    """(experts, gpus) what one more copy would save in visits, less where the GPU is ahead in load;
    -1 where there is no room or a copy is already.
    """
    gain, served, carried = np.empty(on.shape), np.empty_like(picks), np.zeros(len(room))
    cover_layer(picks, on, speed, far, _PLAN_WEIGHT, _PLAN_SLACK, carried, served)
    extra_gain(picks, served, on, far, gain)
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
