"""Training the routing policy by evolution strategies on random fabrics and demands.

Mirrored samples around the weights, ranked by return, move the weights (Salimans et al., 2017).
An episode's return is the mean logarithm of its rewards; half of them lose a link on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink.rl.env import FlowEnv
from qcluster.q_nvlink.rl.paths import find_paths
from qcluster.q_nvlink.rl.policy import NAMES, RoutePolicy, episode

__all__ = ["fit_routes", "random_env"]

_START = (1.1, 0.0, 1.1, 4.1, 3.7, -8.1)
_LEARNING_RATE = 0.3
_SPREAD = 0.25


def random_env(rng: np.random.Generator, *, ticks: int = 50) -> FlowEnv:
    """Random demands on a random fabric, a mesh or hosts of GPUs behind switches.

    Every other one loses a link that it can spare on the way.
    """
    while True:
        capacity, ends = _mesh(rng) if rng.random() < 0.5 else _hosts(rng)
        demand = np.zeros_like(capacity)
        demand[:ends, :ends] = rng.lognormal(0.0, 1.0, (ends, ends))
        demand *= (rng.random(demand.shape) < rng.uniform(0.1, 1.0)) & ~np.eye(
            len(demand), dtype=bool
        )
        if not demand.any():
            continue
        paths = find_paths(capacity, demand, detour=4, most=int(rng.choice([16, 48, 96])))
        if rng.random() < 0.5:
            return FlowEnv(paths, ticks=ticks)
        lost = int(rng.integers(len(paths.links)))
        env = FlowEnv(paths, ticks=ticks, events={ticks // 2: [lost]})
        env.alive[lost] = False
        try:
            env.clean(paths.shortest())
        except Infeasible:
            continue  # the network would fall apart
        return env


def _mesh(rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """A ring with chords: capacities (n, n) and how many nodes exchange traffic, all of them."""
    n = int(rng.integers(6, 13))
    near = rng.random((n, n)) < rng.uniform(1.0, 2.5) / n
    ring = rng.permutation(n)
    near[ring, np.roll(ring, 1)] = True
    near |= near.T
    np.fill_diagonal(near, False)
    width = rng.choice([25.0, 50.0, 100.0], (n, n))
    return np.where(near, np.minimum(width, width.T), 0.0), n


def _hosts(rng: np.random.Generator) -> tuple[NDArray[np.float64], int]:
    """Pairs of GPUs behind switches in a tree, some with direct links: GPUs first."""
    groups, each = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    gpus = groups * each
    n = gpus + groups + 1
    capacity = np.zeros((n, n))
    for g in range(gpus):
        capacity[g, gpus + g // each] = 25.0
    for w in range(groups):
        capacity[gpus + w, n - 1] = float(rng.choice([12.0, 25.0, 50.0]))
    for _ in range(int(rng.integers(0, gpus + 1))):
        a, b = rng.integers(gpus, size=2)
        if a != b:
            capacity[a, b] = float(rng.choice([25.0, 50.0]))
    return np.maximum(capacity, capacity.T), gpus


def fit_routes(
    *,
    envs: Sequence[FlowEnv] | None = None,
    start: RoutePolicy | None = None,
    generations: int = 40,
    population: int = 16,
    batch: int = 8,
    seed: int = 0,
    report: Callable[[int, float], None] | None = None,
) -> RoutePolicy:
    """A policy for random fabrics, or for ``envs``: a cluster's own fabric with stored demands.

    Parameters
    ----------
    start: weights to go on from.
    generations, population, batch: updates, samples an update, episodes a sample.
    report: is told every generation's number and mean return.

    Raises InputError for a population that is no even number of at least 2.
    """
    if population < 2 or population % 2:
        raise InputError(f"wants an even number, got {population}", field="population")
    if generations < 1 or batch < 1:
        raise InputError("wants at least 1", field="generations" if generations < 1 else "batch")
    rng = np.random.default_rng(seed)
    weights = np.array(_START) if start is None else start.weights.copy()
    played = 0 if start is None else start.episodes
    for generation in range(generations):
        chosen = (
            [random_env(rng) for _ in range(batch)]
            if envs is None
            else [envs[int(i)] for i in rng.integers(len(envs), size=batch)]
        )
        noise = rng.normal(size=(population // 2, len(NAMES)))
        noise = np.concatenate([noise, -noise])
        returns = np.array([_return(weights + _SPREAD * row, chosen) for row in noise])
        rank = returns.argsort().argsort() / (population - 1) - 0.5
        weights = weights + _LEARNING_RATE * (rank @ noise) / population / _SPREAD
        played += population * batch
        if report is not None:
            report(generation, float(returns.mean()))
    return RoutePolicy(weights=weights, episodes=played)


def _return(weights: NDArray[np.float64], envs: Sequence[FlowEnv]) -> float:
    policy = RoutePolicy(weights=weights)
    rewards = [np.log(row["reward"]) for env in envs for row in episode(env, policy)]
    return float(np.mean(rewards))
