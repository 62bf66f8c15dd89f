"""Slots without looking back: pack every layer, then search on where it is far from its proof.

All of it looks at the deadline between layers; a layer that time does not reach is packed by
longest processing time first, which takes a fraction of a millisecond.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.q_routing._kernels import weigh_layers
from qcluster.q_routing._place_kernels import place_layers
from qcluster.q_routing.bounds import tighten, time_bound
from qcluster.q_routing.groups import pair_groups
from qcluster.q_routing.problem import EMPTY, PlacementProblem
from qcluster.q_routing.sticky import improve

__all__ = ["bounds_of", "solve"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Swaps stop this close to the bound: further steps cost time and gain nothing out of sample.
_TOLERANCE = 5e-4
_MAX_SWAPS = 20_000
# Further from its bound than this, a layer is worth the slower search.
_FAR = 1e-2
# Further from its bound than this, a layer is worth the sharper bound.
_LOOSE = 3e-3
# Under a deadline one layer may try other copies while tries x slots are fewer, and swap as often.
_TRIES, _SWAPS = 2**16, 2**21


def solve(problem: PlacementProblem, deadline: Deadline) -> tuple[Ints, Floats]:
    """Slots (layers, num_slots) and a bound (windows, layers) on the largest GPU time.

    Raises InputError when a node's live GPUs cannot hold its experts.
    """
    total = problem.load[0] if len(problem.load) == 1 else problem.load.sum(axis=0)
    slots = np.full((len(total), problem.num_slots), EMPTY, dtype=np.int64)
    if problem.mode == "hierarchical":
        bound = _by_node(problem, total, slots, deadline)
    else:
        if problem.speed.min() > 0 and np.diff(problem.slot_start).max() <= total.shape[1]:
            # Every slot is used: nothing to leave out.
            slots, floor, time = _by_layer(total, problem.slot_start, problem.speed, deadline)
        else:
            gpus = np.arange(problem.num_gpus)
            floor, time = _fill(problem, total, slots, gpus, None, deadline)
        if len(problem.load) == 1 and (time <= floor * (1 + _LOOSE)).all():
            return slots, floor[None]
        bound = floor[None] if len(problem.load) == 1 else bounds_of(problem)
    return _polish(problem, slots, bound, deadline)


def _by_node(problem: PlacementProblem, total: Floats, slots: Ints, deadline: Deadline) -> Floats:
    """Pair groups with nodes, then place each node's experts; the bound (windows, layers)."""
    gpus = np.arange(problem.num_gpus)
    everyone = np.arange(total.shape[1])
    bound = bounds_of(problem)
    per_node = len(gpus) // problem.num_nodes
    groups = everyone.reshape(problem.num_groups, -1)
    node_speed = problem.speed.reshape(problem.num_nodes, -1).sum(axis=1)
    members = np.empty((problem.num_nodes, len(total), len(everyone) // problem.num_nodes), int)
    for layer, row in enumerate(total):
        node, floor = pair_groups(row[groups].sum(axis=1), node_speed)
        if len(problem.load) == 1:
            bound[0, layer] = max(bound[0, layer], floor)
        for n in range(problem.num_nodes):
            members[n, layer] = groups[node == n].ravel()
    for n in range(problem.num_nodes):
        part = gpus[n * per_node : (n + 1) * per_node]
        _fill(problem, total, slots, part, members[n], deadline.share(1 / (problem.num_nodes - n)))
    return bound


def _fill(
    problem: PlacementProblem,
    total: Floats,
    slots: Ints,
    gpus: Ints,
    members: Ints | None,
    deadline: Deadline,
) -> tuple[Floats, Floats]:
    """Place ``members`` (layers, experts of this part; None: all) onto ``gpus``; writes their
    slots and returns a time (layers,) that their fullest GPU needs, and the one that it takes.
    """
    experts = total.shape[1] if members is None else members.shape[1]
    gpus = gpus[problem.speed[gpus] > 0]
    first = problem.slot_start[gpus]
    room = np.minimum(problem.slot_start[gpus + 1] - first, experts)
    if int(room.sum()) < experts:
        raise InputError(
            f"{int(room.sum())} slots on a node's live GPUs cannot hold its {experts} experts",
            field="num_slots",
        )
    start = np.concatenate([[0], np.cumsum(room)]).astype(np.int64)
    where = np.repeat(first - start[:-1], room) + np.arange(start[-1])
    load = total if members is None else np.take_along_axis(total, members, axis=1)
    local, floor, time = _by_layer(np.ascontiguousarray(load), start, problem.speed[gpus], deadline)
    if members is not None:
        named = np.take_along_axis(members, np.maximum(local, 0), axis=1)
        local = np.where(local >= 0, named, EMPTY)
    slots[:, where] = local
    return floor, time


def _by_layer(
    load: Floats, start: Ints, speed: Floats, deadline: Deadline
) -> tuple[Ints, Floats, Floats]:
    """``place_layers``, layer by layer while there is time; the rest is packed only."""
    size = int(start[-1])

    def some(part: Floats, swaps: int, tries: int) -> tuple[Ints, Floats, Floats]:
        slots, floor, time = place_layers(
            part, start, speed, _TOLERANCE, swaps, _LOOSE, _FAR, tries
        )
        return slots, floor, time

    if deadline.at == np.inf:
        return some(load, _MAX_SWAPS, size)
    swaps, tries = min(_MAX_SWAPS, _SWAPS // size), max(4, _TRIES // size)
    found = [
        some(load[x : x + 1], *((0, 0) if deadline.expired else (swaps, tries)))
        for x in range(len(load))
    ]
    slots, floor, time = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return slots, floor, time


def _polish(
    problem: PlacementProblem, slots: Ints, bound: Floats, deadline: Deadline
) -> tuple[Ints, Floats]:
    """Layers that are far from their bound first get a sharper one; those that still are get
    searched on, number of copies included. Returns slots and bound (windows, layers).
    """
    loads, _ = weigh_layers(problem.load, slots, problem.gpu_of_slot, problem.num_gpus)
    alive = problem.speed > 0
    time = (loads[..., alive] / problem.speed[alive]).max(axis=2)
    room = np.diff(problem.slot_start)
    bound = tighten(bound, time, problem.load, room, problem.speed, _LOOSE, deadline)
    far = np.flatnonzero(time.sum(axis=0) > bound.sum(axis=0) * (1 + _FAR))
    if not len(far) or deadline.expired:
        return slots, bound
    part = replace(problem, load=np.ascontiguousarray(problem.load[:, far]))
    out = slots.copy()
    out[far] = improve(part, slots[far], deadline)
    return out, bound


def bounds_of(problem: PlacementProblem) -> Floats:
    """(windows, layers): no placement's largest GPU time in that window is smaller."""
    room = np.diff(problem.slot_start)
    return np.stack([time_bound(window, room, problem.speed) for window in problem.load])
