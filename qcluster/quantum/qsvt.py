"""Polynomials of a matrix's singular values, as quantum singular value transformation applies them
(Gilyen, Su, Low and Wiebe, 2019), evaluated exactly.

A QSVT circuit over a block encoding of A / ||A|| implements P(A / ||A||) for a real polynomial of
fixed parity with |P| <= 1 on [-1, 1]. What it does to a vector is computed here by Clenshaw's
recurrence on the Chebyshev coefficients, without angles or qubits. A is scaled by its own spectral
norm; nothing is rescaled silently: every factor is in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.quantum.linear import real_system
from qcluster.record import Record

__all__ = ["QSVTResult", "inverse_polynomial", "qsvt_apply"]

Floats = NDArray[np.float64]

MAX_CONDITION = 1000.0
RANK = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class QSVTResult(Record):
    """``value`` approximates what was asked for. The circuit's polynomial is ``coefficients``
    (Chebyshev) and bounded by 1; ``scale`` undoes its normalisation: value = scale * P(A/||A||) b.
    ``success_probability`` is that of post-selecting the block.
    """

    value: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    scale: float
    spectral_norm: float
    success_probability: float
    condition_number: float | None = None


def qsvt_apply(
    A: ArrayLike,
    b: ArrayLike,
    *,
    coefficients: ArrayLike | None = None,
    eps: float = 1e-3,
) -> QSVTResult:
    """Apply a polynomial of A's singular values to b; by default the (pseudo-)inverse.

    Parameters
    ----------
    A: (m, n) real, not zero.
    b: (m,) real, not zero. An odd polynomial gives V P(s) U^T b, shape (n,), as the inverse does;
        an even one U P(s) U^T b, shape (m,).
    coefficients: of T_0, T_1, ... in s / ||A||, of one parity and |P| <= 1 on [-1, 1]; None
        approximates 1 / s on the non-zero singular values.
    eps: largest relative error of the inverse on its domain.

    Raises InputError outside the domain, with the numbers: mixed parity, |P| > 1, or a condition
    number above 1000.
    """
    matrix, right = real_system(A, b)
    left, singular, rightT = np.linalg.svd(matrix, full_matrices=False)
    norm = float(singular[0])
    kept = singular > RANK * norm
    kappa: float | None = None
    scale = 1.0
    if coefficients is None:
        kappa = norm / float(singular[kept].min())
        series = inverse_polynomial(kappa, eps)
        largest = _largest(series)
        series, scale = series / largest, largest / norm
    else:
        series = _checked(coefficients)
    odd = bool(np.any(series[1::2]))
    values = np.where(kept, chebyshev.chebval(singular / norm, series), series[0])
    inner = left.T @ right
    if odd:
        result = rightT.T @ (np.where(kept, values, 0.0) * inner)
    else:
        # Outside A's range an even polynomial acts as P(0).
        at_zero = float(chebyshev.chebval(0.0, series))
        values = np.where(kept, values, at_zero)
        result = left @ (values * inner) + at_zero * (right - left @ inner)
    probability = float(result @ result) / float(right @ right)
    return QSVTResult(
        value=result * scale,
        coefficients=series,
        scale=scale,
        spectral_norm=norm,
        success_probability=min(1.0, probability),
        condition_number=kappa,
    )


def inverse_polynomial(kappa: float, eps: float) -> Floats:
    """Chebyshev coefficients of an odd polynomial within a relative ``eps`` of 1 / x wherever
    1 / kappa <= |x| <= 1: the series of (1 - (1 - x^2)^b) / x with b = kappa^2 log(2 / eps)
    (Childs, Kothari and Somma, 2017), cut where its tail is below eps / 2.
    """
    if not 0 < eps < 1:
        raise InputError(f"wants a number in (0, 1), got {eps}", field="eps")
    if kappa > MAX_CONDITION * (1 + 1e-9):
        raise InputError(
            f"has condition number {kappa:.6g}, at most {MAX_CONDITION:g} is taken", field="A"
        )
    power = int(np.ceil(kappa**2 * np.log(2 / eps))) + 1
    # Its coefficients fall off like exp(-k^2 / (4 b)): this many points hold all that matter.
    points = 8 * int(np.ceil(np.sqrt(power * np.log(16 * power / eps)))) + 16
    nodes = np.cos(np.pi * (np.arange(points) + 0.5) / points)
    target = -np.expm1(power * np.log1p(-(nodes**2))) / nodes
    series = _interpolate(target)
    series[::2] = 0.0
    tail = np.cumsum(np.abs(series[::-1]))[::-1]
    count = int(np.argmax(tail <= eps / 2)) if (tail <= eps / 2).any() else len(series)
    return np.asarray(series[: max(count, 2)])


def _interpolate(target: Floats) -> Floats:
    """Chebyshev coefficients through values at the Chebyshev nodes (a cosine transform)."""
    from scipy.fft import dct

    series: Floats = dct(target, type=2) / len(target)
    series[0] /= 2
    return series


def _checked(coefficients: ArrayLike) -> Floats:
    series = np.asarray(coefficients, dtype=np.float64)
    if series.ndim != 1 or not len(series) or not np.isfinite(series).all():
        raise InputError("wants a list of finite numbers", field="coefficients")
    if series[::2].any() and series[1::2].any():
        raise InputError("mixes even and odd terms; a circuit has one parity", field="coefficients")
    largest = _largest(series)
    if largest > 1 + 1e-9:
        raise InputError(f"|P| reaches {largest:.6g} on [-1, 1], at most 1 is possible",
                         field="coefficients")  # fmt: skip
    return series


def _largest(series: Floats) -> float:
    """max |P| on [-1, 1], on a grid of 16 points an oscillation."""
    grid = np.cos(np.linspace(0, np.pi, 16 * len(series) + 1))
    return float(np.abs(chebyshev.chebval(grid, series)).max())
