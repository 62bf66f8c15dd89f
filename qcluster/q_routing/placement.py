"""Expert placement: how many copies of each expert, and on which GPU each copy stands.

Replicas by greedy halving of the largest share (exact for that part), packing by longest
processing time first under two rules (slots per GPU, no two copies of an expert on one GPU; Graham
1969), then swaps on the fullest GPU. Every answer comes with an upper bound on balancedness that
no placement can exceed: a GPU cannot finish before the mean does, nor before the largest share
that the number of slots forces.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError, SolverFailed
from qcluster.q_routing._kernels import place_layers, weigh_layers
from qcluster.q_routing.bounds import tighten, time_bound
from qcluster.q_routing.groups import pair_groups
from qcluster.q_routing.problem import (
    EMPTY,
    Placement,
    PlacementProblem,
    balancedness,
)
from qcluster.q_routing.sticky import align, improve, moves_between, replan
from qcluster.q_routing.traffic import place_by_traffic

__all__ = ["place_experts", "verify_placement"]

# Swaps stop this close to the bound: further steps cost time and gain nothing out of sample.
_TOLERANCE = 2e-4
_MAX_SWAPS = 20_000
# Further from its bound than this, a layer is worth the slower search.
_FAR = 8e-3
# Further from its bound than this, a layer is worth the sharper bound.
_LOOSE = 3e-3


def place_experts(
    load: ArrayLike,
    *,
    num_slots: int,
    num_gpus: int,
    num_nodes: int = 1,
    num_groups: int = 1,
    mode: str = "global",
    previous: Placement | ArrayLike | None = None,
    max_moved: float | None = None,
    trace: ArrayLike | None = None,
    slots_per_gpu: ArrayLike | None = None,
    speed: ArrayLike | None = None,
    alive: ArrayLike | None = None,
) -> Placement:
    """Place experts onto GPUs.

    Parameters
    ----------
    load: (layers, experts) or (windows, layers, experts), any count of at least 0. Several windows
        are balanced together: the sum of their largest GPU loads is what is minimised.
    num_slots: physical slots in each layer, over all GPUs; need not divide by ``num_gpus``.
    num_nodes, num_groups, mode: in mode "hierarchical" each group of consecutive experts stays on
        one node and each node takes the same number of groups.
    previous: the placement in force, or its slots (layers, num_slots).
    max_moved: share of all slots that may hold another expert than in ``previous``, 0 to 1. Copies
        that are needed because an expert would otherwise be lost are made in any case.
    trace: router picks (tokens, layers, k). Experts that are picked together then stand together,
        so that a token visits few GPUs (see ``dispatch``), at some cost in equal-split balance.
        Not together with ``max_moved`` or hierarchical mode.
    slots_per_gpu: (num_gpus,) slots of each GPU, adding up to ``num_slots``.
    speed: (num_gpus,) relative speeds. alive: (num_gpus,) False for GPUs that take nothing.

    Raises InputError naming the argument that is wrong.
    """
    problem = PlacementProblem.of(
        load,
        num_slots=num_slots,
        num_gpus=num_gpus,
        num_nodes=num_nodes,
        num_groups=num_groups,
        mode=mode,
        slots_per_gpu=slots_per_gpu,
        speed=speed,
        alive=alive,
    )
    before = _previous(previous, problem)
    if trace is not None:
        return _result(problem, *_by_traffic(problem, trace, before, max_moved), before)
    slots, bound = _solve(problem)
    slots, bound = _polish(problem, slots, bound)
    if before is not None:
        slots = replan(problem, before, max_moved, slots)
    return _result(problem, slots, bound, before)


def verify_placement(problem: PlacementProblem, slots: NDArray[np.int64]) -> None:
    """Raise SolverFailed unless all experts are held, none twice on a GPU, none on a dead GPU.

    Works from the problem alone, layer by layer in plain Python, on purpose unlike the solver.
    """
    experts, owner = problem.load.shape[2], problem.gpu_of_slot
    for layer, row in enumerate(slots):
        held = [(int(g), int(e)) for g, e in zip(owner, row, strict=True) if e != EMPTY]
        if len(set(held)) != len(held):
            raise SolverFailed(f"layer {layer}: an expert stands twice on one GPU")
        missing = set(range(experts)) - {e for _, e in held}
        if missing:
            raise SolverFailed(f"layer {layer}: expert {min(missing)} has no slot")
        if any(not 0 <= e < experts for _, e in held):
            raise SolverFailed(f"layer {layer}: a slot holds no known expert")
        if any(problem.speed[g] == 0 for g, _ in held):
            raise SolverFailed(f"layer {layer}: a dead GPU holds an expert")


def _solve(problem: PlacementProblem) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Slots (layers, num_slots) and a bound (windows, layers) on the largest GPU time."""
    total = problem.load.sum(axis=0)
    slots = np.full((len(total), problem.num_slots), EMPTY, dtype=np.int64)
    gpus = np.arange(problem.num_gpus)
    everyone = np.arange(total.shape[1])
    if problem.mode == "global":
        forced = _fill(problem, total, slots, gpus, None)
        if len(problem.load) > 1:
            return slots, _bounds(problem)
        mean = total.sum(axis=1) / problem.speed.sum()
        return slots, np.maximum(mean, forced / problem.speed.max())[None]
    bound = _bounds(problem)
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
        _fill(problem, total, slots, gpus[n * per_node : (n + 1) * per_node], members[n])
    return slots, bound


def _by_traffic(
    problem: PlacementProblem,
    trace: ArrayLike,
    before: NDArray[np.int64] | None,
    max_moved: float | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if max_moved is not None:
        raise InputError("cannot be combined with a trace", field="max_moved")
    slots = place_by_traffic(problem, trace)
    if before is not None:
        slots = align(problem, slots, before)
    return slots, _bounds(problem)


def _fill(
    problem: PlacementProblem,
    total: NDArray[np.float64],
    slots: NDArray[np.int64],
    gpus: NDArray[np.int64],
    members: NDArray[np.int64] | None,
) -> NDArray[np.float64]:
    """Place ``members`` (layers, experts of this part; None: all) onto ``gpus``; writes their
    slots and returns the largest share (layers,) that the number of slots forces.
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
    where = np.concatenate([np.arange(f, f + r) for f, r in zip(first, room, strict=True)])
    load = total if members is None else np.take_along_axis(total, members, axis=1)
    local, forced = place_layers(
        np.ascontiguousarray(load), start, problem.speed[gpus], _TOLERANCE, _MAX_SWAPS, _FAR
    )
    if members is not None:
        named = np.take_along_axis(members, np.maximum(local, 0), axis=1)
        local = np.where(local >= 0, named, EMPTY)
    slots[:, where] = local
    return np.asarray(forced, dtype=np.float64)


def _polish(
    problem: PlacementProblem, slots: NDArray[np.int64], bound: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Layers that are far from their bound first get a sharper one; those that still are get
    searched on, number of copies included. Returns slots and bound (windows, layers).
    """
    loads, _ = weigh_layers(problem.load, slots, problem.gpu_of_slot, problem.num_gpus)
    alive = problem.speed > 0
    time = (loads[..., alive] / problem.speed[alive]).max(axis=2)
    room = np.diff(problem.slot_start)
    bound = tighten(bound, time, problem.load, room, problem.speed, _LOOSE)
    far = np.flatnonzero(time.sum(axis=0) > bound.sum(axis=0) * (1 + _FAR))
    if not len(far):
        return slots, bound
    part = replace(problem, load=np.ascontiguousarray(problem.load[:, far]))
    out = slots.copy()
    out[far] = improve(part, slots[far])
    return out, bound


def _bounds(problem: PlacementProblem) -> NDArray[np.float64]:
    """(windows, layers): no placement's largest GPU time in that window is smaller."""
    room = np.diff(problem.slot_start)
    return np.stack([time_bound(window, room, problem.speed) for window in problem.load])


def _previous(
    previous: Placement | ArrayLike | None, problem: PlacementProblem
) -> NDArray[np.int64] | None:
    if previous is None:
        return None
    slots: Any = previous.slots if isinstance(previous, Placement) else previous
    slots = np.asarray(slots)
    wanted = (problem.load.shape[1], problem.num_slots)
    if slots.dtype.kind not in "iu" or slots.shape != wanted:
        raise InputError(f"wants experts of shape {wanted}, got {slots.shape}", field="previous")
    if slots.min() < EMPTY or slots.max() >= problem.load.shape[2]:
        raise InputError("holds an expert that there is no load for", field="previous")
    return np.asarray(slots, dtype=np.int64)


def _result(
    problem: PlacementProblem,
    slots: NDArray[np.int64],
    bound: NDArray[np.float64],
    before: NDArray[np.int64] | None,
) -> Placement:
    owner = problem.gpu_of_slot
    loads, wrong = weigh_layers(problem.load, slots, owner, problem.num_gpus)
    if wrong >= 0:
        raise SolverFailed(f"layer {wrong}: an expert is missing or stands twice on a GPU")
    reached = balancedness(loads, problem.speed)
    mean, floor = problem.load.sum() / problem.speed.sum(), float(bound.sum())
    upper = min(1.0, float(mean) / floor) if floor > 0 else 1.0
    if reached > upper * (1 + 1e-9):
        raise SolverFailed(f"balancedness {reached!r} exceeds its bound {upper!r}")
    return Placement(
        slots=slots,
        gpu_of_slot=owner,
        num_experts=problem.load.shape[2],
        num_gpus=problem.num_gpus,
        balancedness=reached,
        upper_bound=max(upper, reached),  # rounding only: a broken proof was refused above
        speed=problem.speed,
        mode=problem.mode,
        moves=moves_between(before, slots),
    )
