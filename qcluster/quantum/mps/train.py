"""Tensor trains, also called matrix-product states: TT-SVD, rounding, norms (Oseledets, 2011).

A tensor T[m_1, ..., m_L] is a product of cores G_1[m_1] ... G_L[m_L], each a (r, modes, r') array
with r = r' = 1 at the ends. Truncating singular values moves T by at most the Frobenius norm
sqrt(sum of all discarded sigma^2), which is the bound that these functions report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["TensorTrain", "round_train", "tt_svd"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TensorTrain:
    """Cores (r, modes, r') of float64, and the bound on the Frobenius norm of T - its source."""

    cores: tuple[Floats, ...]
    error_bound: float = 0.0

    @property
    def ranks(self) -> tuple[int, ...]:
        """Bond dimensions between the cores, (L - 1,)."""
        return tuple(core.shape[2] for core in self.cores[:-1])

    @property
    def bytes(self) -> int:
        """Memory of the cores."""
        return sum(core.nbytes for core in self.cores)

    def full(self) -> Floats:
        """The whole tensor (modes_1, ..., modes_L); for tests and small cases."""
        return run_of(self.cores).reshape([core.shape[1] for core in self.cores])

    def norm(self) -> float:
        """Frobenius norm, by orthogonalising: no squares that lose digits."""
        carry = np.ones((1, 1))
        for core in self.cores:
            merged = np.tensordot(carry, core, axes=(1, 0))
            _, carry = np.linalg.qr(merged.reshape(-1, core.shape[2]))
        return float(np.linalg.norm(carry))


def run_of(cores: Sequence[Floats]) -> Floats:
    """Neighbouring cores multiplied out: (r, product of modes, r')."""
    left = cores[0].shape[0]
    merged = np.eye(left).reshape(left, 1, left)
    for core in cores:
        merged = np.tensordot(merged, core, axes=(2, 0)).reshape(left, -1, core.shape[2])
    return merged


def tt_svd(
    tensor: ArrayLike, *, max_rank: int | None = None, tolerance: float = 0.0
) -> TensorTrain:
    """A train for ``tensor`` (modes_1, ..., modes_L) with ranks of at most ``max_rank``.

    ``tolerance`` is absolute, in the Frobenius norm; ``max_rank`` takes precedence, and
    ``error_bound`` says what came of it. Raises InputError for values that are not finite, an
    empty tensor, a rank below 1, or a negative tolerance.
    """
    array = np.asarray(tensor, dtype=np.float64)
    check_limits(max_rank, tolerance)
    if array.ndim == 0 or array.size == 0:
        raise InputError(f"wants at least one value in one mode, got {array.shape}", field="tensor")
    if not np.isfinite(array).all():
        raise InputError("holds a value that is not finite", field="tensor")
    cores: list[Floats] = []
    modes = array.shape
    allowed = tolerance / math.sqrt(max(len(modes) - 1, 1))
    rest, rank, lost, slips = array.reshape(1, -1), 1, 0.0, rounding(*array.shape)
    for mode in modes[:-1]:
        u, s, vt = np.linalg.svd(rest.reshape(rank * mode, -1), full_matrices=False)
        slips += rounding(len(u), vt.shape[1])
        kept, discarded = cut(s, allowed, max_rank)
        lost += discarded
        cores.append(np.ascontiguousarray(u[:, :kept]).reshape(rank, mode, kept))
        rest, rank = s[:kept, None] * vt[:kept], kept
    cores.append(rest.reshape(rank, modes[-1], 1).copy())
    # Rounding of the decomposition itself, so that "no error" is not claimed of a float.
    return TensorTrain(tuple(cores), math.sqrt(lost) + slips * float(np.linalg.norm(array)))


def round_train(
    train: TensorTrain, *, max_rank: int | None = None, tolerance: float = 0.0
) -> TensorTrain:
    """The same train with smaller ranks, ``tolerance`` (absolute, Frobenius) further off."""
    check_limits(max_rank, tolerance)
    cores = list(train.cores)
    before, slips = _norms_before(cores), 0.0
    for k in range(len(cores) - 1, 0, -1):
        left, mode, right = cores[k].shape
        slips += before[k] * float(np.linalg.norm(cores[k])) * rounding(left, mode * right)
        q, r = np.linalg.qr(cores[k].reshape(left, mode * right).T)
        cores[k] = q.T.reshape(-1, mode, right)
        cores[k - 1] = np.tensordot(cores[k - 1], r.T, axes=(2, 0))
    norm = float(np.linalg.norm(cores[0]))
    allowed, lost = tolerance / math.sqrt(max(len(cores) - 1, 1)), 0.0
    for k in range(len(cores) - 1):
        left, mode, _ = cores[k].shape
        u, s, vt = np.linalg.svd(cores[k].reshape(left * mode, -1), full_matrices=False)
        slips += norm * rounding(len(u), vt.shape[1])
        kept, discarded = cut(s, allowed, max_rank)
        lost += discarded
        cores[k] = u[:, :kept].reshape(left, mode, kept)
        cores[k + 1] = np.tensordot(s[:kept, None] * vt[:kept], cores[k + 1], axes=(1, 0))
    slips += norm * rounding(*cores[-1].shape[:2])
    return TensorTrain(tuple(cores), train.error_bound + math.sqrt(lost) + slips)


def rounding(*shape: int) -> float:
    """Relative error, in the Frobenius norm, of factorising a matrix of that shape and multiplying
    its factors, with room: backward errors grow as the root of the size (Higham 2002, chapter 19).
    """
    return 8.0 * float(np.finfo(np.float64).eps) * math.sqrt(sum(shape))


def _norms_before(cores: Sequence[Floats]) -> list[float]:
    """Frobenius norm of what stands before each core, multiplied out."""
    out, carry = [], np.ones((1, 1))
    for core in cores:
        out.append(float(np.linalg.norm(carry)))
        merged = np.tensordot(carry, core, axes=(1, 0))
        _, carry = np.linalg.qr(merged.reshape(-1, core.shape[2]))
    return out


def cut(sigma: Floats, allowed: float, max_rank: int | None) -> tuple[int, float]:
    """How many singular values to keep, at least one, and the sum of squares discarded."""
    tails = np.append(np.cumsum(sigma[::-1] ** 2)[::-1], 0.0)
    kept = max(1, int(np.argmax(tails <= allowed**2)))
    if max_rank is not None:
        kept = min(kept, max_rank)
    return kept, float(tails[kept])


def check_limits(max_rank: int | None, tolerance: float) -> None:
    """Raise InputError for a rank below 1 or a tolerance that is negative or not finite."""
    if max_rank is not None and (isinstance(max_rank, bool) or max_rank < 1):
        raise InputError(f"wants at least 1, got {max_rank}", field="max_rank")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise InputError(f"wants a number of at least 0, got {tolerance}", field="tolerance")
