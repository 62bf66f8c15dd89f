"""Solvers for placing jobs on a fabric: first-fit, best subsets, and local search over ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.q_nvlink.select import select_gpus

__all__ = ["run_best_subsets", "run_first_fit", "verify_placement"]

Choose = Callable[[PlacementProblem, int, list[int]], list[int]]


def run_first_fit(
    problem: PlacementProblem,
    *,
    deadline: Deadline,  # noqa: ARG001 - it takes microseconds
    seed: int,  # noqa: ARG001 - deterministic
    incumbent: Candidate[Placement] | None,  # noqa: ARG001
) -> Candidate[Placement]:
    """The fallback: jobs stay where they are, new ones take the first free GPUs."""
    return _candidate(problem, _fill(problem, lambda _, k, free: free[:k], keep=True))


def run_best_subsets(
    problem: PlacementProblem,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Placement] | None,
) -> Candidate[Placement]:
    """Largest job first on the subset of most bandwidth, then swaps of ranks while time lasts.

    With a move budget, jobs stay where they are and only the swaps may move them.
    """
    sticky = problem.limit is not None
    starts = [] if incumbent is None else [incumbent.value]
    starts.append(_fill(problem, _best_subset, keep=sticky))
    if not sticky and problem.reference:
        starts.append(_fill(problem, _best_subset, keep=True))
    best = min((_candidate(problem, start) for start in starts), key=lambda c: c.objective)
    return _swaps(problem, best, deadline, np.random.default_rng(seed))


def _fill(problem: PlacementProblem, choose: Choose, *, keep: bool) -> Placement:
    """Pinned and kept ranks first, then every other job by ``choose``, largest first."""
    placement: Placement = {}
    free = [int(i) for i in problem.fabric.gpu_index]
    reserved = {gpu for gpus in problem.pinned.values() for gpu in gpus}
    kept = problem.reference if keep else {}
    for job_id, gpus in kept.items():
        placement[job_id] = list(gpus)
        free = [u for u in free if u not in gpus]
    for job in sorted(problem.jobs, key=lambda job: (not job.pinned, -job.gpus)):
        if job.id in placement:
            continue
        pinned = problem.pinned[job.id]
        home = set(problem.fabric.components[problem.home[job.id]])
        open_now = [u for u in free if u not in reserved and u in home]
        chosen = pinned + choose(problem, job.gpus - len(pinned), open_now)
        if len(chosen) < job.gpus:
            raise Infeasible(f"needs {job.gpus} GPUs", field=f"jobs[{job.id}]")
        placement[job.id] = chosen
        free = [u for u in free if u not in chosen]
    return placement


def _best_subset(problem: PlacementProblem, k: int, free: list[int]) -> list[int]:
    if k == 0:
        return []
    fabric = problem.fabric
    open_now = set(free)
    busy = [fabric.nodes[i].id for i in fabric.gpu_index if int(i) not in open_now]
    return [fabric.index[gpu] for gpu in select_gpus(fabric, k, busy=busy).gpus]


def _candidate(problem: PlacementProblem, placement: Placement) -> Candidate[Placement]:
    return Candidate(placement, problem.cost(placement))


def _swaps(
    problem: PlacementProblem,
    start: Candidate[Placement],
    deadline: Deadline,
    rng: np.random.Generator,
) -> Candidate[Placement]:
    """First-improvement swaps between ranks, and moves to free GPUs, within the move budget.

    The total of squared link times breaks ties, so plateaus of the busiest link are left too.
    """
    bound = problem.lower_bound() * (1 + 1e-9)
    current = {job: list(gpus) for job, gpus in start.value.items()}
    score = _score(problem, current)
    tried = 0
    while score[0] > bound and not deadline.expired:
        step = _first_improvement(problem, current, score, deadline, rng)
        tried += 1
        if step is None:
            break
        current, score = step
    if score[0] < start.objective:
        return Candidate(current, score[0], notes={"improvements": tried})
    return start


def _score(problem: PlacementProblem, placement: Placement) -> tuple[float, float]:
    seconds = problem.seconds(problem.loads(placement)[0])
    return float(seconds.max(initial=0.0)), float((seconds**2).sum())


def _first_improvement(
    problem: PlacementProblem,
    current: Placement,
    score: tuple[float, float],
    deadline: Deadline,
    rng: np.random.Generator,
) -> tuple[Placement, tuple[float, float]] | None:
    slots = [(job, rank) for job, gpus in current.items() for rank in range(len(gpus))]
    fixed = {gpu for gpus in problem.pinned.values() for gpu in gpus}
    used = {gpu for gpus in current.values() for gpu in gpus}
    spare = [(None, int(i)) for i in problem.fabric.gpu_index if int(i) not in used]
    pairs = [(a, b) for i, a in enumerate(slots) for b in slots[i + 1 :]]
    moves = [(a, b) for a in slots for b in spare]
    everything = [*pairs, *moves]
    for position in rng.permutation(len(everything)):
        if deadline.expired:
            return None
        (job, rank), (other, there) = everything[int(position)]
        new = {name: list(gpus) for name, gpus in current.items()}
        here = new[job][rank]
        target = there if other is None else new[other][there]
        across = other != job
        if across and (here in fixed or target in fixed):
            continue
        if not problem.same_group(here, target):
            continue
        new[job][rank] = target
        if other is not None:
            new[other][there] = here
        if problem.limit is not None and problem.moved(new) > problem.limit:
            continue
        found = _score(problem, new)
        if found < (score[0] * (1 - 1e-12), score[1] * (1 - 1e-9)) and found[0] <= score[0]:
            return new, found
    return None


def verify_placement(problem: PlacementProblem, placement: Placement) -> None:
    """Raise SolverFailed unless every rank has a GPU of its own, pins and the budget are kept."""
    gpus = [gpu for job in problem.jobs for gpu in placement.get(job.id, ())]
    if len(gpus) != sum(job.gpus for job in problem.jobs) or len(placement) != len(problem.jobs):
        raise SolverFailed("a rank has no GPU")
    if len(set(gpus)) < len(gpus):
        raise SolverFailed("two ranks share a GPU")
    if not set(gpus) <= set(problem.fabric.gpu_index.tolist()):
        raise SolverFailed("a rank sits on something that is no GPU")
    for job in problem.jobs:
        if not set(problem.pinned[job.id]) <= set(placement[job.id]):
            raise SolverFailed(f"{job.id} lacks a GPU that it is pinned to")
    if problem.limit is not None and problem.moved(placement) > problem.limit:
        raise SolverFailed("more ranks moved than the budget allows")
