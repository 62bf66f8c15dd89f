"""Proven lower bounds that cost more and prove more: a semidefinite one for dense problems of
hundreds of spins, an integer programme's for sparse ones of dozens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcluster.quantum.bounds import lower_bound
from qcluster.quantum.local import Arrays
from qcluster.quantum.problem import IsingProblem

__all__ = ["best_bound", "integer_bound", "semidefinite_bound"]

SEMIDEFINITE_SPINS = 300
INTEGER_SPINS, INTEGER_COUPLINGS = 80, 200

WORK = 2e8
"""Multiplications that the mixing method may take: a quarter of a second."""


def semidefinite_bound(problem: IsingProblem, *, work: float = WORK) -> float:
    """The dual of the semidefinite relaxation (Goemans and Williamson, 1995); groups play no part.

    With E = offset + z^T A z (fields couple to one more spin), every vector y proves
    E >= offset - sum y + N min(lambda, 0), lambda the smallest eigenvalue of A + diag(y). y comes
    from the mixing method; lambda from LAPACK, less what rounding can have added to it. Memory and
    time grow like n^2 and n^3: half a second at n = 1,000.
    """
    from scipy.linalg import eigh

    from qcluster.quantum._sdp_kernels import mix

    arrays = Arrays.of(_with_fields(problem))
    n = arrays.problem.n
    if not len(arrays.data):
        return problem.offset
    rank = int(np.ceil(np.sqrt(2 * n))) + 1
    vectors = np.random.default_rng(0).normal(size=(n, rank))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.zeros(n)
    half = arrays.data / 2
    total = float(np.abs(half).sum())
    for _ in range(max(5, min(2000, int(work / (len(half) * rank))))):
        if mix(arrays.indptr, arrays.indices, half, vectors, lengths) < 1e-9 * total:
            break
    matrix = arrays.problem.dense() / 2
    matrix[np.diag_indices(n)] = lengths
    size = float(np.abs(matrix).sum(axis=1).max())  # no eigenvalue is larger
    least = float(eigh(matrix, eigvals_only=True, subset_by_index=[0, 0])[0])
    least -= 10 * n * np.finfo(np.float64).eps * size
    slack = 1e-12 * (total + abs(problem.offset))
    return float(problem.offset - lengths.sum() + n * min(least, 0.0) - slack)


def integer_bound(problem: IsingProblem, *, seconds: float = 0.5) -> float:
    """The bound that HiGHS has after ``seconds`` on the linearised problem (Fortet, 1960): often
    the minimum itself up to 80 spins with few couplings each. Groups are constraints. Less one part
    in a million of the problem's scale, which HiGHS' tolerances may have added.

    -inf when HiGHS proves nothing in that time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    n, m = problem.n, len(problem.edges)
    if not n:
        return problem.offset
    # z = 1 - 2 x and y = x_i x_j: z_i z_j = 1 - 2 x_i - 2 x_j + 4 y.
    linear = -2 * problem.h
    for end in problem.edges.T:
        linear -= 2 * np.bincount(end, weights=problem.weights, minlength=n)
    found = milp(
        np.concatenate([linear, 4 * problem.weights]),
        constraints=[LinearConstraint(*_products(problem)), LinearConstraint(*_one_hot(problem))],
        integrality=np.concatenate([np.ones(n), np.zeros(m)]),
        bounds=Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    bound = getattr(found, "mip_dual_bound", None)
    if bound is None or not np.isfinite(bound):
        return -np.inf
    constant = problem.offset + float(problem.h.sum() + problem.weights.sum())
    return float(constant + bound - 1e-6 * max(problem.scale, abs(problem.offset)))


def best_bound(problem: IsingProblem) -> float:
    """The strongest proof to be had in about a second: cycles, then what the size allows."""
    bounds = [lower_bound(problem)]
    if problem.n <= SEMIDEFINITE_SPINS:
        bounds.append(semidefinite_bound(problem))
    if problem.n <= INTEGER_SPINS and len(problem.edges) <= INTEGER_COUPLINGS:
        bounds.append(integer_bound(problem))
    return max(bounds)


def _products(problem: IsingProblem) -> tuple[Any, Any, Any]:
    """Rows that tie y to x_i x_j from the side it is drawn to: y >= x_i + x_j - 1 under a positive
    coupling, y <= x_i and y <= x_j under a negative one.
    """
    import scipy.sparse as sp

    n, m = problem.n, len(problem.edges)
    x = [sp.csr_matrix((np.ones(m), (np.arange(m), end)), shape=(m, n)) for end in problem.edges.T]
    y, down = sp.identity(m, format="csr"), problem.weights > 0
    rows = sp.vstack(
        [sp.hstack([-x[0] - x[1], y])[down], *(sp.hstack([own, -y])[~down] for own in x)]
    )
    lower = np.concatenate([np.full(down.sum(), -1.0), np.zeros(2 * (~down).sum())])
    return rows.tocsr(), lower, np.full(len(lower), np.inf)


def _one_hot(problem: IsingProblem) -> tuple[Any, Any, Any]:
    """All members of a group but one have x = 1."""
    import scipy.sparse as sp

    groups, width = problem.groups, problem.n + len(problem.edges)
    places = [(g, i) for g, group in enumerate(groups) for i in group]
    rows = sp.csr_matrix(
        (np.ones(len(places)), tuple(np.array(places, dtype=int).reshape(-1, 2).T)),
        shape=(len(groups), width),
    )
    wanted = np.array([len(group) - 1.0 for group in groups])
    return rows, wanted, wanted


def _with_fields(problem: IsingProblem) -> IsingProblem:
    """Fields as couplings to one more spin."""
    if not problem.h.any():
        return IsingProblem(np.zeros(problem.n), edges=problem.edges, weights=problem.weights)
    held = np.flatnonzero(problem.h)
    fields = np.stack([held, np.full_like(held, problem.n)], axis=1)
    return IsingProblem(
        np.zeros(problem.n + 1),
        edges=np.concatenate([problem.edges, fields]),
        weights=np.concatenate([problem.weights, problem.h[held]]),
    )
