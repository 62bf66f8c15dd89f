"""Solvers for placing jobs on a fabric: first-fit, best subsets, and local search over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate
from qcluster.q_nvlink.ports import settle_ports
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.q_nvlink.racks import pack_jobs
from qcluster.q_nvlink.select import choose_gpus

__all__ = ["improve_ranks", "run_best_subsets", "run_first_fit", "verify_placement"]

_SMALL = 32  # ranks up to which every pair is tried, not only those at the busiest link

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
    packed = pack_jobs(problem, deadline.share(0.3), keep=sticky)
    if packed is not None:
        starts.append(packed)
    choose = partial(_best_subset, deadline=deadline.share(0.5))
    starts.append(_fill(problem, choose, keep=sticky))
    if not sticky and problem.reference:
        starts.append(_fill(problem, choose, keep=True))
    best = min((_candidate(problem, start) for start in starts), key=lambda c: c.objective)
    settled = settle_ports(problem, best.value)
    if settled != best.value:
        best = min(best, _candidate(problem, settled), key=lambda c: c.objective)
    return improve_ranks(problem, best, deadline, seed)


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


def _best_subset(
    problem: PlacementProblem, k: int, free: list[int], *, deadline: Deadline
) -> list[int]:
    if k == 0:
        return []
    fabric = problem.fabric
    open_now = set(free)
    busy = [fabric.nodes[i].id for i in fabric.gpu_index if int(i) not in open_now]
    return choose_gpus(fabric, k, busy=busy, deadline=deadline)


def _candidate(problem: PlacementProblem, placement: Placement) -> Candidate[Placement]:
    return Candidate(placement, problem.cost(placement))


def improve_ranks(
    problem: PlacementProblem,
    start: Candidate[Placement],
    deadline: Deadline,
    seed: int,
) -> Candidate[Placement]:
    """First-improvement swaps between ranks, and moves to free GPUs, within the move budget.

    Ranks at the busiest link come first. The total of squared link times breaks ties, so plateaus
    of the busiest link are left too.
    """
    bound = problem.lower_bound() * (1 + 1e-9)
    state = _State(problem, start.value)
    improvements, rng = 0, np.random.default_rng(seed)
    while state.score[0] > bound and not deadline.expired:
        if not state.improve(deadline, rng):
            break
        improvements += 1
    if state.score[0] < start.objective:
        return Candidate(state.placement, state.score[0], notes={"improvements": improvements})
    return start


class _State:
    """A placement with the loads of each job, so that a swap recomputes only what it touches."""

    def __init__(self, problem: PlacementProblem, placement: Placement) -> None:
        self.problem = problem
        self.placement = {job: list(gpus) for job, gpus in placement.items()}
        self._loads = {job: problem.job_loads(job, g)[0] for job, g in self.placement.items()}
        n = len(problem.fabric.nodes)
        self._total = sum(self._loads.values(), np.zeros((n, n)))
        self._fixed = {gpu for gpus in problem.pinned.values() for gpu in gpus}
        self.score = self._score(self._total)

    def _score(self, loads: NDArray[np.float64]) -> tuple[float, float]:
        seconds = self.problem.seconds(loads)
        return float(seconds.max(initial=0.0)), float((seconds**2).sum())

    def improve(self, deadline: Deadline, rng: np.random.Generator) -> bool:
        """Take the first step that helps; False when there is none or time is up."""
        for slot, other in self._steps(rng):
            if deadline.expired:
                return False
            changed = self._stepped(slot, other)
            if changed is None:
                continue
            loads = {job: self.problem.job_loads(job, gpus)[0] for job, gpus in changed.items()}
            total = self._total.copy()
            for job, mine in loads.items():
                total += mine - self._loads[job]
            found = self._score(total)
            less = found[1] < self.score[1] * (1 - 1e-9)
            # The sums are updated, not made anew, so equal ones may differ by rounding.
            level = found[0] <= self.score[0] * (1 + 1e-12)
            if found[0] < self.score[0] * (1 - 1e-9) or (level and less):
                self.placement.update(changed)
                self._loads.update(loads)
                self._total, self.score = total, found
                return True
        return False

    def _steps(
        self, rng: np.random.Generator
    ) -> Iterator[tuple[tuple[str, int], tuple[str | None, int]]]:
        """Pairs of a rank and another rank or free GPU; those at the busiest link first."""
        seconds = self.problem.seconds(self._total)
        # Both ends of a slow path are equally busy; only moving the right one helps.
        ends = set(np.argwhere(seconds >= self.score[0] * (1 - 1e-9)).ravel().tolist())
        slots = [(job, r) for job, gpus in self.placement.items() for r in range(len(gpus))]
        used = {gpu for gpus in self.placement.values() for gpu in gpus}
        spare: list[tuple[str | None, int]] = [
            (None, int(i)) for i in self.problem.fabric.gpu_index if int(i) not in used
        ]
        hot = [slot for slot in slots if self.placement[slot[0]][slot[1]] in ends]
        heated = set(hot)
        cold = [slot for slot in slots if slot not in heated]
        # The busiest ranks try first what looks best by the ports alone.
        port = self.problem.fabric.effective.sum(axis=1)
        use = np.maximum(seconds.max(axis=1), seconds.max(axis=0))
        everywhere: list[tuple[str | None, int]] = [*spare, *slots]
        for a in hot:
            guess = [(self._guess(a, b, port, use), i) for i, b in enumerate(everywhere)]
            for seconds_then, i in sorted(guess):
                if len(slots) > _SMALL and seconds_then > self.score[0] * (1 + 1e-9):
                    break  # in a large cluster the rest is not worth a look
                if a != everywhere[i]:
                    yield a, everywhere[i]
        if len(slots) > _SMALL:
            return
        pairs = [(a, b) for a in cold for b in [*spare, *slots] if a != b]
        for position in rng.permutation(len(pairs)):
            yield pairs[int(position)]

    def _guess(
        self,
        a: tuple[str, int],
        b: tuple[str | None, int],
        port: NDArray[np.float64],
        use: NDArray[np.float64],
    ) -> float:
        """Roughly the seconds of the slower of two GPUs after a step: volumes over ports."""
        here = self.placement[a[0]][a[1]]
        there = b[1] if b[0] is None else self.placement[b[0]][b[1]]
        mine, other = use[here] * port[here], use[there] * port[there]
        if b[0] is None:
            other = 0.0
        return float(max(mine / max(port[there], 1e-9), other / max(port[here], 1e-9)))

    def _stepped(
        self, slot: tuple[str, int], other: tuple[str | None, int]
    ) -> dict[str, list[int]] | None:
        """The changed jobs' GPUs after a step, or None when it is not allowed."""
        (job, rank), (name, there) = slot, other
        here = self.placement[job][rank]
        target = there if name is None else self.placement[name][there]
        if name != job and (here in self._fixed or target in self._fixed):
            return None
        if not self.problem.same_group(here, target):
            return None
        changed = {job: self.placement[job].copy()}
        if name is not None:
            changed.setdefault(name, self.placement[name].copy())[there] = here
        changed[job][rank] = target
        limit = self.problem.limit
        if limit is not None and self.problem.moved({**self.placement, **changed}) > limit:
            return None
        return changed


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
