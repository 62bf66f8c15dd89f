"""A set of dependent tasks as arrays: order, windows and bounds of the peak-levelling problem.

Minimising the peak of precedence-bound tasks under a deadline is the resource investment problem
with one resource (Möhring 1984); power levels are its modes (Gerhards 2020). Time is in integer
steps, power in watts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.q_energy.problem import Task

__all__ = ["Ints", "Placement", "TaskSet", "check_placement", "critical_path", "peak_of"]

# Longest horizon for which the interval bound looks at every pair of steps.
_INTERVAL_STEPS = 400
# Steps of work for the bound, tasks times intervals: a second or so.
_BOUND_STEPS = 120_000_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """A candidate schedule: ``start`` (n,) steps and ``mode`` (n,) indices."""

    start: Ints
    mode: Ints


@dataclass(frozen=True)
class TaskSet:
    """Tasks as arrays, in the caller's order.

    ``dur``, ``power``: (n, m) by mode, the last mode repeated where a task has fewer than m;
    ``modes`` (n,) counts. ``before[before_ptr[t]:before_ptr[t+1]]`` are predecessors of t and
    ``after`` successors likewise. ``rank`` (n,) is a topological rank. ``head`` (n,) is the
    earliest start and ``tail`` (n,) the least time from a task's end to the end of all.
    """

    ids: tuple[Any, ...]
    deadline: int
    dur: Ints
    power: Floats
    modes: Ints
    before_ptr: Ints
    before: Ints
    after_ptr: Ints
    after: Ints
    rank: Ints
    head: Ints
    tail: Ints

    @classmethod
    def of(cls, tasks: Sequence[Task], deadline: int) -> TaskSet:
        """Arrays of checked tasks.

        Raises InputError for no tasks, a duplicate or unknown id or a cycle (naming it), and
        Infeasible when the deadline is shorter than the critical path, saying by how much.
        """
        tasks = _listed(tasks)
        if isinstance(deadline, (bool, np.bool_)) or not isinstance(deadline, (int, np.integer)):
            raise InputError(f"wants a whole number of steps, got {deadline!r}", field="deadline")
        index = index_of(tasks, Task, "task")
        before = [[_known(index, task, other) for other in task.after] for task in tasks]
        order = topological(before, [task.id for task in tasks])
        n, m = len(tasks), max(len(task.options) for task in tasks)
        dur, power = np.zeros((n, m), np.int64), np.zeros((n, m))
        for t, task in enumerate(tasks):
            for k in range(m):
                dur[t, k], power[t, k] = task.options[min(k, len(task.options) - 1)]
        power[dur == 0] = 0.0  # what takes no time draws no power in any step
        shortest = dur.min(axis=1)
        head, tail = _heads_tails(order, before, shortest)
        longest = int((head + shortest).max(initial=0))
        if deadline < longest:
            raise Infeasible(
                f"deadline {deadline} is {longest - deadline} steps below the critical path "
                f"of {longest}",
                field="deadline",
            )
        behind: list[list[int]] = [[] for _ in range(n)]
        for t, others in enumerate(before):
            for other in others:
                behind[other].append(t)
        rank = np.empty(n, np.int64)
        rank[order] = np.arange(n)
        return cls(
            tuple(task.id for task in tasks), int(deadline), dur, power,
            np.array([len(task.options) for task in tasks]), *rows_of(before), *rows_of(behind),
            rank, head, tail,
        )  # fmt: skip

    @property
    def n(self) -> int:
        """Number of tasks."""
        return len(self.ids)

    @property
    def quantum_w(self) -> float:
        """Watts that every power is a whole multiple of, or 0 when they are not integers."""
        if not np.array_equal(self.power, np.round(self.power)) or self.power.max() > 2**53:
            return 0.0
        return float(np.gcd.reduce(self.power.astype(np.int64), axis=None))

    def round_up(self, watts: float) -> float:
        """The smallest peak that can occur at or above ``watts``."""
        unit = self.quantum_w
        return math.ceil(watts / unit - 1e-9) * unit if unit else watts


def critical_path(tasks: Sequence[Task]) -> int:
    """Steps that the longest chain of tasks takes in its fastest modes; 0 for no tasks."""
    tasks = _listed(tasks)
    if not tasks:
        return 0
    index = index_of(tasks, Task, "task")
    before = [[_known(index, task, other) for other in task.after] for task in tasks]
    shortest = np.array([min(d for d, _ in task.options) for task in tasks])
    head, _ = _heads_tails(topological(before, [task.id for task in tasks]), before, shortest)
    return int((head + shortest).max())


def _listed(tasks: Iterable[Task]) -> Sequence[Task]:
    if isinstance(tasks, Task) or not isinstance(tasks, Iterable):
        raise InputError(f"wants tasks, got {type(tasks).__name__}", field="tasks")
    return tuple(tasks)


def peak_of(problem: TaskSet, placement: Placement) -> float:
    """Highest sum of running tasks' watts over all steps."""
    return float(load_of(problem, placement).max(initial=0.0))


def load_of(problem: TaskSet, placement: Placement) -> Floats:
    """Watts in every step up to the deadline, (deadline,)."""
    rows = np.arange(problem.n)
    dur = problem.dur[rows, placement.mode]
    power = problem.power[rows, placement.mode]
    load = np.zeros(problem.deadline + 1)
    for s, d, p in zip(placement.start, dur, power, strict=True):
        load[s : s + d] += p
    return load[:-1]


def check_placement(problem: TaskSet, placement: Placement) -> None:
    """Raise SolverFailed when a schedule breaks precedence, deadline or modes."""
    if placement.start.shape != (problem.n,) or placement.mode.shape != (problem.n,):
        raise SolverFailed("a schedule has one start and one mode a task")
    if (placement.mode < 0).any() or (placement.mode >= problem.modes).any():
        raise SolverFailed("a task runs in a mode that it does not have")
    end = placement.start + problem.dur[np.arange(problem.n), placement.mode]
    if (placement.start < 0).any() or (end > problem.deadline).any():
        raise SolverFailed("a task runs outside 0 to the deadline")
    for t in range(problem.n):
        for b in problem.before[problem.before_ptr[t] : problem.before_ptr[t + 1]]:
            if placement.start[t] < end[b]:
                raise SolverFailed(f"task {problem.ids[t]} starts before {problem.ids[b]} ends")


def peak_bound(problem: TaskSet) -> float:
    """A proven lower bound on the peak, in watts.

    The largest of: a task's own least power, and over intervals of time the energy that tasks
    must spend inside divided by the length (energetic reasoning, Baptiste, Le Pape and Nuijten
    1999): a task of duration d with window [head, deadline - tail) spends inside [a, b) at least
    its overlap when pushed fully left or fully right. Rounded up to a multiple of the powers'
    common unit. Each task counts with the mode that makes the bound weakest.
    """
    bound = float(problem.power.min(axis=1).max(initial=0.0))
    starts, ends = _interval_ends(problem)
    if len(starts) and len(ends):
        forced = np.zeros((len(starts), len(ends)))
        for t in range(problem.n):
            forced += _forced_energy(problem, t, starts, ends)
        length = ends[None, :] - starts[:, None]
        density = np.where(length > 0, forced / np.maximum(length, 1), 0.0)
        bound = max(bound, float(density.max()))
    return problem.round_up(bound)


def _forced_energy(problem: TaskSet, t: int, starts: Ints, ends: Ints) -> Floats:
    """Least energy of task t inside each [start, end), over its modes; (starts, ends)."""
    least: Floats | None = None
    late_end = problem.deadline - problem.tail[t]
    for k in range(problem.modes[t]):
        d, p = problem.dur[t, k], problem.power[t, k]
        if problem.head[t] + d > late_end:
            continue
        left = (
            np.minimum(problem.head[t] + d, ends)[None, :]
            - np.maximum(problem.head[t], starts)[:, None]
        )
        right = np.minimum(late_end, ends)[None, :] - np.maximum(late_end - d, starts)[:, None]
        inside = p * np.clip(np.minimum(left, right), 0, None)
        least = inside if least is None else np.minimum(least, inside)
    assert least is not None  # the deadline leaves the fastest mode room
    return least


def _interval_ends(problem: TaskSet) -> tuple[Ints, Ints]:
    """Starts and ends worth looking at: all steps when few, else each task's own corners."""
    keep = max(16, min(_INTERVAL_STEPS, math.isqrt(_BOUND_STEPS // max(problem.n, 1))))
    if problem.deadline <= keep:
        steps = np.arange(problem.deadline + 1)
        return steps[:-1], steps[1:]
    late_end = problem.deadline - problem.tail
    starts = np.unique(np.concatenate([[0], problem.head]))
    ends = np.unique(np.concatenate([[problem.deadline], late_end]))
    return starts[:: max(1, len(starts) // keep)], ends[:: -max(1, len(ends) // keep)]


def index_of(items: Sequence[Any], kind: type[Any], name: str) -> dict[Any, int]:
    """Positions by id; InputError for none, a wrong type or a duplicate."""
    if not items:
        raise InputError(f"wants at least one {name}", field=f"{name}s")
    index: dict[Any, int] = {}
    for t, item in enumerate(items):
        if not isinstance(item, kind):
            message = f"wants {kind.__name__}, got {type(item).__name__}"
            raise InputError(message, field=f"{name}s[{t}]")
        if item.id in index:
            raise InputError(f"{name} {item.id} stands twice", field=f"{name}s[{t}].id")
        index[item.id] = t
    return index


def _known(index: dict[Any, int], task: Task, other: Any) -> int:
    if other not in index:
        message = f"task {task.id} waits for {other!r}, which is no task"
        raise InputError(message, field="after")
    return index[other]


def topological(before: list[list[int]], ids: Sequence[Any]) -> Ints:
    """An order in which every task follows its predecessors (Kahn 1962)."""
    left = np.array([len(row) for row in before])
    behind: list[list[int]] = [[] for _ in before]
    for t, row in enumerate(before):
        for other in row:
            behind[other].append(t)
    ready = [t for t in range(len(before)) if not left[t]]
    order: list[int] = []
    while ready:
        t = ready.pop()
        order.append(t)
        for other in behind[t]:
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    if len(order) < len(before):
        raise InputError(f"tasks wait for each other: {_cycle(before, left, ids)}", field="after")
    return np.array(order, np.int64)


def _cycle(before: list[list[int]], left: Ints, ids: Sequence[Any]) -> str:
    t = int(np.flatnonzero(left)[0])
    seen: list[int] = []
    while t not in seen:
        seen.append(t)
        t = next(other for other in before[t] if left[other])
    loop = [*seen[seen.index(t) :], t]
    return " -> ".join(str(ids[i]) for i in loop[:8]) + (" ..." if len(loop) > 8 else "")


def _heads_tails(order: Ints, before: list[list[int]], dur: Ints) -> tuple[Ints, Ints]:
    head, tail = np.zeros(len(dur), np.int64), np.zeros(len(dur), np.int64)
    for t in order:
        head[t] = max((head[b] + dur[b] for b in before[t]), default=0)
    for t in order[::-1]:
        for b in before[t]:
            tail[b] = max(tail[b], tail[t] + dur[t])
    return head, tail


def rows_of(lists: list[list[int]]) -> tuple[Ints, Ints]:
    """Lists as (pointers, flat)."""
    ptr = np.zeros(len(lists) + 1, np.int64)
    ptr[1:] = np.cumsum([len(row) for row in lists])
    return ptr, np.array([i for row in lists for i in row], np.int64)
