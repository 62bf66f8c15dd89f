"""Lowest peak power of dependent tasks under a deadline.

The cap falls: find any schedule that ends in time under a cap, take its peak, ask for less, until
time is up or the bound is met. Schedules come from a genetic search over task lists with
forward-backward justification in compiled code. The quantum path (``quantum.py``) reworks windows
at the peak. Time is in integer steps, power in watts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from qcluster.deadline import Deadline
from qcluster.fallback import Certified, CircuitBreaker, Stage, certified
from qcluster.q_energy.cap_search import (
    CapSearch,
    earliest_start,
    list_schedule,
    search_caps,
)
from qcluster.q_energy.problem import Schedule, Task
from qcluster.q_energy.tasks import Placement, TaskSet, check_placement, peak_bound

__all__ = ["level_peak"]

_BREAKER = CircuitBreaker()


def level_peak(
    tasks: Sequence[Task],
    *,
    deadline: int,
    deadline_s: float = 1.0,
    qaoa: bool = False,
    seed: int = 0,
) -> Schedule:
    """Start and mode of every task such that all end by ``deadline`` and the peak is low.

    Parameters
    ----------
    tasks: at least one; ``after`` must not be cyclic.
    deadline: time steps, at least the critical path.
    deadline_s: seconds for the answer, at least 0; baselines run after it, and compiling kernels
        (seconds, once a machine) comes before it.
    qaoa: spend part of the time on simulated QAOA over windows at the peak.
    seed: of everything random.

    Returns a Schedule whose ``lower_bound`` is a proof.

    Raises InputError for bad tasks; Infeasible, saying by how much, when the deadline is shorter
    than the critical path.
    """
    problem = TaskSet.of(tasks, deadline)
    load_kernels()
    classical: Stage[TaskSet, Placement] = Stage("cap-search", search_caps)
    stages: list[Stage[TaskSet, Placement]] = [classical]
    if qaoa:
        from qcluster.q_energy.quantum import load_solver, refine_peak

        load_solver()
        stages.insert(0, Stage("qaoa-window", refine_peak, quantum=True))
    answer = certified(
        problem,
        stages=stages,
        fallback=Stage("list-schedule", list_schedule),
        baselines=[Stage("earliest-start", earliest_start), *([classical] if qaoa else [])],
        bound=peak_bound,
        verify=check_placement,
        deadline=Deadline.after(deadline_s),
        seed=seed,
        breaker=_BREAKER,
    )
    return _schedule(problem, answer, seed)


@functools.cache
def load_kernels() -> None:
    """Import and compile, or load from numba's cache, what the searches call."""
    problem = TaskSet.of([Task("a", 1, 1.0), Task("b", 1, 1.0)], 2)
    list_schedule(problem)
    CapSearch(problem, earliest_start(problem).value, 0).under(1.0)


def _schedule(problem: TaskSet, answer: Certified[Placement], seed: int) -> Schedule:
    """The record of a certified placement."""
    proof = answer.certificate
    start, mode = answer.value.start, answer.value.mode
    ends = start + problem.dur[np.arange(problem.n), mode]
    return Schedule(
        start={task: int(s) for task, s in zip(problem.ids, start, strict=True)},
        mode={task: int(m) for task, m in zip(problem.ids, mode, strict=True)},
        peak_w=proof.objective,
        lower_bound=proof.lower_bound or 0.0,
        gap=proof.gap or 0.0,
        makespan=int(ends.max()),
        deadline=problem.deadline,
        solver=answer.solver,
        baselines=proof.baselines,
        quantum_gain=proof.quantum_gain,
        reasons=proof.reasons,
        notes=dict(answer.notes),
        seed=seed,
        wall_s=answer.wall_s,
    )
