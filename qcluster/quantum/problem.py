"""The Ising problem that every quantum path and every Ising solver takes.

Convention, fixed here once: minimise

    E(z) = offset + sum_i h_i z_i + sum_{i<j} J_ij z_i z_j,   z_i in {-1, +1}.

z = +1 is bit 0, and qubit 0 is the least significant bit of a basis state's index (as in Qiskit
and dimod; PennyLane's wire 0 is the most significant). A QUBO's x relates by x = (1 - z) / 2.
Couplings are stored as sorted edge lists, so problems with thousands of spins stay sparse.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.record import Record

if TYPE_CHECKING:
    import networkx as nx
    import scipy.sparse as sp

__all__ = ["IsingProblem"]


@dataclass(frozen=True, eq=False, init=False)
class IsingProblem(Record):
    """An Ising problem with optional one-hot groups.

    Parameters
    ----------
    h: (n,) fields, dimensionless.
    J: (n, n) couplings: symmetric counts each pair once, triangular (either) as it stands, any
        other matrix is refused; or a mapping {(i, j): value} in which (i, j) and (j, i) add up.
        A diagonal is a constant since z_i^2 = 1, and goes into the offset.
    offset: constant part of the energy.
    groups: lists of variables of which exactly one is +1 (one-hot). A variable may be in at most
        one group. The groups are constraints: ``energy`` does not penalise their violation.

    Raises
    ------
    InputError: a value is NaN or infinite, a shape or index is wrong, J is neither symmetric nor
        triangular, or groups overlap.
    """

    h: NDArray[np.float64]
    edges: NDArray[np.int64]
    """(m, 2) pairs i < j in lexicographic order, each once, zero couplings dropped."""
    weights: NDArray[np.float64]
    """(m,) the couplings of ``edges``."""
    offset: float
    groups: tuple[tuple[int, ...], ...]

    def __init__(
        self,
        h: ArrayLike,
        J: ArrayLike | Mapping[tuple[int, int], float] | None = None,
        offset: float = 0.0,
        groups: Sequence[Sequence[int]] | None = None,
        *,
        edges: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        fields = _finite(h, "h")
        if fields.ndim != 1:
            raise InputError(f"wants one dimension, got shape {fields.shape}", field="h")
        n = len(fields)
        if edges is not None:
            pairs = _indices(edges)
            values = _finite([] if weights is None else weights, "weights")
            if len(values) != len(pairs):
                raise InputError(f"wants {len(pairs)} values, got {len(values)}", field="weights")
        else:
            pairs, values = _couplings(J, n)
        constant = _finite(offset, "offset")
        if constant.ndim:
            raise InputError(f"wants one number, got shape {constant.shape}", field="offset")
        pairs, values, loops = _normalise(pairs, values, n)
        object.__setattr__(self, "h", fields)
        object.__setattr__(self, "edges", pairs)
        object.__setattr__(self, "weights", values)
        object.__setattr__(self, "offset", float(constant) + loops)
        object.__setattr__(self, "groups", _groups(groups, n))

    @property
    def n(self) -> int:
        """Number of spins."""
        return len(self.h)

    @property
    def scale(self) -> float:
        """sum |h| + sum |J|: no energy is further than this from the offset."""
        return float(np.abs(self.h).sum() + np.abs(self.weights).sum())

    def energy(self, z: ArrayLike) -> Any:
        """E(z) for spins (n,), as a float, or for a batch (..., n), as an array (...)."""
        spins = np.asarray(z, dtype=np.float64)
        if spins.shape[-1:] != (self.n,):
            raise InputError(f"wants {self.n} spins, got shape {spins.shape}", field="z")
        left, right = self.edges.T
        pairs = spins[..., left] * spins[..., right]
        value = self.offset + spins @ self.h + pairs @ self.weights
        return float(value) if np.ndim(value) == 0 else value

    def feasible(self, z: ArrayLike) -> bool:
        """Whether every one-hot group has exactly one +1."""
        spins = np.asarray(z)
        return all(np.count_nonzero(spins[list(group)] > 0) == 1 for group in self.groups)

    @functools.cached_property
    def matrix(self) -> sp.csr_matrix:
        """Symmetric sparse J, (n, n): ``matrix @ z + h`` are the local fields."""
        import scipy.sparse as sp

        left, right = self.edges.T
        upper = sp.coo_matrix((self.weights, (left, right)), shape=(self.n, self.n))
        return (upper + upper.T).tocsr()

    def dense(self) -> NDArray[np.float64]:
        """Symmetric J as an (n, n) array."""
        return np.asarray(self.matrix.todense(), dtype=np.float64)

    def fix(self, free: Sequence[int], z: ArrayLike) -> IsingProblem:
        """The sub-problem over the variables ``free`` with all others held at ``z``.

        Variable k of the result is ``free[k]``; its energy equals the whole problem's energy.
        Groups that lie wholly in ``free`` are kept; a group that is cut raises InputError.
        """
        spins = np.asarray(z, dtype=np.float64)
        free_index = np.asarray(free, dtype=np.int64)
        place = np.full(self.n, -1, dtype=np.int64)
        place[free_index] = np.arange(len(free_index))
        left, right = self.edges.T
        inside = (place[left] >= 0) & (place[right] >= 0)
        held = np.where(place >= 0, 0.0, spins)
        fields = (self.h + self.matrix @ held)[free_index]
        outside = (place[left] < 0) & (place[right] < 0)
        constant = self.offset + self.h @ held
        constant += (self.weights * held[left] * held[right])[outside].sum()
        return IsingProblem(
            fields,
            offset=float(constant),
            groups=[[int(place[i]) for i in g] for g in self._whole_groups(place)],
            edges=place[self.edges[inside]],
            weights=self.weights[inside],
        )

    def _whole_groups(self, place: NDArray[np.int64]) -> list[tuple[int, ...]]:
        kept = []
        for group in self.groups:
            inside = sum(bool(place[i] >= 0) for i in group)
            if inside == len(group):
                kept.append(group)
            elif inside:
                raise InputError(f"cuts the one-hot group {list(group)}", field="free")
        return kept

    @classmethod
    def read(cls, path: str | Path) -> IsingProblem:
        """The problem in a file: JSON ``{h, J: [[i, j, v]], offset, groups}``, COO text, G-set or
        DIMACS (both MaxCut). Raises FormatError naming file, row and field.
        """
        from qcluster.quantum.formats import read_problems

        problems = read_problems(path)
        if len(problems) != 1:
            raise InputError(f"holds {len(problems)} problems, wants one", file=path)
        return problems[0]

    @classmethod
    def from_qubo(
        cls,
        Q: ArrayLike | Mapping[tuple[int, int], float],
        offset: float = 0.0,
    ) -> IsingProblem:
        """From minimise offset + sum_ij Q_ij x_i x_j over x in {0, 1}, with x = (1 - z) / 2.

        Q is (n, n), every entry counted as it stands, or {(i, j): value}.
        """
        from qcluster.quantum.formats import from_qubo

        return from_qubo(Q, offset)

    @classmethod
    def from_networkx(cls, graph: nx.Graph[Any]) -> IsingProblem:
        """From a graph: J is the edge attribute ``weight`` (1 if absent), h the node's ``h``."""
        from qcluster.quantum.formats import from_networkx

        return from_networkx(graph)

    @classmethod
    def from_bqm(cls, bqm: Any) -> IsingProblem:
        """From a ``dimod.BinaryQuadraticModel`` of either variable type, variables in its order."""
        from qcluster.quantum.formats import from_bqm

        return from_bqm(bqm)


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        given = np.asarray(values)
        if given.size and given.dtype.kind not in "iuf":  # bool, text and objects convert quietly
            given = _numbers(values, name)
        array = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError("wants numbers in the range of float64", field=name) from None
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        raise InputError(f"{array[tuple(bad[0])]} at [{where}] is not finite", field=name)
    return array


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    flat = np.array(values, dtype=object)
    for value in flat.ravel():
        if isinstance(value, (bool, str, bytes, np.bool_)) or not hasattr(value, "__float__"):
            raise InputError(f"wants numbers, got {value!r}", field=name)
    return flat.astype(np.float64)


def _indices(pairs: Any) -> NDArray[np.int64]:
    """Pairs of variables (m, 2) as int64; refuses everything that is not a whole number."""
    try:
        array = np.asarray(pairs)
    except ValueError:
        raise InputError("wants pairs of variables", field="J") from None
    if array.size == 0:
        return np.empty((0, 2), dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 2 or array.shape[1] != 2:
        raise InputError("wants pairs of variables that are whole numbers", field="J")
    return array.astype(np.int64)


def _couplings(
    J: ArrayLike | Mapping[tuple[int, int], float] | None,
    n: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if J is None:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    if isinstance(J, Mapping):
        return _indices(list(J)), _finite(list(J.values()), "J")
    matrix = _finite(J, "J")
    if n == 0 and matrix.size == 0:
        matrix = matrix.reshape(0, 0)
    if matrix.shape != (n, n):
        raise InputError(f"wants shape ({n}, {n}), got {matrix.shape}", field="J")
    lower, upper = np.tril(matrix, -1), np.triu(matrix, 1)
    if lower.any() and upper.any() and not np.allclose(lower.T, upper, rtol=1e-12, atol=0):
        raise InputError("is neither symmetric nor triangular", field="J")
    once = np.triu(matrix) if upper.any() else np.tril(matrix)
    return np.argwhere(once), once[once != 0]


def _normalise(
    pairs: NDArray[np.int64], values: NDArray[np.float64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Sorted unique pairs i < j with summed values, and the sum over self-loops."""
    outside = (pairs < 0) | (pairs >= n)
    if outside.any():
        pair = pairs[outside.any(axis=1)][0].tolist()
        raise InputError(f"couples {pair}, but there are {n} variables", field="J")
    loop = pairs[:, 0] == pairs[:, 1]
    constant = float(values[loop].sum())
    pairs, values = np.sort(pairs[~loop], axis=1), values[~loop]
    keys, inverse = np.unique(pairs[:, 0] * max(n, 1) + pairs[:, 1], return_inverse=True)
    summed = np.bincount(inverse, weights=values, minlength=len(keys))
    kept = summed != 0
    return np.stack(np.divmod(keys[kept], max(n, 1)), axis=1), summed[kept], constant


def _variable(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise InputError(f"wants whole numbers, got {value!r}", field=name)
    return int(value)


def _groups(groups: Sequence[Sequence[int]] | None, n: int) -> tuple[tuple[int, ...], ...]:
    result = tuple(
        tuple(_variable(i, f"groups[{position}]") for i in group)
        for position, group in enumerate(groups or ())
    )
    seen: set[int] = set()
    for position, group in enumerate(result):
        if not group:
            raise InputError(
                "is empty, so no variable of it can be +1", field=f"groups[{position}]"
            )
        for i in group:
            if not 0 <= i < n:
                raise InputError(f"no variable {i} of {n}", field=f"groups[{position}]")
            if i in seen:
                raise InputError(f"variable {i} stands twice", field=f"groups[{position}]")
            seen.add(i)
    return result
