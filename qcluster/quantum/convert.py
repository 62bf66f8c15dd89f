"""Ising problems to and from what other libraries hold: QUBO, NetworkX graphs, dimod's BQM.

NetworkX and dimod are imported only when their functions are called. Variables keep the order of
the source; names other than 0..n-1 are lost, so callers that need them keep the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError, MissingDependency
from qcluster.quantum.problem import IsingProblem

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "from_bqm",
    "from_networkx",
    "from_qubo",
    "to_bqm",
    "to_networkx",
    "to_qubo",
]


def from_qubo(Q: ArrayLike | Mapping[tuple[int, int], float], offset: float = 0.0) -> IsingProblem:
    """The Ising form of minimise offset + sum_ij Q_ij x_i x_j over x in {0, 1}, x = (1 - z) / 2.

    Q is (n, n), every entry counted as it stands (a symmetric Q counts each pair twice), or
    {(i, j): value} with n one more than the largest index. Raises InputError as IsingProblem does.
    """
    if isinstance(Q, Mapping):
        pairs, values = list(Q), list(Q.values())
        n = 1 + max((max(pair) for pair in pairs), default=-1)
        linear, quadratic = _split(pairs, values)
    else:
        matrix = np.asarray(Q)
        n = len(matrix) if matrix.ndim == 2 else 0
        if matrix.ndim != 2 or matrix.shape != (n, n):
            raise InputError(f"wants a square matrix, got shape {matrix.shape}", field="Q")
        rows, columns = np.nonzero(matrix)
        pairs = list(zip(rows.tolist(), columns.tolist(), strict=True))
        linear, quadratic = _split(pairs, matrix[rows, columns].tolist())
    # A throw-away problem checks indices and finiteness and merges duplicates.
    field = np.zeros(n)
    checked = IsingProblem(field, quadratic)
    for i, value in linear.items():
        if not 0 <= i < n:
            raise InputError(f"no variable {i} of {n}", field="Q")
        field[i] = value
    return binary_to_spin(field, checked.edges, checked.weights, offset)


def binary_to_spin(
    linear: NDArray[np.float64],
    edges: NDArray[np.int64],
    weights: NDArray[np.float64],
    offset: float,
) -> IsingProblem:
    """The spin form of offset + linear . x + sum_e weights_e x_i x_j with x = (1 - z) / 2."""
    h = -np.asarray(linear, dtype=np.float64) / 2
    for end in edges.T:
        h -= np.bincount(end, weights=weights, minlength=len(h)) / 4 if len(h) else 0.0
    constant = offset + float(np.sum(linear)) / 2 + float(np.sum(weights)) / 4
    return IsingProblem(h, offset=constant, edges=edges, weights=weights / 4)


def to_qubo(problem: IsingProblem) -> tuple[dict[tuple[int, int], float], float]:
    """``({(i, j): value}, offset)`` with i <= j and x = (1 - z) / 2; linear terms on (i, i).

    Groups have no place in a QUBO and are refused with InputError: penalise them first.
    """
    if problem.groups:
        raise InputError("a QUBO cannot hold one-hot groups", field="groups")
    linear = -2 * problem.h
    for end in problem.edges.T:
        linear -= 2 * np.bincount(end, weights=problem.weights, minlength=problem.n)
    Q = {(i, i): float(v) for i, v in enumerate(linear)}
    for (i, j), value in zip(problem.edges.tolist(), problem.weights, strict=True):
        Q[i, j] = 4 * float(value)
    return Q, float(problem.offset + problem.h.sum() + problem.weights.sum())


def from_networkx(graph: nx.Graph[Any]) -> IsingProblem:
    """From a graph: J is the edge attribute ``weight`` (1 if absent), h the node attribute ``h``
    (0 if absent), ``graph.graph["offset"]`` and ``["groups"]`` if given.

    Nodes become variables in the graph's order; parallel edges and both directions add up.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    h = [data.get("h", 0.0) for _, data in graph.nodes(data=True)]
    edges = [(place[a], place[b]) for a, b in graph.edges()]
    weights = [data.get("weight", 1.0) for _, _, data in graph.edges(data=True)]
    return IsingProblem(
        h,
        offset=graph.graph.get("offset", 0.0),
        groups=[[place[v] for v in group] for group in graph.graph.get("groups", ())],
        edges=edges,
        weights=weights,
    )


def to_networkx(problem: IsingProblem) -> nx.Graph[int]:
    """A graph on 0..n-1 with ``weight``, ``h``, ``offset`` and ``groups`` as read back above."""
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph(
        offset=problem.offset, groups=[list(group) for group in problem.groups]
    )
    graph.add_nodes_from((i, {"h": float(value)}) for i, value in enumerate(problem.h))
    graph.add_weighted_edges_from(
        (int(i), int(j), float(w)) for (i, j), w in zip(problem.edges, problem.weights, strict=True)
    )
    return graph


def from_bqm(bqm: Any) -> IsingProblem:
    """From a ``dimod.BinaryQuadraticModel`` of either variable type, variables in its order."""
    spin = bqm.spin
    place = {variable: i for i, variable in enumerate(bqm.variables)}
    pairs = [(place[u], place[v]) for u, v in spin.quadratic]
    h = [float(spin.linear[v]) for v in bqm.variables]
    weights = [float(value) for value in spin.quadratic.values()]
    if bqm.vartype.name == "BINARY":
        # dimod has s = 2 x - 1, ours is z = 1 - 2 x: the spins differ in sign.
        h = [-value for value in h]
    return IsingProblem(h, offset=float(spin.offset), edges=pairs, weights=weights)


def to_bqm(problem: IsingProblem) -> Any:
    """A ``dimod.BinaryQuadraticModel`` over SPIN variables 0..n-1.

    Raises MissingDependency without dimod, InputError for one-hot groups.
    """
    try:
        import dimod
    except ImportError:
        raise MissingDependency("dimod", needed_for="BQM", extra="dwave") from None
    if problem.groups:
        raise InputError("a BQM cannot hold one-hot groups", field="groups")
    bqm = dimod.BinaryQuadraticModel("SPIN")
    # One by one: dimod's own constructor does not keep the order of the variables.
    bqm.add_linear_from((i, float(v)) for i, v in enumerate(problem.h))
    bqm.add_quadratic_from(
        (int(i), int(j), float(w)) for (i, j), w in zip(problem.edges, problem.weights, strict=True)
    )
    bqm.offset = float(problem.offset)
    return bqm


def _split(
    pairs: list[tuple[int, int]], values: list[Any]
) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
    linear: dict[int, float] = {}
    quadratic: dict[tuple[int, int], float] = {}
    for (i, j), value in zip(pairs, values, strict=True):
        if i == j:
            linear[i] = linear.get(i, 0.0) + value
        else:
            quadratic[i, j] = value
    return linear, quadratic
