"""The classical ways to route: hash, prices, locality, local search, annealing, enumeration.

Each takes a ``RoutingProblem`` and gives expert indices (tokens,) within the capacities. Prices
come from ``assign_tokens`` on the part of the objective that is linear, and prove a bound on it;
the quadratic rest is never below 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.q_routing import _route_kernels as kernels
from qcluster.q_routing.assign import assign_tokens
from qcluster.q_routing.hashing import bounded_rendezvous, keys
from qcluster.q_routing.tokens import RoutingProblem

__all__ = ["annealed", "by_hash", "by_prices", "descend", "lower_bound", "optimum", "verify"]

Ints = NDArray[np.int64]

ENUMERABLE = 2**18
"""Up to this many assignments the optimum is found by trying all."""
_SWAP_TOKENS = 4096
_CHUNK = 2048
_ANNEAL_EACH, _ANNEAL_MOST = 200, 200_000


def by_hash(problem: RoutingProblem) -> Ints:
    """Rendezvous hashing with bounded load: looks at ids and capacities alone."""
    return bounded_rendezvous(keys(problem.token_ids), keys(problem.expert_ids), problem.capacity)


def by_prices(problem: RoutingProblem, deadline: Deadline, seed: int = 0) -> Ints:
    """Start from prices on the linear part and from falling complexity; descend from both, then,
    up to 4,096 tokens, a bounded annealing run and a last descent.
    """
    starts = [_heaviest_first(problem)]
    if np.ptp(problem.linear, axis=1).any():
        starts.append(assign_tokens(-problem.linear, capacity=problem.capacity).expert)
    best: Ints | None = None
    for left, start in enumerate(sorted(starts, key=problem.cost)):
        found = descend(problem, start, deadline.share(0.6) if left == 0 else deadline)
        if best is None or problem.cost(found) < problem.cost(best):
            best = found
    if best is None:
        raise SolverFailed("no start was tried")
    if problem.shape[0] > _SWAP_TOKENS:
        return best
    steps = min(_ANNEAL_MOST, _ANNEAL_EACH * problem.shape[0])
    return descend(problem, annealed(problem, best, deadline, seed, steps), deadline)


def descend(problem: RoutingProblem, start: Ints, deadline: Deadline, sweeps: int = 1000) -> Ints:
    """Best moves and exchanges of single tokens until none helps or time is up.

    Exchanges are tried up to 4,096 tokens: each looks at all tokens of the full expert.
    """
    choice = start.copy()
    tokens, experts = problem.shape
    load, used = np.zeros(experts), np.zeros(experts, dtype=np.int64)
    pull = np.zeros((max(len(problem.group_size), 1), experts))
    kernels.state(choice, problem.complexity, problem.near, problem.group, load, used, pull)
    swaps = tokens <= _SWAP_TOKENS
    chunk = _CHUNK if not swaps else max(1, _CHUNK // 16)
    for _ in range(sweeps):
        fell = 0.0
        for begin in range(0, tokens, chunk):
            if deadline.expired:
                return choice
            fell += kernels.descend(
                choice, problem.capacity, load, used, pull, begin, min(begin + chunk, tokens),
                swaps, *problem.arrays,
            )  # fmt: skip
        if fell <= 1e-12:
            break
    return choice


def annealed(
    problem: RoutingProblem,
    start: Ints,
    deadline: Deadline,
    seed: int,
    most: int | None = None,
) -> Ints:
    """Simulated annealing from ``start`` until the deadline or ``most`` steps, in rounds of rising
    length.
    """
    tokens, experts = problem.shape
    scale = max(problem.cost(start), 1e-9) / max(tokens, 1)
    steps, best, done = 2000, start, 0
    while not deadline.expired and (most is None or done < most):
        choice = best.copy()
        load, used = np.zeros(experts), np.zeros(experts, dtype=np.int64)
        pull = np.zeros((max(len(problem.group_size), 1), experts))
        kernels.state(choice, problem.complexity, problem.near, problem.group, load, used, pull)
        found = kernels.anneal(
            choice, problem.capacity, load, used, pull, steps, scale, scale * 1e-3,
            (seed + done) % 2**32, *problem.arrays,
        )  # fmt: skip
        if problem.cost(found) < problem.cost(best):
            best = found
        done += steps
        steps = min(steps * 2, 100_000)
    return best


def optimum(problem: RoutingProblem) -> Ints:
    """The optimum by trying all assignments. Raises InputError beyond 2^18 of them."""
    tokens, experts = problem.shape
    if tokens * np.log2(experts) > np.log2(ENUMERABLE) + 1e-9:
        raise InputError(f"{experts}^{tokens} assignments are too many to try all")
    best, _ = kernels.enumerate_all(problem.capacity, *problem.arrays)
    return np.asarray(best, dtype=np.int64)


def lower_bound(problem: RoutingProblem) -> float:
    """A bound on the objective: the dual of the linear part, and 0 for the quadratic rest.

    Where all assignments can be tried, it is the optimum itself.
    """
    tokens, experts = problem.shape
    if tokens * np.log2(experts) <= np.log2(ENUMERABLE) / 2:
        return problem.cost(optimum(problem))
    if not np.ptp(problem.linear, axis=1).any():
        return float(problem.linear[:, 0].sum())
    return max(0.0, -assign_tokens(-problem.linear, capacity=problem.capacity).upper_bound)


def verify(problem: RoutingProblem, choice: Ints) -> None:
    """Raise SolverFailed unless every token has an expert and no expert too many tokens."""
    tokens, experts = problem.shape
    if choice.shape != (tokens,) or choice.min() < 0 or choice.max() >= experts:
        raise SolverFailed("not every token has an expert")
    over = np.flatnonzero(np.bincount(choice, minlength=experts) > problem.capacity)
    if len(over):
        raise SolverFailed(f"expert '{problem.expert_ids[over[0]]}' has more than it can take")


def _heaviest_first(problem: RoutingProblem) -> Ints:
    """Tokens by falling complexity to the expert that is then least loaded for its share."""
    tokens, experts = problem.shape
    choice = np.zeros(tokens, dtype=np.int64)
    load, left = np.zeros(experts), problem.capacity.copy()
    share = np.maximum(problem.share, 1e-12)
    for i in np.argsort(-problem.complexity, kind="stable"):
        time = np.where(left > 0, (load + problem.complexity[i]) / share, np.inf)
        # Equal times, as with zero complexity, go where there is most room.
        e = int(np.lexsort((-left, time))[0])
        choice[i] = e
        load[e] += problem.complexity[i]
        left[e] -= 1
    return choice
