"""Fewer and fewer colours by tabu search, classical.

DSATUR gives a colouring at once; ``descend`` takes away one colour after another. Vertices with
fewer neighbours than there are colours can always be coloured last, so they are peeled off first.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.fallback import Candidate
from qcluster.q_nvlink.coloring._kernels import conflicts, dsatur, tabu_step
from qcluster.q_nvlink.coloring.problem import ColoringProblem

__all__ = ["TabuSearch", "descend", "peel", "run_dsatur", "run_tabu"]

_STEPS = 5_000  # tabu moves between two looks at the clock
_ALONE = 40  # such slices before two colourings are combined
_CHILD = 4  # slices for each child
_ERA = 10  # generations between two returns of an older elite


def candidate(color: NDArray[np.int64], **notes: Any) -> Candidate[NDArray[np.int64]]:
    """A colouring with its colours renumbered without gaps."""
    used, dense = np.unique(color, return_inverse=True)
    return Candidate(dense.astype(np.int64), float(len(used)), notes=notes)


def run_dsatur(
    problem: ColoringProblem,
    *,
    deadline: Deadline,  # noqa: ARG001 - it takes microseconds
    seed: int,  # noqa: ARG001 - deterministic
    incumbent: Candidate[NDArray[np.int64]] | None,  # noqa: ARG001
) -> Candidate[NDArray[np.int64]]:
    """The fallback: DSATUR."""
    return candidate(dsatur(problem.indptr, problem.indices))


def run_tabu(
    problem: ColoringProblem,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[NDArray[np.int64]] | None,
) -> Candidate[NDArray[np.int64]]:
    """Tabu search for one colour less, until the clique's size or the deadline."""
    start = incumbent.value if incumbent is not None else dsatur(problem.indptr, problem.indices)
    return descend(problem, start, deadline, seed, partial(_tabu_for, problem))


def descend(
    problem: ColoringProblem,
    start: NDArray[np.int64],
    deadline: Deadline,
    seed: int,
    attempt: Any,
) -> Candidate[NDArray[np.int64]]:
    """Lower the number of colours by ``attempt(core, color, k, rng, deadline)`` while it can."""
    rng = np.random.default_rng(seed)
    color = np.array(start, dtype=np.int64)
    count = int(color.max(initial=-1)) + 1
    while count > len(problem.clique) and not deadline.expired:
        kept, order = peel(problem, count - 1)
        core = _induced(problem, kept)
        found = attempt(core, color[kept], count - 1, rng, deadline)
        if found is None:
            break
        color = _extend(problem, kept, order, found, count - 1)
        count -= 1
    return candidate(color)


def peel(problem: ColoringProblem, k: int) -> tuple[NDArray[np.int64], list[int]]:
    """Vertices that matter for k colours, and the others in the order they were taken off.

    A vertex with fewer than k neighbours left always finds a colour when it is put back.
    """
    degree = np.diff(problem.indptr)
    gone = np.zeros(problem.n, dtype=bool)
    order: list[int] = []
    stack = np.flatnonzero(degree < k).tolist()
    while stack:
        v = stack.pop()
        if gone[v]:
            continue
        gone[v] = True
        order.append(v)
        for u in problem.neighbours(v):
            degree[u] -= 1
            if degree[u] < k and not gone[u]:
                stack.append(int(u))
    return np.flatnonzero(~gone), order


def _induced(problem: ColoringProblem, kept: NDArray[np.int64]) -> ColoringProblem:
    place = np.full(problem.n, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    rows = [place[problem.neighbours(v)] for v in kept]
    rows = [row[row >= 0] for row in rows]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    return ColoringProblem(indptr, indices, ())


def _extend(
    problem: ColoringProblem,
    kept: NDArray[np.int64],
    order: list[int],
    found: NDArray[np.int64],
    k: int,
) -> NDArray[np.int64]:
    color = np.full(problem.n, -1, dtype=np.int64)
    color[kept] = found
    for v in reversed(order):
        taken = set(color[problem.neighbours(v)].tolist())
        color[v] = next(c for c in range(k) if c not in taken)
    return color


def _tabu_for(
    problem: ColoringProblem,  # noqa: ARG001 - the core is what is searched
    core: ColoringProblem,
    color: NDArray[np.int64],
    k: int,
    rng: np.random.Generator,
    deadline: Deadline,
) -> NDArray[np.int64] | None:
    """A proper k-colouring of the core, or None when time runs out.

    Tabu search alone first; where it stalls, two colourings and their children (HEAD: Moalic and
    Gondran, 2018), each improved by tabu search.
    """
    search = TabuSearch(core, color, k, rng)
    for _ in range(_ALONE):
        if deadline.expired:
            return None
        if search.run(_STEPS) == 0:
            return search.best
    return _head(core, k, rng, deadline)


def _head(
    core: ColoringProblem, k: int, rng: np.random.Generator, deadline: Deadline
) -> NDArray[np.int64] | None:
    pair = [rng.integers(0, k, core.n) for _ in range(2)]
    elite = older = pair[0]
    generation = 0
    while not deadline.expired:
        children = []
        least = core.n * core.n
        for a, b in ((pair[0], pair[1]), (pair[1], pair[0])):
            search = TabuSearch(core, partition_crossover(a, b, k, rng), k, rng)
            for _ in range(_CHILD):
                clashes = search.run(_STEPS)
                if clashes == 0:
                    return search.best
                if deadline.expired:
                    return None
            children.append(search.best)
            if clashes < least:
                least, best = clashes, search.best
        generation += 1
        elite = best if generation % _ERA == 1 else _fitter(core, elite, best)
        pair = children
        if generation % _ERA == 0:
            # The best of the era before last comes back, so the two do not grow alike.
            pair[0], older = older, elite
        one, two = _canonical(pair, k)
        if np.array_equal(one, two):
            pair[1] = rng.integers(0, k, core.n)
    return None


def _fitter(core: ColoringProblem, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    worse = conflicts(core.indptr, core.indices, a) > conflicts(core.indptr, core.indices, b)
    return b if worse else a


def _canonical(pair: list[NDArray[np.int64]], k: int) -> list[NDArray[np.int64]]:
    """Colours renamed in order of first use, so that equal partitions compare equal."""
    found = []
    for color in pair:
        _, first = np.unique(color, return_index=True)
        rename = np.zeros(k, dtype=np.int64)
        rename[color[np.sort(first)]] = np.arange(len(first))
        found.append(rename[color])
    return found


def partition_crossover(
    a: NDArray[np.int64], b: NDArray[np.int64], k: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A child made of the largest colour classes of its parents in turn (Galinier and Hao, 1999).

    a and b (n,) hold colours below k; vertices in no chosen class get a random colour.
    """
    child = np.full(len(a), -1, dtype=np.int64)
    parents = (a.copy(), b.copy())
    for c in range(k):
        parent = parents[c % 2]
        open_now = child < 0
        if not open_now.any():
            break
        largest = int(np.bincount(parent[open_now], minlength=k).argmax())
        child[open_now & (parent == largest)] = c
    rest = child < 0
    child[rest] = rng.integers(0, k, int(rest.sum()))
    return child


class TabuSearch:
    """Tabu search for a colouring with k colours, in slices; ``best`` is the best so far."""

    def __init__(
        self, core: ColoringProblem, color: NDArray[np.int64], k: int, rng: np.random.Generator
    ) -> None:
        self.core, self.k = core, k
        self.color = np.where(color < k, color, rng.integers(0, k, len(color))).astype(np.int64)
        self.best = self.color.copy()
        self._until = np.zeros((core.n, k), dtype=np.int64)
        self._clock = np.array([0, rng.integers(1, 2**62)], dtype=np.uint64)

    def run(self, steps: int) -> int:
        """Go on for ``steps`` moves; returns the conflicts of ``best``."""
        return int(
            tabu_step(
                self.core.indptr,
                self.core.indices,
                self.k,
                self.color,
                self.best,
                self._until,
                self._clock,
                steps,
            )
        )
