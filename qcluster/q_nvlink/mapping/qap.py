"""``place_ranks``: which rank on which GPU, so that heavy talkers sit close (quadratic assignment).

Up to ``_ENUMERATED`` placements are all tried. Beyond, a memetic search (Benlic and Hao, 2015)
keeps a small population of placements; each child takes what its parents share and the rest from
either, and robust tabu search (Taillard, 1991) improves it. The bound is that of Gilmore (1962) and
Lawler (1963). Distances and flows may be asymmetric and have diagonals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate, CircuitBreaker, Stage, certified
from qcluster.plan import SolverRef
from qcluster.q_nvlink.assigned import proof_of, proof_of_nothing, read_square
from qcluster.q_nvlink.mapping._kernels import enumerate_all, tabu, tabu_symmetric
from qcluster.q_nvlink.mapping.reference import cost
from qcluster.record import Record

__all__ = ["Mapping", "place_ranks"]

_BREAKER = CircuitBreaker()
_ENUMERATED = 500_000
_POOL = 12  # members of the population
_LONGEST = 64  # times the usual length of a tabu run
_DROUGHT = 120  # children without a better best before the population is renewed

Matrix = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mapping(Record):
    """Where each rank goes: ``location`` (n,) indexes the distance matrix.

    ``objective`` is the sum of flow[i, j] distance[location i, location j]; ``lower_bound`` is
    proven, ``proven`` whether the two are equal.
    """

    location: NDArray[np.int64]
    objective: float
    lower_bound: float
    gap: float
    proven: bool
    solver: SolverRef
    baselines: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0


@dataclass(frozen=True)
class _Problem:
    """Flow padded with idle ranks to the size of the distance matrix, (m, m) both."""

    flow: Matrix
    dist: Matrix
    ranks: int


def place_ranks(
    flow: ArrayLike, distance: ArrayLike, *, deadline_s: float = 10.0, seed: int = 0
) -> Mapping:
    """Place n ranks on m >= n locations.

    Parameters
    ----------
    flow: (n, n) traffic from rank to rank, any unit, finite.
    distance: (m, m) cost of one unit of traffic from location to location, finite.
    deadline_s: seconds; it ends early only when the bound is met or everything was tried.

    Raises
    ------
    InputError: a matrix is not square or not finite.
    Infeasible: fewer locations than ranks.
    """
    problem = _problem(read_square(flow, "flow"), read_square(distance, "distance"))
    if problem.ranks == 0:
        return Mapping(location=np.empty(0, dtype=np.int64), **proof_of_nothing("robust-tabu"))
    answer = certified(
        problem,
        stages=[Stage("robust-tabu", _run_tabu)],
        fallback=Stage("linear", _run_linear),
        bound=_gilmore_lawler,
        verify=_verify,
        deadline=Deadline.after(deadline_s),
        seed=seed,
        breaker=_BREAKER,
    )
    return Mapping(location=answer.value[: problem.ranks], **proof_of(answer))


def _problem(flow: Matrix, dist: Matrix) -> _Problem:
    n, m = len(flow), len(dist)
    if m < n:
        raise Infeasible(f"{n} ranks, but {m} locations", field="distance")
    padded = np.zeros((m, m))
    padded[:n, :n] = flow
    return _Problem(padded, dist, n)


def _verify(problem: _Problem, location: Places) -> None:
    if sorted(location.tolist()) != list(range(len(problem.dist))):
        raise SolverFailed("two ranks share a location")


def _candidate(
    problem: _Problem, location: Places, bound: float | None = None
) -> Candidate[Places]:
    return Candidate(location, cost(problem.flow, problem.dist, location), lower_bound=bound)


def _run_linear(
    problem: _Problem,
    *,
    deadline: Deadline,  # noqa: ARG001
    seed: int,  # noqa: ARG001
    incumbent: Candidate[Places] | None,  # noqa: ARG001
) -> Candidate[Places]:
    """The fallback: rank i on location i, as launchers do."""
    return _candidate(problem, np.arange(len(problem.dist), dtype=np.int64))


def _run_tabu(
    problem: _Problem,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Places] | None,
) -> Candidate[Places]:
    n, m = problem.ranks, len(problem.dist)
    nonnegative = problem.flow.min() >= 0 and problem.dist.min() >= 0
    if math.perm(m, n) <= _ENUMERATED and nonnegative:
        return _enumerated(problem)
    start = incumbent.value if incumbent is not None else np.arange(m, dtype=np.int64)
    compact, order = _compact(problem)
    found = _memetic(compact, start[order], deadline, np.random.default_rng(seed))
    location = np.empty_like(found)
    location[order] = found
    return _candidate(problem, location)


def _compact(problem: _Problem) -> tuple[_Problem, Places]:
    """The same with silent ranks last, as nothing depends on where they are, and their order.

    Where one matrix is symmetric the other one may be: only the sums of both directions count.
    """
    flow, dist = problem.flow, problem.dist
    silent = ~((flow != 0).any(axis=0) | (flow != 0).any(axis=1))
    order = np.argsort(silent, kind="stable")
    flow = flow[np.ix_(order, order)]
    if (flow == flow.T).all() or (dist == dist.T).all():
        flow, dist = (flow + flow.T) / 2, (dist + dist.T) / 2
    ranks = max(1, int((~silent).sum()))
    return _Problem(np.ascontiguousarray(flow), np.ascontiguousarray(dist), ranks), order


def _enumerated(problem: _Problem) -> Candidate[Places]:
    n, m = problem.ranks, len(problem.dist)
    best = np.empty(n, dtype=np.int64)
    enumerate_all(np.ascontiguousarray(problem.flow[:n, :n]), problem.dist, best)
    rest = np.setdiff1d(np.arange(m), best)
    found = np.concatenate([best, rest]).astype(np.int64)
    return _candidate(problem, found, cost(problem.flow, problem.dist, found))


def _memetic(
    problem: _Problem, start: Places, deadline: Deadline, rng: np.random.Generator
) -> Places:
    """Memetic search; see the module's text."""
    pool = _Pool(problem, deadline, rng)
    pool.add(start)
    while not pool.done and len(pool.members) < _POOL:
        pool.add(rng.permutation(len(problem.dist)).astype(np.int64))
    while not pool.done:
        a, b = rng.choice(len(pool.members), 2, replace=False)
        child = _crossed(pool.members[a], pool.members[b], rng)
        pool.add(child)
        if pool.drought > _DROUGHT:
            pool.renew()
    return pool.best


class _Pool:
    """The best placements so far, all different; tabu search improves what comes in."""

    def __init__(self, problem: _Problem, deadline: Deadline, rng: np.random.Generator) -> None:
        self.problem, self.deadline, self.rng = problem, deadline, rng
        self.members: list[Places] = []
        self.costs: list[float] = []
        self.best, self.least, self.drought = np.empty(0, dtype=np.int64), math.inf, 0
        self._state = np.array([rng.integers(1, 2**62)], dtype=np.uint64)
        self._steps = 10 * len(problem.dist)
        self._fresh = False
        alike = all(
            (m == m.T).all() and not m.diagonal().any() for m in (problem.flow, problem.dist)
        )
        self._search = tabu_symmetric if alike else tabu
        bound = _gilmore_lawler(problem)
        self._target = bound + 1e-9 * max(1.0, abs(bound))

    @property
    def done(self) -> bool:
        """Whether time is up or the bound is met."""
        return self.deadline.expired or self.least <= self._target

    def add(self, location: Places) -> None:
        """Improve a placement and keep it if it is new and better than the worst."""
        found, value = self._improved(location)
        if value < self.least:
            self.best, self.least, self.drought = found, value, 0
        else:
            self.drought += 1
        if any(math.isclose(value, c) and (found == m).all() for c, m in self._pairs()):
            return
        if len(self.members) < _POOL:
            self.members.append(found)
            self.costs.append(value)
            return
        worst = int(np.argmax(self.costs))
        if value < self.costs[worst]:
            self.members[worst], self.costs[worst] = found, value

    def renew(self) -> None:
        """Begin again: around the best member, or every other time from chance alone."""
        self._fresh = not self._fresh
        self.members, self.costs = ([], []) if self._fresh else ([self.best], [self.least])
        self.drought = 0
        n = len(self.best)
        while not self.done and len(self.members) < _POOL:
            share = self.rng.uniform(0.3, 1.0) if self.rng.random() < 0.5 else 1.0
            chosen = self.rng.choice(n, max(2, int(share * n)), replace=False)
            shaken = self.best.copy()
            shaken[chosen] = shaken[self.rng.permutation(chosen)]
            self.add(shaken)
        self.drought = 0

    def _pairs(self) -> list[tuple[float, Places]]:
        return list(zip(self.costs, self.members, strict=True))

    def _improved(self, location: Places) -> tuple[Places, float]:
        problem = self.problem
        walker, found = location.copy(), np.empty_like(location)
        # Mostly short runs; rugged problems need a long one now and then.
        steps = self._steps << int(self.rng.geometric(0.5) - 1 if self.members else 0)
        steps = min(steps, _LONGEST * self._steps)
        self._search(problem.flow, problem.dist, problem.ranks, walker, found, steps, self._state)
        return found, cost(problem.flow, problem.dist, found)


def _crossed(a: Places, b: Places, rng: np.random.Generator) -> Places:
    """A child that keeps what its parents share and takes the rest from either, then at random."""
    m = len(a)
    child = np.where(a == b, a, -1)
    used = np.zeros(m, dtype=bool)
    used[child[child >= 0]] = True
    for i in rng.permutation(m):
        if child[i] >= 0:
            continue
        first, second = (a[i], b[i]) if rng.random() < 0.5 else (b[i], a[i])
        pick = first if not used[first] else second
        if not used[pick]:
            child[i] = pick
            used[pick] = True
    open_ranks = np.flatnonzero(child < 0)
    child[open_ranks] = rng.permutation(np.flatnonzero(~used))
    return child


def _gilmore_lawler(problem: _Problem) -> float:
    """Gilmore-Lawler bound: each rank's traffic on each location at its cheapest, then assigned.

    The smallest scalar product pairs the largest with the smallest (rearrangement inequality).
    Rows and columns give a bound each; the larger counts.
    """
    from scipy.optimize import linear_sum_assignment

    best = -math.inf
    for flow, dist in ((problem.flow, problem.dist), (problem.flow.T, problem.dist.T)):
        m = len(dist)
        off = ~np.eye(m, dtype=bool)
        talk = np.sort(flow[off].reshape(m, m - 1), axis=1)
        near = np.sort(dist[off].reshape(m, m - 1), axis=1)[:, ::-1]
        least = np.outer(np.diag(flow), np.diag(dist)) + talk @ near.T
        rows, columns = linear_sum_assignment(least)
        best = max(best, float(least[rows, columns].sum()))
    return best
