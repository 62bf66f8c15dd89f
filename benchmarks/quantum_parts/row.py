"""What a row of the ledger is, and rows for whatever goes through ``qcluster.quantum.solve``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """A quantum path: its name, the module that holds it, an instance, and how to run it.

    ``run(seed)`` returns anything with ``baselines``, ``quantum_gain``, ``reasons``, ``wall_s`` and
    an objective under the name ``objective``.
    """

    name: str
    module: str
    instance: str
    run: Callable[[int], Any]
    objective: str = "objective"


def ising(kind: str, n: int, seed: int, groups: int = 0) -> Any:
    """A random problem: ``dense`` couplings, or ``sparse`` ones, with one-hot groups of four; or
    MaxCut on a ``cubic`` graph.
    """
    from qcluster.quantum import IsingProblem

    if kind == "cubic":
        import networkx as nx

        return IsingProblem.from_networkx(nx.random_regular_graph(3, n, seed=seed))
    generator = np.random.default_rng(seed)
    members = [[4 * g + k for k in range(4)] for g in range(groups)]
    if kind == "dense":
        couplings = np.triu(generator.normal(size=(n, n)), 1) / np.sqrt(n)
        return IsingProblem(generator.normal(size=n) / 2, couplings, groups=members)
    edges = generator.integers(0, n, size=(2 * n, 2))
    return IsingProblem(
        np.zeros(n), edges=edges, weights=generator.normal(size=2 * n), groups=members
    )


def solver(name: str, kind: str, n: int, groups: int = 0, deadline_s: float = 1.0) -> Row:
    """A path through ``qcluster.quantum.solve``."""

    def run(seed: int) -> Any:
        from qcluster.quantum import solve

        problem = ising(kind, n, seed, groups)
        return solve(problem, solver=name, deadline_s=deadline_s, seed=seed)

    instance = f"{kind} Ising, n = {n}" + (f", {groups} one-hot groups" if groups else "")
    return Row(name, "qcluster.quantum", instance, run)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of the fastest of three calls."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)
