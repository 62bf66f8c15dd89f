"""Schedules of dependent tasks under a falling cap, classical: from one list to a population.

Earliest start is the first schedule, list schedules under a bisected cap are better ones, and a
genetic search over task lists with forward-backward justification, in compiled code, lowers the
cap as long as there is time. Time is in integer steps, power in watts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcluster.deadline import Deadline
from qcluster.fallback import Candidate
from qcluster.q_energy.tasks import Ints, Placement, TaskSet, peak_bound, peak_of

__all__ = ["CapSearch", "earliest_start", "list_schedule", "search_caps"]

_POPULATION = 40
_STUCK_ROUNDS = 4_000  # evaluations under one cap without success before lists are renewed
_KEPT = 4


def earliest_start(problem: TaskSet, **_: Any) -> Candidate[Placement]:
    """Every task as early as its predecessors allow, in its fastest mode."""
    mode = np.argmin(problem.dur, axis=1)
    return _candidate(problem, Placement(problem.head.copy(), mode))


def list_schedule(problem: TaskSet, **_: Any) -> Candidate[Placement]:
    """Latest-start-first list schedules under a bisected cap; deterministic.

    Never worse than earliest start.
    """
    from qcluster.q_energy.lists import _kernels

    best = earliest_start(problem)
    rows = np.arange(problem.n)
    mode = best.value.mode
    dur, power = problem.dur[rows, mode], problem.power[rows, mode]
    low, high = max(peak_bound(problem), float(power.max())), best.objective
    start, load = np.empty(problem.n, np.int64), np.empty(int(dur.sum()) + 1)
    order = np.lexsort((problem.rank, problem.head, -problem.tail - dur))
    order = _kernels.feasible_list(order, problem.before_ptr, problem.before)
    for _step in range(24):
        if high - low < max(problem.quantum_w, 1e-3 * high):
            break
        cap = (low + high) / 2
        span = _kernels.place(
            order, dur, power, problem.before_ptr, problem.before, cap, start, load
        )
        if span > problem.deadline:
            low = cap
            continue
        high = cap
        found = _candidate(problem, Placement(start.copy(), mode))
        if found.objective < best.objective:
            best = found
            high = min(cap, best.objective)
    return best


def search_caps(
    problem: TaskSet,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Placement] | None,
) -> Candidate[Placement]:
    """Lower the cap again and again until time is up or the bound is met.

    Halves the way to the bound while that works at once, then goes down by the smallest step.
    """
    best = incumbent or list_schedule(problem)
    bound = peak_bound(problem)
    search = CapSearch(problem, best.value, seed)
    low = bound
    while best.objective > bound + 1e-9 and not deadline.expired:
        step = problem.quantum_w or 1e-4 * best.objective
        cap = best.objective - step
        leap = cap - low > 2 * step
        if leap:
            cap = low + (cap - low) / 2
        placement = search.under(cap)
        if placement is not None:
            best = min(best, _candidate(problem, placement), key=lambda c: c.objective)
        elif leap:
            low = cap
    return Candidate(best.value, best.objective, notes={"evaluations": search.evaluations})


class CapSearch:
    """A population of task lists that looks for schedules under given caps.

    It is kept from cap to cap: lists that nearly fit one cap are good starts for the next.
    """

    def __init__(self, problem: TaskSet, start: Placement, seed: int) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(seed)
        self.evaluations = 0
        self.rounds = max(_POPULATION + 1, min(400, 20_000 // problem.n))
        self._cap, self._stuck, self._start = np.inf, 0, start
        self._lists = np.stack([self._list(start, noise) for noise in _noises()])
        self._genes = np.repeat(start.mode[None, :], len(self._lists), axis=0)
        for row in self._genes[2:]:
            flip = self.rng.random(problem.n) < 0.2
            row[flip] = self.rng.integers(0, problem.modes[flip])
        self._score = np.full(len(self._lists), -1.0)

    def under(self, cap: float) -> Placement | None:
        """A schedule within the deadline whose peak is at most ``cap``, or None so far."""
        from qcluster.q_energy.lists import _kernels

        p = self.problem
        if cap < p.power.min(axis=1).max():
            return None
        if cap != self._cap:
            self._cap, self._stuck = cap, 0
            self._score[:] = -1.0  # worth under another cap says nothing
        elif self._stuck >= _STUCK_ROUNDS:
            self._stuck = 0
            self._reseed()
        self._stuck += self.rounds
        start, mode = np.empty(p.n, np.int64), np.empty(p.n, np.int64)
        self.evaluations += self.rounds
        found = _kernels.evolve(
            p.dur, p.power, p.modes, p.before_ptr, p.before, p.after_ptr, p.after, p.rank, p.tail,
            p.deadline, cap, self._lists, self._genes, self._score, self.rounds,
            self.rng, start, mode,
        )  # fmt: skip
        return Placement(start, mode) if found else None

    def _reseed(self) -> None:
        """New lists in place of all, or all but the best few: the population has converged."""
        kept = _KEPT if self.rng.random() < 0.5 else 0
        for row in np.argsort(self._score)[kept:]:
            noise = float(self.rng.uniform(0.02, 0.6))
            self._lists[row] = self._list(self._start, noise)
            flip = self.rng.random(self.problem.n) < 0.2
            self._genes[row, flip] = self.rng.integers(0, self.problem.modes[flip])
            self._score[row] = -1.0

    def _list(self, start: Placement, noise: float) -> Ints:
        """Tasks by latest start, or by the given schedule, with noise; precedence kept."""
        from qcluster.q_energy.lists import _kernels

        p = self.problem
        key = start.start.astype(float) if noise < 0 else -p.tail.astype(float) - p.dur.min(axis=1)
        key = key + self.rng.normal(size=p.n) * max(noise, 0.0) * max(p.deadline, 1)
        order: Ints = _kernels.feasible_list(np.lexsort((p.rank, key)), p.before_ptr, p.before)
        return order


def _noises() -> list[float]:
    return [-1.0, 0.0, *np.linspace(0.01, 0.3, _POPULATION - 2)]


def _candidate(problem: TaskSet, placement: Placement) -> Candidate[Placement]:
    return Candidate(placement, peak_of(problem, placement))
