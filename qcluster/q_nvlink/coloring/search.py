"""Colouring of communication groups: neighbours in the graph must not share a colour.

DSATUR gives a colouring at once, a clique a lower bound; tabu search then takes away one colour
after another until the clique proves that there is nothing left to take.
With ``qaoa`` the vertices that tabu search leaves in conflict are given to the simulated quantum
solver. Knows nothing of fabrics.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError, SolverFailed
from qcluster.fallback import CircuitBreaker, Stage, certified
from qcluster.plan import SolverRef
from qcluster.q_nvlink.coloring._kernels import conflicts
from qcluster.q_nvlink.coloring.problem import ColoringProblem
from qcluster.q_nvlink.coloring.tabu import run_dsatur, run_tabu
from qcluster.record import Record

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Coloring", "color_groups"]

_BREAKER = CircuitBreaker()


@dataclass(frozen=True, kw_only=True, eq=False)
class Coloring(Record):
    """A proper colouring.

    ``color`` maps every node to 0 .. num_colors - 1. ``lower_bound`` is proven, by the clique
    ``clique`` (nodes that are all neighbours) unless ``proof`` says otherwise; ``proven`` is true
    when it equals ``num_colors``.
    """

    color: dict[Any, int]
    num_colors: int
    lower_bound: int
    proven: bool
    clique: list[Any]
    proof: str
    solver: SolverRef
    baselines: dict[str, float] = field(default_factory=dict)
    quantum_gain: float | None = None
    wall_s: float = 0.0


def color_groups(
    graph: nx.Graph[Any], *, deadline_s: float = 10.0, seed: int = 0, qaoa: bool = False
) -> Coloring:
    """A colouring with as few colours as can be found in time.

    Parameters
    ----------
    graph: undirected; a directed one counts as undirected. Edge data are ignored.
    deadline_s: seconds; the search ends early when the bound is met.
    qaoa: let the simulated quantum solver work on the vertices in conflict.

    Raises
    ------
    InputError: a node has an edge to itself, or the argument is no graph.
    """
    if not hasattr(graph, "nodes") or not hasattr(graph, "edges"):
        raise InputError(f"wants a networkx graph, got {type(graph).__name__}", field="graph")
    deadline = Deadline.after(deadline_s)
    nodes = list(graph.nodes)
    problem = _problem(graph, nodes, deadline)
    stages: list[Stage[ColoringProblem, NDArray[np.int64]]] = [Stage("tabu", run_tabu)]
    if qaoa:
        from qcluster.q_nvlink.quantum import run_hybrid

        stages.insert(0, Stage("qaoa", run_hybrid, quantum=True))
    answer = certified(
        problem,
        stages=stages,
        fallback=Stage("dsatur", run_dsatur),
        baselines=[Stage("tabu", run_tabu)] if qaoa else [],
        bound=lambda p: float(len(p.clique)),
        verify=verify_coloring,
        deadline=deadline,
        seed=seed,
        breaker=_BREAKER,
    )
    count = int(answer.certificate.objective)
    lower = int(answer.certificate.lower_bound or 0)
    return Coloring(
        color=dict(zip(nodes, answer.value.tolist(), strict=True)),
        num_colors=count,
        lower_bound=lower,
        proven=lower == count,
        clique=[nodes[v] for v in problem.clique],
        proof="clique" if lower == len(problem.clique) else str(answer.notes.get("proof", "")),
        solver=answer.solver,
        baselines=answer.certificate.baselines,
        quantum_gain=answer.certificate.quantum_gain,
        wall_s=answer.wall_s,
    )


def _problem(graph: nx.Graph[Any], nodes: list[Hashable], deadline: Deadline) -> ColoringProblem:
    place = {node: i for i, node in enumerate(nodes)}
    pairs = []
    for a, b in graph.edges():
        if a == b:
            raise InputError(f"node '{a}' has an edge to itself: no colour fits", field="graph")
        pairs.append((place[a], place[b]))
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return ColoringProblem.of(len(nodes), edges, deadline=deadline.share(0.2))


def verify_coloring(problem: ColoringProblem, color: NDArray[np.int64]) -> None:
    """Raise SolverFailed when two neighbours share a colour or a vertex has none."""
    if len(color) != problem.n or (problem.n and color.min() < 0):
        raise SolverFailed("a vertex has no colour")
    if clashes := conflicts(problem.indptr, problem.indices, color):
        raise SolverFailed(f"{clashes} pairs of neighbours share a colour")
