"""Block search: a few tokens and their candidate experts at a time, all other tokens held.

The large-neighbourhood search (Shaw 1998) that the samplers stand in: QAOA, its classical drop-in
and fair coins all see the same blocks and give measured bits. Valid samples are scored with the
whole objective and the best is taken over if it improves, so the answer is never worse than where
the search started. Knows nothing of circuits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_routing import _route_kernels as kernels
from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.tokens import RoutingProblem

__all__ = ["Block", "Sampler", "pick_block", "quadratic_form", "room", "search", "uniform_sampler"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """Tokens (t,) that are free, their candidate experts (t, k), and the choice around them."""

    tokens: Ints
    candidates: Ints
    choice: Ints

    @property
    def qubits(self) -> int:
        """One for each token and candidate."""
        return self.candidates.size

    def current(self) -> Ints:
        """(t,) the column of each token's present expert."""
        return np.asarray((self.candidates == self.choice[self.tokens, None]).argmax(axis=1))

    def decode(self, bits: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]]:
        """Columns (shots, t) of samples (shots, qubits), and which samples are one-hot."""
        grid = bits.reshape(len(bits), *self.candidates.shape)
        return np.asarray(grid.argmax(axis=2)), np.asarray((grid.sum(axis=2) == 1).all(axis=1))


Sampler = Callable[[RoutingProblem, Block, Deadline, int], tuple[NDArray[np.bool_], dict[str, Any]]]
"""Gives measured bits (shots, qubits), most frequent first, and a log."""


def search(
    problem: RoutingProblem,
    start: Ints,
    sampler: Sampler,
    config: RoutingConfig,
    *,
    deadline: Deadline,
    seed: int,
) -> tuple[Ints, dict[str, Any]]:
    """Large-neighbourhood search: sample block after block, take over what improves.

    Returns the assignment and a log: blocks, energies, angles and iterations of the last block.
    """
    rng = np.random.default_rng(seed)
    choice, cost = start.copy(), problem.cost(start)
    log: dict[str, Any] = {"blocks": 0, "energies": [cost], "iterations": 0}
    for number in range(config.blocks):
        if number and deadline.expired:
            break
        block = pick_block(problem, choice, config.qubits, rng)
        bits, details = sampler(problem, block, deadline, int(rng.integers(2**31)))
        found = _best_sample(problem, block, bits, config.readout)
        log["blocks"] += 1
        log["iterations"] += details.pop("iterations", 0)
        log.update(details)
        if found is not None and (reached := problem.cost(found)) < cost:
            choice, cost = found, reached
        log["energies"].append(cost)
        if len(block.tokens) == problem.shape[0] and block.candidates.shape[1] == problem.shape[1]:
            break  # the block was the whole problem
    return choice, log


def uniform_sampler(config: RoutingConfig) -> Sampler:
    """As many uniformly random choices as QAOA has shots, all of them one-hot: what the circuit
    has to beat.
    """

    def sample(
        problem: RoutingProblem, block: Block, deadline: Deadline, seed: int
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        del problem, deadline
        tokens, width = block.candidates.shape
        column = np.random.default_rng(seed).integers(width, size=(config.shots, tokens, 1))
        bits = np.zeros((config.shots, tokens, width), dtype=bool)
        np.put_along_axis(bits, column, True, axis=2)
        return bits.reshape(config.shots, -1), {"qubits": block.qubits}

    return sample


def quadratic_form(problem: RoutingProblem, block: Block) -> tuple[Floats, Floats, float]:
    """The objective over the block: linear (q,), pairs (q, q) symmetric with zero diagonal, and a
    constant, so that it is constant + sum linear x + sum over i < j of pairs x x for one-hot x.
    """
    tokens, experts = block.tokens, block.candidates
    t, k = experts.shape
    outside = np.ones(problem.shape[0], dtype=bool)
    outside[tokens] = False
    held = problem.complexity[outside]
    rest = np.bincount(block.choice[outside], weights=held, minlength=problem.shape[1])
    share = np.maximum(problem.share, 1e-12)
    weight = problem.complexity[tokens][:, None]
    linear = problem.linear[tokens[:, None], experts]
    linear = linear + problem.balance * weight * (2 * rest[experts] + weight) / share[experts]
    linear += problem.together * _pull_outside(problem, block, outside)
    token, expert = np.repeat(np.arange(t), k), experts.ravel()
    heavy = weight[token, 0]
    same = expert[:, None] == expert[None, :]
    pairs = np.where(same, 2 * problem.balance * np.outer(heavy, heavy) / share[expert], 0.0)
    tie = _ties(problem, tokens)
    pairs += problem.together * tie[np.ix_(token, token)] * problem.near[np.ix_(expert, expert)]
    pairs[token[:, None] == token[None, :]] = 0.0
    now = np.arange(t) * k + block.current()
    here = linear.ravel()[now].sum() + pairs[np.ix_(now, now)].sum() / 2
    return linear.ravel(), pairs, problem.cost(block.choice) - float(here)


def room(problem: RoutingProblem, block: Block) -> Ints:
    """(experts,) how many tokens of the block each expert can take."""
    used = np.bincount(block.choice, minlength=problem.shape[1])
    used -= np.bincount(block.choice[block.tokens], minlength=problem.shape[1])
    return np.asarray(problem.capacity - used)


def pick_block(
    problem: RoutingProblem, choice: Ints, qubits: int, rng: np.random.Generator
) -> Block:
    """The tokens that would gain most elsewhere (with some luck), and their best experts."""
    tokens, experts = problem.shape
    if tokens * experts <= qubits:
        return Block(np.arange(tokens), np.tile(np.arange(experts), (tokens, 1)), choice)
    width = min(experts, 4 if qubits >= 12 else 2)
    size = min(tokens, max(1, qubits // width))
    pool = rng.permutation(tokens)[: max(256, size)]
    load, used = np.zeros(experts), np.zeros(experts, dtype=np.int64)
    pull = np.zeros((max(len(problem.group_size), 1), experts))
    kernels.state(choice, problem.complexity, problem.near, problem.group, load, used, pull)
    costs = np.empty((len(pool), experts))
    for row, i in enumerate(pool):
        kernels.move_costs(i, choice, load, pull, costs[row], *problem.arrays)
    costs[np.arange(len(pool)), choice[pool]] = np.inf
    heat = -costs.min(axis=1)
    chosen = np.argsort(-(heat + rng.gumbel(size=len(pool)) * (heat.std() + 1e-12)))[:size]
    others = np.argsort(costs[chosen], axis=1, kind="stable")[:, : width - 1]
    candidates = np.column_stack([choice[pool[chosen]], others])
    return Block(pool[chosen], candidates, choice)


def _ties(problem: RoutingProblem, tokens: Ints) -> Floats:
    """(t, t) weight of distance between tokens of the block."""
    out = np.zeros((len(tokens), len(tokens)))
    place = {int(i): row for row, i in enumerate(tokens)}
    group = problem.group[tokens]
    for row, i in enumerate(tokens):
        if group[row] >= 0:
            out[row] += np.where(group == group[row], 2.0 / problem.group_size[group[row]], 0.0)
        for at in range(problem.start[i], problem.start[i + 1]):
            if int(problem.other[at]) in place:
                out[row, place[int(problem.other[at])]] += problem.value[at]
    np.fill_diagonal(out, 0.0)
    return out


def _pull_outside(problem: RoutingProblem, block: Block, outside: NDArray[np.bool_]) -> Floats:
    """(t, k) distance of each choice to the tokens that stay."""
    out = np.zeros(block.candidates.shape)
    for row, i in enumerate(block.tokens):
        g = problem.group[i]
        if g >= 0:
            mates = block.choice[outside & (problem.group == g)]
            apart = problem.near[block.candidates[row]][:, mates].sum(axis=1)
            out[row] += apart * 2.0 / problem.group_size[g]
        for at in range(problem.start[i], problem.start[i + 1]):
            j = problem.other[at]
            if outside[j]:
                out[row] += problem.value[at] * problem.near[block.candidates[row], block.choice[j]]
    return out


def _best_sample(
    problem: RoutingProblem, block: Block, bits: NDArray[np.bool_], readout: str
) -> Ints | None:
    """The best valid sample, or the most frequent valid one; None when there is none."""
    columns, valid = block.decode(bits)
    columns = np.unique(columns[valid], axis=0) if readout == "best" else columns[valid]
    best: Ints | None = None
    for row in columns:
        choice = block.choice.copy()
        choice[block.tokens] = block.candidates[np.arange(len(row)), row]
        used = np.bincount(choice, minlength=problem.shape[1])
        if (used > problem.capacity).any():
            continue
        if readout == "most_likely":
            return choice
        if best is None or problem.cost(choice) < problem.cost(best):
            best = choice
    return best
