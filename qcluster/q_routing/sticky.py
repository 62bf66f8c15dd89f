"""Sticky replans: a better placement within a move budget of the one in force, and its moves.

Copying an expert's weights between GPUs takes bandwidth from the traffic that the plan is for, so
a replan starts from what is there and changes the slots that gain most. What must change comes
first: slots of dead GPUs are given up, experts that no live GPU holds any more get a slot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.moves import MoveBudget
from qcluster.q_routing._sticky_kernels import sticky_layers
from qcluster.q_routing.problem import EMPTY, PlacementProblem, balancedness, gpu_loads

__all__ = ["align", "improve", "moves_between", "replan"]


def replan(
    problem: PlacementProblem,
    before: NDArray[np.int64],
    max_moved: float | None,
    target: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Slots (layers, num_slots) near ``before``, or ``target`` where the budget allows it.

    ``target`` is a plan made without looking back. Raises InputError when the mode is hierarchical
    and ``before`` has a group on several nodes.
    """
    budget = MoveBudget.of(before, max_moved)
    usable = _usable(problem)
    slots = before.copy()
    slots[:, ~usable] = EMPTY
    _repair(problem, slots, usable, *_zones(problem, before))
    slots = _search(problem, slots, before, budget.limit)
    aligned = align(problem, target, before)
    changed = _changed(before, aligned)
    fits = changed <= budget.limit
    return aligned if fits and _score(problem, aligned) > _score(problem, slots) else slots


def improve(problem: PlacementProblem, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """``slots`` after all changes that help, without a budget; never a worse plan."""
    found = _search(problem, slots, slots, slots.size)
    return found if _score(problem, found) >= _score(problem, slots) else slots


def _search(
    problem: PlacementProblem,
    slots: NDArray[np.int64],
    home: NDArray[np.int64],
    limit: int,
) -> NDArray[np.int64]:
    usable = _usable(problem)
    zone, area = _zones(problem, slots)
    live = np.flatnonzero(problem.speed > 0)
    place = np.full(problem.num_gpus, -1)
    place[live] = np.arange(len(live))
    gpu = place[problem.gpu_of_slot[usable]]
    kept = slots[:, usable].copy()
    sticky_layers(
        problem.load, problem.speed[live], gpu, zone[live], area, kept, home[:, usable].copy(),
        limit,
    )  # fmt: skip
    out = slots.copy()
    out[:, usable] = kept
    return out


def align(
    problem: PlacementProblem, slots: NDArray[np.int64], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The same plan with its GPUs renamed and slots reordered to move as little as can be.

    Only GPUs of equal speed and slots (and node, in hierarchical mode) change names. The renaming
    is an exact assignment problem a layer (Kuhn 1955).
    """
    from scipy.optimize import linear_sum_assignment

    start, gpus = problem.slot_start, problem.num_gpus
    kind = np.stack([np.diff(start), problem.speed], axis=1)
    if problem.mode == "hierarchical":
        kind = np.column_stack([kind, np.arange(gpus) * problem.num_nodes // gpus])
    same = (kind[:, None] == kind[None]).all(axis=2)
    owner, experts = problem.gpu_of_slot, problem.load.shape[2]
    out = np.empty_like(slots)
    for layer in range(len(slots)):
        held = [_held(row[layer], owner, gpus, experts) for row in (before, slots)]
        common = held[0] @ held[1].T
        old, new = linear_sum_assignment(np.where(same, common, -1e9), maximize=True)
        for a, b in zip(old, new, strict=True):
            out[layer, start[a] : start[a + 1]] = _arrange(
                slots[layer, start[b] : start[b + 1]], before[layer, start[a] : start[a + 1]]
            )
    return out


def moves_between(before: NDArray[np.int64] | None, after: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows (layer, slot, expert, a slot of the layer that held it before or -1) of what changes.

    A slot that falls empty is no move: nothing is copied.
    """
    if before is None:
        return np.empty((0, 4), dtype=np.int64)
    layer, slot = np.nonzero((after != before) & (after != EMPTY))
    rows = []
    for x, s in zip(layer, slot, strict=True):
        source = np.flatnonzero(before[x] == after[x, s])
        rows.append((x, s, after[x, s], source[0] if len(source) else -1))
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


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


def _zones(
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


def _arrange(new: NDArray[np.int64], old: NDArray[np.int64]) -> NDArray[np.int64]:
    """``new`` reordered so that what ``old`` has too stays where it is."""
    rest = list(new)
    out = np.full(len(old), EMPTY, dtype=np.int64)
    for position, expert in enumerate(old):
        if expert in rest:
            out[position] = expert
            rest.remove(expert)
    free = [i for i in range(len(old)) if out[i] == EMPTY]
    # Where old and new both have empty slots, the empty ones of new go last.
    for position, expert in zip(
        free, sorted((e for e in rest if e != EMPTY), reverse=True), strict=False
    ):
        out[position] = expert
    return out


def _changed(before: NDArray[np.int64], after: NDArray[np.int64]) -> int:
    return int(np.count_nonzero((after != before) & (after != EMPTY)))


def _score(problem: PlacementProblem, slots: NDArray[np.int64]) -> float:
    if (slots[:, _usable(problem)] == EMPTY).any():
        return -1.0
    loads = gpu_loads(slots, problem.gpu_of_slot, problem.load, problem.num_gpus)
    return balancedness(loads, problem.speed)
