"""TT-cross: a train for a matrix that is only known as a function of (row, column).

Two neighbouring modes at a time (Savostyanov & Oseledets, 2011): the matrix is evaluated on a
cross of the pivots to the left and right, the block is cut by singular values, and new pivots come
from a pivoted QR decomposition. Nothing about entries that were never looked at is known from the
cross itself; the bound comes from ``operators.certify`` afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum.mps.train import TensorTrain, check_limits, cut

__all__ = ["Entries", "tt_cross"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Entries = Callable[[Indices, Indices], Floats]
"""Values of a matrix at rows and columns (int64 arrays of one shape)."""

# A bit of the row and a bit of the column make one mode of four.
ROW_BIT = np.array([0, 0, 1, 1], dtype=np.int64)
COLUMN_BIT = np.array([0, 1, 0, 1], dtype=np.int64)


def tt_cross(
    entries: Entries, bits: int, *, max_rank: int, tolerance: float, sweeps: int = 4, seed: int = 0
) -> TensorTrain:
    """A train of ``bits`` cores (r, 4, r') for the 2^bits x 2^bits matrix ``entries``.

    Core k holds bit k, most significant first, of row and column: mode 2 * row bit + column bit.
    ``tolerance`` is relative, a target at each bond and no bound: ``error_bound`` is infinite until
    the train is certified. Evaluates about sweeps * bits * (4 max_rank)^2 entries.
    """
    check_limits(max_rank, tolerance)
    if bits == 1:
        return TensorTrain((entries(ROW_BIT, COLUMN_BIT).reshape(1, 4, 1),), np.inf)
    generator = np.random.default_rng(seed)
    rights = [_near_diagonal(bits, bits - k, generator) for k in range(bits + 1)]
    lefts = [(np.zeros(1, np.int64), np.zeros(1, np.int64))] * (bits + 1)
    cores: list[Floats] = []
    for _ in range(sweeps):
        cores = []
        for k in range(bits - 1):
            block = _block(entries, bits, k, lefts[k], rights[k + 2])
            rows = len(lefts[k][0]) * 4
            core, pivots = _interpolate(block.reshape(rows, -1), max_rank, tolerance)
            cores.append(core.reshape(-1, 4, core.shape[1]))
            lefts[k + 1] = _longer(lefts[k], pivots)
        last = _grid(lefts[bits - 1], (ROW_BIT, COLUMN_BIT), 1)
        cores.append(entries(*last).reshape(-1, 4, 1))
        for k in range(bits - 2, -1, -1):
            block = _block(entries, bits, k, lefts[k], rights[k + 2])
            rows = len(lefts[k][0]) * 4
            _, pivots = _interpolate(block.reshape(rows, -1).T, max_rank, tolerance)
            rights[k + 1] = _further(rights[k + 2], pivots, bits - k - 2)
    return TensorTrain(tuple(cores), np.inf)


def _block(
    entries: Entries,
    bits: int,
    k: int,
    left: tuple[Indices, Indices],
    right: tuple[Indices, Indices],
) -> Floats:
    """Values at (left pivots x mode k) by (mode k+1 x right pivots)."""
    rows = _grid(left, (ROW_BIT, COLUMN_BIT), 1)
    columns = _grid((ROW_BIT, COLUMN_BIT), right, bits - k - 2)
    return entries(*_grid(rows, columns, bits - k - 1)).reshape(len(rows[0]), len(columns[0]))


def _grid(
    high: tuple[Indices, Indices], low: tuple[Indices, Indices], width: int
) -> tuple[Indices, Indices]:
    """All pairs of a high part and a low part of ``width`` bits, the low part running fastest."""
    i, j = (((h[:, None] << width) | w[None, :]).ravel() for h, w in zip(high, low, strict=True))
    return i, j


def _longer(left: tuple[Indices, Indices], pivots: Indices) -> tuple[Indices, Indices]:
    i, j = _grid(left, (ROW_BIT, COLUMN_BIT), 1)
    return i[pivots], j[pivots]


def _further(
    right: tuple[Indices, Indices], pivots: Indices, width: int
) -> tuple[Indices, Indices]:
    i, j = _grid((ROW_BIT, COLUMN_BIT), right, width)
    return i[pivots], j[pivots]


def _interpolate(block: Floats, max_rank: int, tolerance: float) -> tuple[Floats, Indices]:
    """Pivot rows of ``block`` and the factor that gives all rows from them."""
    from scipy.linalg import qr

    u, s, _ = np.linalg.svd(block, full_matrices=False)
    kept, _ = cut(s, tolerance * float(np.linalg.norm(s)), max_rank)
    basis = u[:, :kept]
    _, order = qr(basis.T, mode="r", pivoting=True)
    pivots = np.asarray(order[:kept], dtype=np.int64)
    return np.linalg.solve(basis[pivots].T, basis.T).T, pivots


def _near_diagonal(
    bits: int, width: int, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """The low ``width`` bits of places at, near and across the diagonal, and of a few anywhere.

    Attention that is local vanishes elsewhere: pivots drawn from the whole matrix would see zeros.
    """
    n, count = 2**bits, 4
    i = generator.integers(0, n, size=6 * count)
    step = np.concatenate([
        np.zeros(count, np.int64), np.ones(count, np.int64), np.full(count, -1, np.int64),
        generator.integers(-8, 9, size=2 * count), generator.integers(-n, n, size=count),
    ])  # fmt: skip
    ends = np.array([0, n - 1], dtype=np.int64)
    rows = np.concatenate([i, ends])
    columns = np.concatenate([(i + step) % n, ends])
    mask = (1 << width) - 1
    pairs = np.unique(np.stack([rows & mask, columns & mask]), axis=1)
    return pairs[0].astype(np.int64), pairs[1].astype(np.int64)
