"""``partition_ranks``: which ranks go to which NVLink domain, so that least crosses.

Capacities are hard: an NVLink domain has so many GPUs and no more. A population of feasible
partitions is improved by multilevel tabu search: ranks that talk most are merged, but never across
a boundary of the partition, so that it stays feasible and as good on every level; swaps and moves
of whole clusters, then of smaller ones, then of single ranks improve it. Two parents are combined
by merging across the boundaries of neither (Sanders and Schulz, 2012): the child is never worse
than the better one. METIS and KaHIP join the population where they are installed, after repair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.fallback import Candidate, CircuitBreaker, Stage, certified
from qcluster.plan import SolverRef
from qcluster.q_nvlink.assigned import proof_of, proof_of_nothing, read_square
from qcluster.q_nvlink.partition.bounds import least_crossing
from qcluster.q_nvlink.partition.cycle import Draws, improved
from qcluster.q_nvlink.partition.outside import list_outside
from qcluster.q_nvlink.partition.reference import crossing
from qcluster.q_nvlink.partition.starts import list_starts
from qcluster.record import Record

__all__ = ["Partition", "partition_ranks"]

_BREAKER = CircuitBreaker()
_POOL = 8  # partitions kept
_DROUGHT = 40  # children without a better best before half the population is renewed

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition(Record):
    """``domain`` (n,) of each rank; ``objective`` bytes that cross, both directions together.

    ``lower_bound`` is proven, ``proven`` whether the two are equal. ``baselines`` has what crosses
    when ranks fill the domains in their order.
    """

    domain: NDArray[np.int64]
    objective: float
    lower_bound: float
    gap: float
    proven: bool
    solver: SolverRef
    baselines: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


@dataclass(frozen=True)
class _Problem:
    """Symmetric weights (n, n) without diagonal, and how many ranks each domain holds (k,)."""

    weight: Matrix
    capacity: Labels

    @functools.cached_property
    def bound(self) -> float:
        """What must cross."""
        return least_crossing(self.weight, self.capacity)


def partition_ranks(
    traffic: ArrayLike, capacities: ArrayLike, *, deadline_s: float = 1.0, seed: int = 0
) -> Partition:
    """Give each of n ranks a domain so that as few bytes as possible cross between domains.

    Parameters
    ----------
    traffic: (n, n) bytes from rank to rank, finite, at least 0; the diagonal does not count.
    capacities: (k,) how many ranks each domain holds at most; hard.
    deadline_s: seconds; it ends early only when the bound is met.

    Raises
    ------
    InputError: traffic is not a square matrix of numbers of at least 0, or a capacity is no count.
    Infeasible: more ranks than the domains hold.
    """
    problem = _problem(traffic, capacities)
    if not len(problem.weight):
        return Partition(domain=np.empty(0, dtype=np.int64), **proof_of_nothing("multilevel-tabu"))
    answer = certified(
        problem,
        stages=[Stage("multilevel-tabu", _run_multilevel)],
        fallback=Stage("linear", _run_linear),
        bound=lambda p: p.bound,
        verify=_verify,
        deadline=Deadline.after(deadline_s),
        seed=seed,
        breaker=_BREAKER,
    )
    return Partition(domain=answer.value, **proof_of(answer))


def _problem(traffic: ArrayLike, capacities: ArrayLike) -> _Problem:
    matrix = read_square(traffic, "traffic", nonnegative=True)
    room = _capacities(capacities)
    if len(matrix) > room.sum():
        raise Infeasible(f"{len(matrix)} ranks, but room for {room.sum()}", field="capacities")
    weight = matrix + matrix.T
    np.fill_diagonal(weight, 0.0)
    return _Problem(weight, room)


def _capacities(capacities: ArrayLike) -> Labels:
    try:
        array = np.asarray(capacities)
    except ValueError:
        raise InputError("wants a list of counts", field="capacities") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError("wants a list of counts", field="capacities")
    if (array < 0).any():
        d = int(np.argmax(array < 0))
        raise InputError(f"wants a count, got {array[d]}", field=f"capacities[{d}]")
    return array.astype(np.int64)


def _verify(problem: _Problem, part: Labels) -> None:
    k = len(problem.capacity)
    if part.shape != (len(problem.weight),) or part.min() < 0 or part.max() >= k:
        raise SolverFailed("a rank has no domain")
    if (np.bincount(part, minlength=k) > problem.capacity).any():
        raise SolverFailed("a domain holds more ranks than it has GPUs")


def _candidate(problem: _Problem, part: Labels) -> Candidate[Labels]:
    return Candidate(part, crossing(problem.weight, part))


def _run_linear(
    problem: _Problem,
    *,
    deadline: Deadline,  # noqa: ARG001
    seed: int,  # noqa: ARG001
    incumbent: Candidate[Labels] | None,  # noqa: ARG001
) -> Candidate[Labels]:
    """The fallback: domains are filled in order of ranks, as launchers do."""
    slots = np.repeat(np.arange(len(problem.capacity)), problem.capacity)
    return _candidate(problem, slots[: len(problem.weight)].astype(np.int64))


def _run_multilevel(
    problem: _Problem,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Labels] | None,
) -> Candidate[Labels]:
    search = _Search(problem, deadline, np.random.default_rng(seed))
    if incumbent is not None:
        search.add(incumbent.value)
    for start in (*list_outside(problem.weight, problem.capacity), *search.starts()):
        if search.done:
            break
        search.add(start)
    while not search.done:
        search.breed()
    return _candidate(problem, search.best)


class _Search:
    """A population of partitions; what comes in is improved by a multilevel cycle."""

    def __init__(self, problem: _Problem, deadline: Deadline, rng: np.random.Generator) -> None:
        self.problem, self.deadline, self.rng = problem, deadline, rng
        self.members: list[tuple[float, Labels]] = []
        self.best, self.least, self.drought = np.empty(0, dtype=np.int64), math.inf, 0
        self._draws = Draws(rng, deadline)
        self._target = problem.bound * (1 + 1e-9)

    @property
    def done(self) -> bool:
        """Whether there is an answer and time is up or the bound is met."""
        return bool(len(self.best)) and (self.deadline.expired or self.least <= self._target)

    def starts(self) -> Iterator[Labels]:
        """Feasible partitions to begin with, as many as the population holds."""
        return list_starts(self.problem.weight, self.problem.capacity, _POOL, self._draws)

    def add(self, part: Labels, other: Labels | None = None) -> None:
        """Improve a partition, merging across boundaries neither of it nor of ``other``."""
        found = improved(self.problem.weight, self.problem.capacity, part, self._draws, other)
        value = crossing(self.problem.weight, found)
        if value < self.least * (1 - 1e-12):
            self.best, self.least, self.drought = found, value, 0
        else:
            self.drought += 1
        if any(math.isclose(value, known, rel_tol=1e-12) for known, _ in self.members):
            return  # most likely the same with domains renamed
        self.members.append((value, found))
        self.members.sort(key=lambda row: row[0])
        del self.members[_POOL:]

    def breed(self) -> None:
        """A child of two members, or of one shaken; new ones when nothing has come of it."""
        if self.drought > _DROUGHT:
            self.drought = 0
            del self.members[1 + len(self.members) // 4 :]
            for start in self.starts():
                if self.done:
                    return
                self.add(start)
        if len(self.members) > 1 and self.rng.random() < 0.6:
            a, b = sorted(self.rng.choice(len(self.members), 2, replace=False).tolist())
            self.add(self.members[a][1], self.members[b][1])
            return
        part = self.members[int(self.rng.integers(len(self.members)))][1].copy()
        self._shake(part)
        self.add(part)

    def _shake(self, part: Labels) -> None:
        """Mix some ranks of a domain and of those that it exchanges most with."""
        k = len(self.problem.capacity)
        first = int(self.rng.integers(k))
        ties = self.problem.weight[part == first].sum(axis=0)
        between = np.bincount(part, weights=ties, minlength=k)
        between[first] = np.inf
        some = np.argsort(-between - 1e-9 * self.rng.random(k))[: int(self.rng.integers(2, 6))]
        here = np.flatnonzero(np.isin(part, some))
        mixed = here[self.rng.random(len(here)) < self.rng.uniform(0.1, 1.0)]
        part[mixed] = part[self.rng.permutation(mixed)]
