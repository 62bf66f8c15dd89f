"""Proven lower bounds on the energy of an Ising problem.

Every coupling, and every field seen as a coupling to one more spin that is fixed at +1, can give at
best -|J|. Around a cycle whose signs cannot all be met (a frustrated cycle) at least one coupling
gives +|J| instead, so 2 min |J| is lost for each such cycle in a packing that uses no coupling
beyond its magnitude (the dual of the cycle relaxation of Barahona and Mahjoub, 1986). Any packing
is a proof; the one here is greedy, shortest cycles first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.problem import IsingProblem

__all__ = ["cycle_bound", "lower_bound", "magnitude_bound"]

STEPS = 20_000_000
LENGTHS = (3, 4, 5, 7, 9, 12, 16, 24)


def magnitude_bound(problem: IsingProblem) -> float:
    """offset - sum |J| - sum_i |h_i|, with the fields of a one-hot group at their exact minimum.

    Exactly one member of a group is +1, so its fields give min_l (2 h_l - sum h) and no less;
    couplings count by their magnitude.
    """
    free = np.ones(problem.n, dtype=bool)
    value = problem.offset - float(np.abs(problem.weights).sum())
    for group in problem.groups:
        fields = problem.h[list(group)]
        value += float(2 * fields.min() - fields.sum())
        free[list(group)] = False
    return value - float(np.abs(problem.h[free]).sum())


def cycle_bound(problem: IsingProblem, *, steps: int = STEPS) -> float:
    """offset - sum |J| - sum |h| + 2 sum of a packing of frustrated cycles; groups play no part.

    ``steps`` limits the search for cycles, about 5 ns each.
    """
    from qcluster.quantum._cycle_kernels import pack_cycles

    edges, weights = _with_fields(problem)
    value = problem.offset - float(np.abs(weights).sum())
    if len(edges) < 3:
        return value
    indptr, indices, number = _csr(edges, int(edges.max()) + 1)
    room = np.abs(weights)
    # Rounding must not make the proof stronger than it is.
    tiny, packed = 1e-12 * float(room.max()), 0.0
    for length in LENGTHS:
        more, steps = pack_cycles(
            indptr, indices, number, (weights > 0)[number], room, tiny, length, steps
        )
        packed += more
        if steps <= 0:
            break
    return value + 2 * packed * (1 - 1e-12)


def lower_bound(problem: IsingProblem) -> float:
    """The better of the bounds here; for MaxCut this is (after the cut's affine map) an upper bound
    of the cut.
    """
    return max(magnitude_bound(problem), cycle_bound(problem))


def _with_fields(problem: IsingProblem) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    held = np.flatnonzero(problem.h)
    fields = np.stack([held, np.full_like(held, problem.n)], axis=1)
    edges = np.concatenate([problem.edges, fields.astype(np.int64)])
    return edges, np.concatenate([problem.weights, problem.h[held]])


def _csr(
    edges: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    order = np.argsort(rows, kind="stable")
    indptr = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=indptr[1:])
    number = np.tile(np.arange(len(edges)), 2)[order]
    return indptr, np.ascontiguousarray(columns[order]), number
