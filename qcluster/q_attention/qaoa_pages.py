"""Which pages of keys to attend to: relevant ones that do not repeat each other.

Choose k of m <= 16 pages for the largest

    sum_i s_i x_i - lambda sum_{i<j} r_ij x_i x_j,

s the pages' relevance to the queries, r the likeness of their mean keys. Without the second term
sorting is exact and nothing quantum is needed; with it the problem is quadratic, and a sampled QAOA
circuit (Farhi et al., 2014) is one way to search it. Computing s and r reads every page's mean: no
part of this avoids looking at the keys, and a simulator of m qubits holds all 2^m choices anyway.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.qaoa import optimise_angles, ramp_angles

__all__ = ["MAX_PAGES", "PageChoice", "QAOASparseAttention", "choose_pages"]

Floats = NDArray[np.float64]

MAX_PAGES = 16
LAYERS, SHOTS, DEADLINE_S = 4, 2048, 0.5
PENALTY = 0.5


@dataclass(frozen=True)
class PageChoice:
    """``pages`` chosen, sorted; ``value`` of the objective, larger is better; ``baselines``: the
    values of sorting by relevance and of greedy choice (maximal marginal relevance: Carbonell and
    Goldstein, 1998).
    """

    pages: tuple[int, ...]
    value: float
    baselines: dict[str, float]


def choose_pages(
    relevance: ArrayLike,
    likeness: ArrayLike,
    count: int,
    *,
    redundancy: float = 1.0,
    seed: int = 0,
    deadline_s: float = DEADLINE_S,
) -> PageChoice:
    """The best ``count`` pages that QAOA's samples lead to.

    ``relevance`` (m,), ``likeness`` (m, m) symmetric, m <= 16. Samples of another count are brought
    to it by the best single additions or removals. Raises InputError naming the argument.
    """
    s, r = _checked(relevance, likeness, count)
    pairs = redundancy * np.triu(r, 1)

    def value(pages: tuple[int, ...]) -> float:
        chosen = list(pages)
        return float(s[chosen].sum() - pairs[np.ix_(chosen, chosen)].sum())

    ranked = tuple(sorted(np.argsort(-s, kind="stable")[:count].tolist()))
    greedy = _complete((), s, pairs, count)
    baselines = {"sort": value(ranked), "greedy": value(greedy)}
    best = max(
        (_complete(sample, s, pairs, count) for sample in _samples(s, pairs, count, seed,
                                                                   deadline_s)),
        key=value,
    )  # fmt: skip
    return PageChoice(best, value(best), baselines)


def brute_force(
    relevance: ArrayLike, likeness: ArrayLike, count: int, *, redundancy: float = 1.0
) -> float:
    """The largest value of any choice; for tests and benchmarks."""
    s, r = _checked(relevance, likeness, count)
    pairs = redundancy * np.triu(r, 1)
    return max(
        float(s[list(c)].sum() - pairs[np.ix_(c, c)].sum())
        for c in itertools.combinations(range(len(s)), count)
    )


def _checked(relevance: ArrayLike, likeness: ArrayLike, count: int) -> tuple[Floats, Floats]:
    s, r = np.asarray(relevance, np.float64), np.asarray(likeness, np.float64)
    if s.ndim != 1 or not 1 <= len(s) <= MAX_PAGES or not np.isfinite(s).all():
        raise InputError(f"wants 1 to {MAX_PAGES} finite numbers, got shape {s.shape}",
                         field="relevance")  # fmt: skip
    if r.shape != (len(s), len(s)) or not np.isfinite(r).all() or not np.allclose(r, r.T):
        raise InputError(f"wants a symmetric {len(s)} x {len(s)} matrix", field="likeness")
    if isinstance(count, bool) or not 1 <= count <= len(s):
        raise InputError(f"wants 1 to {len(s)}, got {count}", field="count")
    return s, r


def _samples(
    s: Floats, pairs: Floats, count: int, seed: int, deadline_s: float
) -> list[tuple[int, ...]]:
    m = len(s)
    # Samples are brought to the right count afterwards, so a soft penalty does: one that forbids
    # every other count makes a landscape that few layers cannot search.
    penalty = PENALTY * float(s.std() + np.abs(pairs).mean()) + 1e-9
    both = (pairs + pairs.T) / 2
    quadratic = both + penalty * (1 - np.eye(m))
    quadratic[np.diag_indices(m)] = -s + penalty * (1 - 2 * count)
    problem = IsingProblem.from_qubo(quadratic)
    simulator = QAOASimulator(problem)
    gammas, betas = ramp_angles(problem, LAYERS)
    gammas, betas, _ = optimise_angles(
        simulator, gammas, betas, deadline=Deadline.after(deadline_s), iterations=30
    )
    spins = np.unique(simulator.sample(gammas, betas, shots=SHOTS, seed=seed), axis=0)
    return [tuple(np.flatnonzero(row < 0).tolist()) for row in spins]


def _complete(start: tuple[int, ...], s: Floats, pairs: Floats, count: int) -> tuple[int, ...]:
    both = pairs + pairs.T
    chosen = list(start)
    while len(chosen) != count:
        gain = s - both[:, chosen].sum(1)
        if len(chosen) < count:
            gain[chosen] = -np.inf
            chosen.append(int(gain.argmax()))
        else:
            chosen.remove(min(chosen, key=lambda page: float(gain[page])))
    return tuple(sorted(chosen))


class QAOASparseAttention:
    """Attention over chosen pages of keys.

    Parameters
    ----------
    pages: how many pages the keys are cut into, at most 16; ``keep`` of them are attended to.
    redundancy: weight of likeness between pages against their relevance.
    seed: of the circuit's samples.

    Raises InputError naming the argument.
    """

    def __init__(
        self, pages: int = 16, keep: int = 4, *, redundancy: float = 0.2, seed: int = 0
    ) -> None:
        if isinstance(pages, bool) or not 1 <= pages <= MAX_PAGES:
            raise InputError(f"wants 1 to {MAX_PAGES}, got {pages}", field="pages")
        if isinstance(keep, bool) or not 1 <= keep <= pages:
            raise InputError(f"wants 1 to {pages}, got {keep}", field="keep")
        self.pages, self.keep, self.redundancy, self.seed = pages, keep, redundancy, seed

    def select(self, q: Any, k: Any) -> list[PageChoice]:
        """The choice for each head: q (heads, nq, d), k (heads, n, d), arrays or tensors."""
        queries, keys = (np.asarray(x, np.float64) for x in (q, k))
        found = []
        for ask, key in zip(queries, keys, strict=True):
            edges = self.edges(len(key))
            means = np.stack([key[a:b].mean(0) for a, b in itertools.pairwise(edges)])
            mass = ask @ means.T / np.sqrt(key.shape[1])
            mass = np.exp(mass - mass.max(1, keepdims=True))
            relevance = (mass / mass.sum(1, keepdims=True)).mean(0)
            lengths = np.maximum(np.linalg.norm(means, axis=1), 1e-30)
            likeness = np.clip((means / lengths[:, None]) @ (means / lengths[:, None]).T, 0, None)
            # In units of a page's fair share of the mass.
            choice = choose_pages(
                relevance * len(relevance), likeness, min(self.keep, len(relevance)),
                redundancy=self.redundancy, seed=self.seed,
            )  # fmt: skip
            found.append(choice)
        return found

    def mask(self, q: Any, k: Any) -> NDArray[np.bool_]:
        """(heads, 1, n) True for the keys of chosen pages."""
        n = np.shape(k)[1]
        edges = self.edges(n)
        found = np.zeros((np.shape(k)[0], 1, n), bool)
        for head, choice in enumerate(self.select(q, k)):
            for page in choice.pages:
                found[head, 0, edges[page] : edges[page + 1]] = True
        return found

    def edges(self, n: int) -> list[int]:
        """Where pages begin and end: as even as ``n`` keys allow."""
        pages = min(self.pages, n)
        return [n * i // pages for i in range(pages + 1)]
