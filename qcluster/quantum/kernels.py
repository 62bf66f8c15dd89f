"""Fidelity kernels: K(x, y) = |<phi(x)|phi(y)>|^2 for feature states of x and y.

Every state is computed once, so a Gram matrix of N points costs N circuits and one matrix product,
not N^2 circuits. Nothing here claims that such a kernel is better than a tuned Gaussian one.

Feature maps: ``iqp`` (Havlicek et al., 2019; the same circuit as PennyLane's IQPEmbedding: H on
all qubits, RZ(x_i), RZZ(x_i x_j) on all pairs, repeated) and ``angle`` (RX(x_i) on each qubit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError, MissingDependency
from qcluster.record import Record

__all__ = ["ENGINES", "FEATURE_MAPS", "GramMatrix", "feature_states", "gram_matrix"]

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]

MAX_BYTES = 2 * 2**30
CHUNK = 256
ENGINES = ("builtin", "pennylane")


@dataclass(frozen=True, kw_only=True, eq=False)
class GramMatrix(Record):
    """A kernel matrix (N, M) with what made it. ``smallest_eigenvalue`` is given for N = M points
    against themselves: rounding may leave it slightly below 0.
    """

    matrix: NDArray[np.float64]
    feature_map: str
    repeats: int
    qubits: int
    engine: str
    smallest_eigenvalue: float | None = None


def feature_states(points: ArrayLike, *, feature_map: str = "iqp", repeats: int = 1) -> Complex:
    """(N, 2^d) states of N points with d features, each feature on a qubit (feature 0 the least
    significant bit); features in radians.

    Raises InputError for points of wrong shape or not finite, an unknown map, or more than 2 GiB
    of states (with the byte count).
    """
    x = _points(points, "points")
    try:
        make = FEATURE_MAPS[feature_map]
    except KeyError:
        known = ", ".join(sorted(FEATURE_MAPS))
        raise InputError(f"'{feature_map}' is none of {known}", field="feature_map") from None
    if repeats < 1:
        raise InputError(f"wants at least 1, got {repeats}", field="repeats")
    count, d = x.shape
    needed = 16 * max(count, 1) * 2**d
    if needed > MAX_BYTES:
        raise InputError(f"{count} states of {d} qubits take {needed} bytes, at most {MAX_BYTES}",
                         field="points")  # fmt: skip
    return make(x, repeats)


def gram_matrix(
    points: ArrayLike,
    others: ArrayLike | None = None,
    *,
    feature_map: str = "iqp",
    repeats: int = 1,
    engine: str = "builtin",
) -> GramMatrix:
    """K (N, M) between ``points`` (N, d) and ``others`` (M, d), or the points themselves.

    ``engine="pennylane"`` makes the states with PennyLane's default.qubit instead; the matrix is
    the same to rounding. Raises InputError as ``feature_states`` does, MissingDependency without
    PennyLane.
    """
    if engine not in ENGINES:
        raise InputError(f"'{engine}' is none of {', '.join(ENGINES)}", field="engine")
    states = feature_states if engine == "builtin" else _pennylane_states
    left = states(points, feature_map=feature_map, repeats=repeats)
    right = left if others is None else states(others, feature_map=feature_map, repeats=repeats)
    if left.shape[1] != right.shape[1]:
        raise InputError("have another number of features than points", field="others")
    overlap = left.conj() @ right.T
    matrix = overlap.real**2 + overlap.imag**2
    smallest = None
    if others is None:
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, 1.0)
        smallest = float(np.linalg.eigvalsh(matrix)[0]) if len(matrix) else None
    return GramMatrix(
        matrix=matrix,
        feature_map=feature_map,
        repeats=repeats,
        qubits=left.shape[1].bit_length() - 1,
        engine=engine,
        smallest_eigenvalue=smallest,
    )


def _iqp(x: Floats, repeats: int) -> Complex:
    count, d = x.shape
    size = 2**d
    z = 1.0 - 2.0 * ((np.arange(size) >> np.arange(d)[:, None]) & 1)
    left, right = np.triu_indices(d, 1)
    table = np.concatenate([z, z[left] * z[right]]) / 2
    states = np.empty((count, size), dtype=np.complex128)
    for first in range(0, count, CHUNK):
        rows = x[first : first + CHUNK]
        angles = np.concatenate([rows, rows[:, left] * rows[:, right]], axis=1) @ table
        turn = np.exp(-1j * angles)
        psi = turn * size**-0.5
        for _ in range(repeats - 1):
            psi = _hadamard(psi) * turn
        states[first : first + CHUNK] = psi
    return states


def _hadamard(psi: Complex) -> Complex:
    """H on every qubit of each row."""
    count, size = psi.shape
    half = 1
    while half < size:
        block = psi.reshape(count, -1, 2, half)
        psi = np.stack([block[:, :, 0] + block[:, :, 1], block[:, :, 0] - block[:, :, 1]], axis=2)
        psi = psi.reshape(count, size)
        half *= 2
    return np.asarray(psi * size**-0.5)


def _angle(x: Floats, repeats: int) -> Complex:
    states = np.ones((len(x), 1), dtype=np.complex128)
    half = repeats * x / 2
    for feature in range(x.shape[1]):
        qubit = np.stack([np.cos(half[:, feature]), -1j * np.sin(half[:, feature])], axis=1)
        states = (qubit[:, :, None] * states[:, None, :]).reshape(len(x), -1)
    return states


FEATURE_MAPS: dict[str, Callable[[Floats, int], Complex]] = {"iqp": _iqp, "angle": _angle}


def _pennylane_states(points: ArrayLike, *, feature_map: str, repeats: int) -> Complex:
    try:
        import pennylane as qml
    except ImportError:
        raise MissingDependency("pennylane", needed_for="engine='pennylane'") from None
    x = _points(points, "points")
    feature_states(x[:1], feature_map=feature_map, repeats=repeats)  # refuses what cannot be
    d = x.shape[1]
    wires = list(range(d))

    @qml.qnode(qml.device("default.qubit", wires=d))
    def circuit(row: Floats) -> object:
        if feature_map == "iqp":
            qml.IQPEmbedding(row, wires=wires, n_repeats=repeats)
        else:
            for _ in range(repeats):
                qml.AngleEmbedding(row, wires=wires, rotation="X")
        return qml.state()

    states = np.array([np.asarray(circuit(row)) for row in x], dtype=np.complex128)
    # PennyLane's wire 0 is the most significant bit.
    order = tuple(range(d, 0, -1))
    return states.reshape((len(x), *(2,) * d)).transpose((0, *order)).reshape(len(x), -1)


def _points(points: ArrayLike, name: str) -> Floats:
    try:
        x = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants rows of numbers of equal length", field=name) from None
    if x.ndim != 2 or x.shape[1] < 1:
        raise InputError(f"wants shape (points, features), got {x.shape}", field=name)
    if not np.isfinite(x).all():
        raise InputError("holds a number that is not finite", field=name)
    return x
