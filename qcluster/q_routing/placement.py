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

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.moves import MoveBudget
from qcluster.q_routing._kernels import weigh_layers
from qcluster.q_routing.fabric import FabricLike, alike, distances, spread
from qcluster.q_routing.gather import place_by_traffic, within
from qcluster.q_routing.problem import (
    EMPTY,
    Placement,
    PlacementProblem,
    balancedness,
)
from qcluster.q_routing.solve import bounds_of, solve
from qcluster.q_routing.sticky import (
    align,
    kinds,
    moves_between,
    new_copies,
    repaired,
    replan,
    take_over,
    zones,
)
from qcluster.q_routing.traces import Trace
from qcluster.q_routing.traffic import read_picks

__all__ = ["keep", "place", "place_experts", "verify_placement"]


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
    trace: ArrayLike | Trace | None = None,
    slots_per_gpu: ArrayLike | None = None,
    speed: ArrayLike | None = None,
    alive: ArrayLike | None = None,
    fabric: FabricLike | None = None,
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
    trace: router picks (tokens, layers, k), or a ``Trace``. Experts that are picked together then
        stand together and near where the layer before served their tokens, so that a token visits
        few GPUs (see ``dispatch``), at some cost in equal-split balance. Under ``max_moved`` whole
        layers take the new plan, those first that gain most for each slot moved; what is left of
        the budget goes to load.
    slots_per_gpu: (num_gpus,) slots of each GPU, adding up to ``num_slots``.
    speed: (num_gpus,) relative speeds. alive: (num_gpus,) False for GPUs that take nothing.
    fabric: GPUs and links (see ``FabricLike``). With a trace, distances over it are part of that
        objective. Without, GPUs alike in speed and slots exchange what they hold, at no cost in
        balance, so that copies of an expert are far apart; a replan keeps the names in force.

    Raises InputError naming the argument that is wrong.
    """
    problem = PlacementProblem.of(
        load, num_slots=num_slots, num_gpus=num_gpus, num_nodes=num_nodes, num_groups=num_groups,
        mode=mode, slots_per_gpu=slots_per_gpu, speed=speed, alive=alive,
    )  # fmt: skip
    before = _previous(previous, problem)
    distance = None if fabric is None else distances(fabric, problem.num_gpus)
    if trace is not None:
        if distance is None:
            distance = 1.0 - np.eye(problem.num_gpus)
        return _by_traffic(problem, read_picks(problem, trace), before, max_moved, distance)
    placement = place(problem, before, max_moved, Deadline.never())
    if before is not None or distance is None:
        return placement
    return replace(placement, slots=spread(problem, placement.slots, distance, kinds(problem)))


def place(
    problem: PlacementProblem,
    before: NDArray[np.int64] | None,
    max_moved: float | None,
    deadline: Deadline,
) -> Placement:
    """The best placement until ``deadline``; with slots ``before`` (layers, num_slots) in force,
    within the move budget. What time does not reach is packed simply, or stays as it was.
    """
    if before is None:
        return _result(problem, *solve(problem, deadline), before)
    if (
        deadline.at < np.inf
        and new_copies(problem, before) > MoveBudget.of(before, max_moved).limit
    ):
        # A plan made without looking back would cost more moves than there are.
        near = replan(problem, before, max_moved, deadline.share(0.9))
        return _result(problem, near, bounds_of(problem), before)
    target, bound = solve(problem, deadline.share(0.4))
    near = replan(problem, before, max_moved, deadline.share(0.5))
    near = take_over(problem, before, max_moved, target, near, deadline)
    return _result(problem, near, bound, before)


def keep(problem: PlacementProblem, before: NDArray[np.int64]) -> Placement:
    """The slots in force with only what must change changed; takes milliseconds at any size."""
    mean = problem.load.sum(axis=2) / problem.speed.sum()
    return _result(problem, repaired(problem, before), mean, before)


def verify_placement(problem: PlacementProblem, slots: NDArray[np.int64]) -> None:
    """Raise SolverFailed unless all experts are held, none twice on a GPU, none on a dead GPU.

    Works from the problem alone with sorted keys, on purpose unlike the solver's tables.
    """
    layers, experts = problem.load.shape[1:]
    if slots.shape != (layers, problem.num_slots):
        raise SolverFailed(f"wants slots of shape {(layers, problem.num_slots)}")
    layer, slot = np.nonzero(slots != EMPTY)
    expert, gpu = slots[layer, slot], problem.gpu_of_slot[slot]
    _none(layer[(expert < 0) | (expert >= experts)], "a slot holds no known expert")
    copies = np.sort((layer * experts + expert) * problem.num_gpus + gpu)
    twice = copies[1:][copies[1:] == copies[:-1]] // problem.num_gpus // experts
    _none(twice, "an expert stands twice on one GPU")
    held = np.unique(layer * experts + expert)
    if len(held) != layers * experts:
        missing = int(np.setdiff1d(np.arange(layers * experts), held)[0])
        raise SolverFailed(f"layer {missing // experts}: expert {missing % experts} has no slot")
    _none(layer[problem.speed[gpu] == 0], "a dead GPU holds an expert")


def _none(layers: NDArray[np.int64], what: str) -> None:
    if len(layers):
        raise SolverFailed(f"layer {int(layers[0])}: {what}")


def _by_traffic(
    problem: PlacementProblem,
    picks: NDArray[np.int64],
    before: NDArray[np.int64] | None,
    max_moved: float | None,
    distance: NDArray[np.float64],
) -> Placement:
    never = Deadline.never()
    near, bound = solve(problem, never) if before is None else (before, bounds_of(problem))
    zone, area = zones(problem, near)
    slots = place_by_traffic(problem, picks, area, zone, distance)
    if before is None:
        return _result(problem, slots, bound, None)
    # Of GPUs with the same ways to all others, names are free: those that move least.
    aligned = align(problem, slots, before, never, kind=alike(distance, kinds(problem)))
    slots = slots if aligned is None else aligned
    if max_moved is not None:
        slots = within(problem, picks, before, max_moved, slots, distance)
    return _result(problem, slots, bound, before)


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
