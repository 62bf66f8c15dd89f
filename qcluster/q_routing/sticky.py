"""Sticky replans: a better placement within a move budget of the one in force, and its moves.

Copying an expert's weights between GPUs takes bandwidth from the traffic that the plan is for, so
a replan starts from what is there and changes the slots that gain most. What must change comes
first: slots of dead GPUs are given up, experts that no live GPU holds any more get a slot.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.moves import MoveBudget
from qcluster.q_routing._kernels import replicate
from qcluster.q_routing._search_kernels import sticky_layers
from qcluster.q_routing._sticky_kernels import arrange_layer, match_layer
from qcluster.q_routing.problem import EMPTY, PlacementProblem, balancedness, gpu_loads

__all__ = [
    "align",
    "improve",
    "kinds",
    "moves_between",
    "new_copies",
    "repaired",
    "replan",
    "take_over",
    "zones",
]

Ints = NDArray[np.int64]

_EXACT_GPUS = 128
"""Up to this many GPUs of a kind the renaming is exact; its time grows with their cube."""
_LOOK_EVERY_S = 0.01
"""Between two looks at the clock the search should not go on for longer."""


def repaired(problem: PlacementProblem, before: Ints) -> Ints:
    """``before`` with only what must change changed: nothing on dead GPUs, no expert lost.

    Raises InputError when the mode is hierarchical and ``before`` has a group on several nodes.
    """
    usable = _usable(problem)
    slots = before.copy()
    slots[:, ~usable] = EMPTY
    _repair(problem, slots, usable, *zones(problem, before))
    return slots


def replan(
    problem: PlacementProblem, before: Ints, max_moved: float | None, deadline: Deadline
) -> Ints:
    """Slots (layers, num_slots) near ``before``: repairs, then the steps that gain most."""
    budget = MoveBudget.of(before, max_moved)
    return _search(problem, repaired(problem, before), before, budget.limit, deadline)


def take_over(
    problem: PlacementProblem,
    before: Ints,
    max_moved: float | None,
    target: Ints,
    near: Ints,
    deadline: Deadline,
) -> Ints:
    """``target``, a plan made without looking back, where it is better than ``near`` and the
    budget allows it; else ``near``.
    """
    limit = MoveBudget.of(before, max_moved).limit
    if _score(problem, target) <= _score(problem, near):
        return near
    if _least_changes(before, target, problem.load.shape[2]) > limit:
        return near
    aligned = align(problem, target, before, deadline)
    return near if aligned is None or _changed(before, aligned) > limit else aligned


def improve(problem: PlacementProblem, slots: Ints, deadline: Deadline) -> Ints:
    """``slots`` after all changes that help, without a budget; never a worse plan."""
    found = _search(problem, slots, slots, slots.size, deadline)
    return found if _score(problem, found) >= _score(problem, slots) else slots


def _search(
    problem: PlacementProblem, slots: Ints, home: Ints, limit: int, deadline: Deadline
) -> Ints:
    usable = _usable(problem)
    zone, area = zones(problem, slots)
    live = np.flatnonzero(problem.speed > 0)
    place = np.full(problem.num_gpus, -1)
    place[live] = np.arange(len(live))
    gpu = place[problem.gpu_of_slot[usable]]
    kept, start = slots[:, usable].copy(), home[:, usable].copy()
    gain, steps = np.full(len(slots), np.nan), np.zeros((len(slots), 4), dtype=np.int64)
    most, more = (2**60 if math.isinf(deadline.at) else 1), True

    def go_on(searches: int) -> bool:
        return bool(
            sticky_layers(
                problem.load, problem.speed[live], gpu, zone[live], area, kept, start, limit,
                gain, steps, searches,
            )
        )  # fmt: skip

    while more and not deadline.expired:
        began = time.monotonic()
        more = go_on(most)
        took = max(time.monotonic() - began, 1e-6)
        most = max(1, int(most * min(4.0, _LOOK_EVERY_S / took)))
    if more:
        go_on(0)
    out = slots.copy()
    out[:, usable] = kept
    return out


def align(
    problem: PlacementProblem,
    slots: Ints,
    before: Ints,
    deadline: Deadline,
    exact: bool | None = None,
    kind: Ints | None = None,
) -> Ints | None:
    """The same plan with its GPUs renamed and slots reordered to move as little as can be; None
    when the deadline comes first.

    Only GPUs of one ``kind`` change names, by default those of equal speed and slots (and node, in
    hierarchical mode). The renaming is an assignment problem a layer, solved exactly (Kuhn 1955)
    when ``exact``, by default up to 128 GPUs of a kind, and greedily beyond.
    """
    kind = kinds(problem) if kind is None else kind
    members = [np.flatnonzero(kind == k) for k in range(int(kind.max()) + 1)]
    if exact is None:
        exact = max(map(len, members)) <= _EXACT_GPUS
    out, name = np.empty_like(slots), np.empty(problem.num_gpus, dtype=np.int64)
    for layer in range(len(slots)):
        if deadline.expired:
            return None
        old, new = before[layer], np.ascontiguousarray(slots[layer])
        if exact:
            _match_exactly(problem, old, new, members, name)
        else:
            match_layer(old, new, problem.slot_start, kind, problem.load.shape[2], name)
        arrange_layer(old, new, problem.slot_start, name, out[layer])
    return out


def kinds(problem: PlacementProblem) -> Ints:
    """(gpus,) a number for each sort of GPU: those of one sort may exchange their names."""
    sort = np.stack([np.diff(problem.slot_start), problem.speed], axis=1)
    if problem.mode == "hierarchical":
        node = np.arange(problem.num_gpus) * problem.num_nodes // problem.num_gpus
        sort = np.column_stack([sort, node])
    return np.unique(sort, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _match_exactly(
    problem: PlacementProblem, old: Ints, new: Ints, members: list[Ints], name: Ints
) -> None:
    from scipy.optimize import linear_sum_assignment

    owner, experts = problem.gpu_of_slot, problem.load.shape[2]
    held = [_held(row, owner, problem.num_gpus, experts) for row in (old, new)]
    for gpus in members:
        a, b = linear_sum_assignment(held[0][gpus] @ held[1][gpus].T, maximize=True)
        name[gpus[b]] = gpus[a]


def _least_changes(before: Ints, after: Ints, experts: int) -> int:
    """A number of slots that must change however GPUs are named: copies that are new."""
    row = np.arange(len(before))[:, None] * (experts + 1) + 1
    size = len(before) * (experts + 1)
    count = [np.bincount((s + row).ravel(), minlength=size) for s in (before, after)]
    more = (count[1] - count[0]).reshape(len(before), -1)[:, 1:]
    return int(np.maximum(more, 0).sum())


def new_copies(problem: PlacementProblem, before: Ints) -> int:
    """Copies that ``before`` lacks of those that make the largest share least: about the least
    moves of a plan made without looking back, found in a millisecond.
    """
    usable, experts = _usable(problem), problem.load.shape[2]
    extra, live = int(usable.sum()) - experts, int((problem.speed > 0).sum())
    total, lacking = problem.load.sum(axis=0), 0
    for load, row in zip(total, before, strict=True):
        held = np.bincount(row[usable & (row >= 0)], minlength=experts)
        lacking += int(np.maximum(replicate(load, extra, live) - held, 0).sum())
    return lacking


def moves_between(before: NDArray[np.int64] | None, after: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows (layer, slot, expert, a slot of the layer that held it before or -1) of what changes.

    A slot that falls empty is no move: nothing is copied.
    """
    if before is None:
        return np.empty((0, 4), dtype=np.int64)
    layer, slot = np.nonzero((after != before) & (after != EMPTY))
    expert = after[layer, slot]
    first = np.full((len(before), int(max(before.max(), after.max())) + 1), -1, dtype=np.int64)
    held = np.nonzero(before >= 0)
    # Written from the last slot to the first, so that the first one stays.
    first[held[0][::-1], before[held][::-1]] = held[1][::-1]
    return np.stack([layer, slot, expert, first[layer, expert]], axis=1).astype(np.int64)


def _usable(problem: PlacementProblem) -> NDArray[np.bool_]:
    """Slots that may hold an expert: on live GPUs, at most one an expert."""
    owner = problem.gpu_of_slot
    place = np.arange(problem.num_slots) - problem.slot_start[owner]
    return np.asarray((problem.speed[owner] > 0) & (place < problem.load.shape[2]))


def _repair(
    problem: PlacementProblem,
    slots: NDArray[np.int64],
    usable: NDArray[np.bool_],
    zone: NDArray[np.int64],
    area: NDArray[np.int64],
) -> None:
    """Second copies on a GPU are dropped; lost experts take a slot that can be spared."""
    owner, experts = problem.gpu_of_slot, problem.load.shape[2]
    total = problem.load.sum(axis=0)
    for layer, row in enumerate(slots):
        key = np.where(row >= 0, owner * experts + row, -1 - np.arange(len(row)))
        first = np.zeros(len(row), dtype=bool)
        first[np.unique(key, return_index=True)[1]] = True
        row[~first] = EMPTY
        counts = np.bincount(row[row >= 0], minlength=experts)
        for e in np.flatnonzero(counts == 0)[np.argsort(-total[layer, counts == 0])]:
            held = np.where(row >= 0, counts[row], 0)
            spare = usable & ((row == EMPTY) | (held > 1)) & (zone[owner] == area[layer, e])
            if not spare.any():
                raise InputError("no slot is left for an expert that was lost", field="num_slots")
            # An empty slot first, else the copy whose loss adds least to its siblings.
            cost = np.where(row == EMPTY, -1.0, total[layer, row] / np.maximum(held, 1) ** 2)
            slot = int(np.where(spare, cost, np.inf).argmin())
            if row[slot] != EMPTY:
                counts[row[slot]] -= 1
            row[slot], counts[e] = e, 1


def zones(
    problem: PlacementProblem, slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Zone of each GPU (gpus,) and of each expert (layers, experts): nodes in hierarchical mode."""
    layers, experts = problem.load.shape[1:]
    zone = np.zeros(problem.num_gpus, dtype=np.int64)
    area = np.zeros((layers, experts), dtype=np.int64)
    if problem.mode == "global":
        return zone, area
    zone = np.arange(problem.num_gpus) * problem.num_nodes // problem.num_gpus
    node = zone[problem.gpu_of_slot]
    row, column = np.nonzero(slots >= 0)
    area[row, slots[row, column]] = node[column]
    groups = area.reshape(layers, problem.num_groups, -1)
    if (area[row, slots[row, column]] != node[column]).any() or np.ptp(groups, axis=2).any():
        raise InputError("has a group of experts on several nodes", field="previous")
    return zone, area


def _held(
    row: NDArray[np.int64], owner: NDArray[np.int64], gpus: int, experts: int
) -> NDArray[np.float64]:
    out = np.zeros((gpus, experts))
    out[owner[row >= 0], row[row >= 0]] = 1.0
    return out


def _changed(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    return int(np.count_nonzero((after != before) & (after != EMPTY)))


def _score(problem: PlacementProblem, slots: NDArray[np.int64]) -> float:
    if (slots[:, _usable(problem)] == EMPTY).any():
        return -1.0
    loads = gpu_loads(slots, problem.gpu_of_slot, problem.load, problem.num_gpus)
    return balancedness(loads, problem.speed)
