"""Matrices held as dense, low-rank or QTT (matrix-product) operators, chosen by their bounds.

QTT (Khoromskij, 2011): row and column are written in bits, bit k of both makes mode k of a train.
Structured matrices (local, smooth, self-similar) then have small ranks; random ones do not, and
``encode`` returns them low-rank or dense. Bounds are on the Frobenius norm of matrix minus form,
hence also on the 2-norm of the error of a product with a unit vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError, SolverFailed
from qcluster.quantum.mps.cross import Entries, tt_cross
from qcluster.quantum.mps.train import (
    TensorTrain,
    check_limits,
    cut,
    round_train,
    rounding,
    run_of,
    tt_svd,
)

__all__ = ["FORMS", "Operator", "certify", "encode", "encode_entries"]

FORMS = ("dense", "low_rank", "qtt")
LEAF_BITS = 8
MAX_CERTIFIED = 2**26
"""Entries that a certificate without a band may look at."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Operator:
    """A matrix (rows, columns) in one of ``FORMS``.

    ``factors``: the matrix itself; or u (rows, r) and v (r, columns); or QTT cores (r, 4, r').
    ``error_bound``: Frobenius norm of the error, absolute; ``norm``: of the matrix, at least.
    """

    form: str
    shape: tuple[int, int]
    factors: tuple[Floats, ...]
    error_bound: float
    norm: float

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(factor.nbytes for factor in self.factors)

    @property
    def relative_bound(self) -> float:
        """``error_bound`` over the matrix's norm."""
        return self.error_bound / self.norm if self.norm > 0 else self.error_bound

    def apply(self, values: ArrayLike) -> Floats:
        """The product with ``values`` (columns,) or (columns, d).

        Raises InputError for values of another shape.
        """
        block = _values(values, self.shape[1])
        parts = [part for _, part in self.stream(block)]
        result = np.concatenate(parts) if parts else np.zeros((0, block.shape[1]))
        return result[:, 0] if np.ndim(values) == 1 else result

    def stream(self, values: ArrayLike) -> Iterator[tuple[int, Floats]]:
        """Pairs of first row and product rows (<= 256, d), from the top; nothing is kept.

        QTT takes workspace of about columns * d * (largest rank) floats, never rows x columns.
        """
        block = _values(values, self.shape[1])
        if self.form == "qtt":
            return _stream_qtt(self.factors, self.shape, block)
        return _stream_rows(self.factors, self.shape[0], block)

    def matrix(self) -> Floats:
        """The whole matrix; for tests and small cases."""
        return self.apply(np.eye(self.shape[1]))


def encode(
    matrix: ArrayLike,
    *,
    tolerance: float = 1e-3,
    max_bond_dim: int | None = None,
    form: str = "auto",
) -> Operator:
    """``matrix`` (rows, columns) in the form of fewest bytes whose bound is within ``tolerance``.

    ``tolerance`` is relative to the Frobenius norm. A named form is returned whatever its bound
    when ``max_bond_dim`` (of ranks) asks for more truncation than the tolerance allows.
    Raises InputError for a matrix that is empty, not two-dimensional or not finite.
    """
    array = np.asarray(matrix, dtype=np.float64)
    check_limits(max_bond_dim, tolerance)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"wants a matrix with entries, got shape {array.shape}", field="matrix")
    if not np.isfinite(array).all():
        raise InputError("holds a value that is not finite", field="matrix")
    if form not in ("auto", *FORMS):
        raise InputError(f"'{form}' is none of auto, {', '.join(FORMS)}", field="form")
    makers: dict[str, Callable[[Floats, float, int | None], Operator]] = {
        "dense": _dense,
        "low_rank": _low_rank,
        "qtt": _qtt,
    }
    if form != "auto":
        return makers[form](array, tolerance, max_bond_dim)
    found = [make(array, tolerance, max_bond_dim) for make in makers.values()]
    good = [operator for operator in found if operator.relative_bound <= tolerance]
    return min(good or found[:1], key=lambda operator: operator.bytes)


def encode_entries(
    entries: Entries,
    n: int,
    *,
    tolerance: float = 1e-3,
    max_bond_dim: int = 64,
    tail: float | None = None,
    seed: int = 0,
) -> Operator:
    """A QTT operator for an n x n matrix known by its entries alone, with a certified bound.

    ``entries(rows, columns)`` takes int64 arrays in [0, n). ``tail`` bounds the Frobenius norm of
    the entries whose row and column differ by more than 256, for a matrix that is local: then only
    those near the diagonal are looked at. Without it all n^2 are, in blocks, up to 2^26.

    Raises InputError for n < 1 or too large without a tail, SolverFailed with the bound reached
    when it stays above the tolerance: the matrix does not compress, take a low rank or it dense.
    """
    check_limits(max_bond_dim, tolerance)
    if isinstance(n, bool) or n < 1:
        raise InputError(f"wants at least 1, got {n}", field="n")
    if tail is None and n * n > MAX_CERTIFIED:
        raise InputError(f"{n} x {n} entries cannot all be looked at: give tail", field="tail")
    bits = max(1, (n - 1).bit_length())
    padded = entries if n == 2**bits else _pad(entries, n)
    best: Operator | None = None
    # The cross aims at each bond, the certificate measures the whole: tighten until it fits.
    for target in (tolerance / 30, tolerance / 3000, 1e-13):
        train = tt_cross(padded, bits, max_rank=max_bond_dim, tolerance=target, seed=seed)
        train = round_train(train, tolerance=target * train.norm())
        error, norm = certify(train, padded, tail=tail)
        if best is None or error < best.error_bound:
            best = Operator("qtt", (n, n), train.cores, error, norm)
        if best.relative_bound <= tolerance:
            return best
    assert best is not None
    raise SolverFailed(
        f"relative error at most {best.relative_bound:.1e} with rank {max_bond_dim}, "
        f"wanted {tolerance:.1e}"
    )


def certify(
    train: TensorTrain, entries: Entries, *, tail: float | None = None
) -> tuple[float, float]:
    """A proven bound on the Frobenius norm of ``entries`` minus train, and of ``entries`` at least.

    Blocks of 256 x 256 at the diagonal and beside it (all blocks without ``tail``) are compared
    entry by entry. Further out the matrix is at most ``tail``, and what the train holds there is
    its whole norm less what it holds in the blocks; the difference is allowed its rounding.
    """
    bits = len(train.cores)
    low = min(LEAF_BITS, bits)
    high, side = bits - low, 2 ** (bits - low)
    leaf = run_of(train.cores[high:])[:, :, 0]
    order = _leaf_order(low)
    wrong = held = there = 0.0
    for p in range(side):
        near = range(side) if tail is None else range(max(0, p - 1), min(side, p + 2))
        for q in near:
            ours = (_left_vector(train.cores[:high], p, q) @ leaf)[order]
            i = (p << low) + np.arange(2**low)
            j = (q << low) + np.arange(2**low)
            theirs = entries(*np.broadcast_arrays(i[:, None], j[None, :]))
            wrong += float(np.sum((ours - theirs) ** 2))
            held += float(np.sum(ours**2))
            there += float(np.sum(theirs**2))
    norm = math.sqrt(there)
    if tail is None:
        return math.sqrt(wrong) + 1e-14 * norm, norm
    total = train.norm() ** 2
    outside = max(0.0, total - held) + 1e-14 * bits * total
    return math.sqrt(wrong + (math.sqrt(outside) + tail) ** 2), norm


def _left_vector(cores: tuple[Floats, ...], p: int, q: int) -> Floats:
    vector = np.ones(1)
    for k, core in enumerate(cores):
        shift = len(cores) - 1 - k
        vector = vector @ core[:, 2 * (p >> shift & 1) + (q >> shift & 1)]
    return vector


def _leaf_order(bits: int) -> NDArray[np.int64]:
    """Where entry (i, j) lies in a run of ``bits`` modes of four: bits of i and j interleaved."""
    index = np.arange(2**bits)
    spread = np.zeros_like(index)
    for k in range(bits):
        spread |= (index >> k & 1) << 2 * k
    order: NDArray[np.int64] = 2 * spread[:, None] + spread[None, :]
    return order


def _dense(array: Floats, *_: float | None) -> Operator:
    return Operator("dense", _shape(array), (array,), 0.0, float(np.linalg.norm(array)))


def _low_rank(array: Floats, tolerance: float, max_rank: int | None) -> Operator:
    u, s, vt = np.linalg.svd(array, full_matrices=False)
    norm = float(np.linalg.norm(s))
    kept, lost = cut(s, 0.9 * tolerance * norm, max_rank)
    bound = math.sqrt(lost) + rounding(*array.shape) * norm
    factors = (u[:, :kept] * s[:kept], vt[:kept].copy())
    return Operator("low_rank", _shape(array), factors, bound, float(np.linalg.norm(array)))


def _qtt(array: Floats, tolerance: float, max_rank: int | None) -> Operator:
    rows, columns = array.shape
    bits = max(1, (max(rows, columns) - 1).bit_length())
    square = np.zeros((2**bits, 2**bits))
    square[:rows, :columns] = array
    # (row bits, column bits) -> (row bit, column bit) a mode
    axes = [axis for k in range(bits) for axis in (k, bits + k)]
    tensor = square.reshape([2] * (2 * bits)).transpose(axes).reshape([4] * bits)
    norm = float(np.linalg.norm(array))
    train = tt_svd(tensor, max_rank=max_rank, tolerance=0.9 * tolerance * norm)
    return Operator("qtt", _shape(array), train.cores, train.error_bound, norm)


def _stream_rows(
    factors: tuple[Floats, ...], rows: int, values: Floats
) -> Iterator[tuple[int, Floats]]:
    inner = values if len(factors) == 1 else factors[1] @ values
    for first in range(0, rows, 2**LEAF_BITS):
        yield first, factors[0][first : first + 2**LEAF_BITS] @ inner


def _stream_qtt(
    cores: tuple[Floats, ...], shape: tuple[int, int], values: Floats
) -> Iterator[tuple[int, Floats]]:
    rows, columns = shape
    bits, d = len(cores), values.shape[1]
    low = min(LEAF_BITS, bits)
    leaf = run_of(cores[bits - low :])[:, :, 0][:, _leaf_order(low)]
    start = np.zeros((1, 2**bits, d))
    start[0, :columns] = values

    def descend(work: Floats, k: int, first: int) -> Iterator[tuple[int, Floats]]:
        if first >= rows:
            return
        if k == bits - low:
            yield first, np.tensordot(leaf, work, axes=((0, 2), (0, 1)))[: rows - first]
            return
        half = work.shape[1] // 2
        for bit in (0, 1):
            core = cores[k][:, 2 * bit : 2 * bit + 2]
            below = sum(
                np.tensordot(core[:, c], work[:, c * half : (c + 1) * half], axes=(0, 0))
                for c in (0, 1)
            )
            yield from descend(np.asarray(below), k + 1, first + bit * (2**bits >> (k + 1)))

    return descend(start, 0, 0)


def _pad(entries: Entries, n: int) -> Entries:
    """``entries`` with zeros outside n x n."""

    def padded(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
        inside = (rows < n) & (columns < n)
        values = entries(np.where(inside, rows, 0), np.where(inside, columns, 0))
        return np.where(inside, values, 0.0)

    return padded


def _values(values: ArrayLike, columns: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != columns:
        raise InputError(f"wants ({columns},) or ({columns}, d), got {array.shape}", field="values")
    if not np.isfinite(array).all():
        raise InputError("holds a value that is not finite", field="values")
    return array.reshape(columns, -1)


def _shape(array: Floats) -> tuple[int, int]:
    return array.shape[0], array.shape[1]
