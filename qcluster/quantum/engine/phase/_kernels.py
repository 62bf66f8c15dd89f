"""Compiled loops over a diagonal: phases, <C>, and what gradients need of them.

Real and imaginary parts stand in separate float64 arrays. Libraries' sin and cos cost 20 to 40 ns a
number in such loops; the polynomial here costs 0.7 because the compiler can run it on whole
vectors. ``qcluster.quantum.engine.reference`` is the plain NumPy twin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["EXACT", "MAX_PHASE", "SUMS", "apply_cost", "begin", "expectation", "overlap", "phase",
           "sincos", "unphase"]  # fmt: skip

Floats = NDArray[np.float64]

EXACT: dict[str, Any] = {"cache": True, "fastmath": {"contract", "nsz"}}
SUMS: dict[str, Any] = {"cache": True, "fastmath": {"contract", "nsz", "reassoc"}}

MAX_PHASE = 1e6
"""Phases beyond it, in radians, are not reduced exactly by ``sincos``."""

# pi/2 in three parts whose products with quadrant numbers below 2^20 are exact (Cody and Waite,
# 1980); minimax coefficients of the Cephes library (Moshier, 1989).
_PI_A = 1.5707963109016418
_PI_B = 1.5893254712295857e-08
_PI_C = 6.123233932053541e-17
_TWO_OVER_PI = 0.6366197723675814
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to the nearest integer


@njit(**EXACT)
def sincos(x: float) -> tuple[float, float]:
    """sin and cos to about 1 ulp for |x| < 1e6, free of branches so that loops vectorise."""
    q = (x * _TWO_OVER_PI + _ROUND) - _ROUND
    r = x - q * _PI_A
    r = r - q * _PI_B
    r = r - q * _PI_C
    t = r * r
    s = 1.58962301576546568060e-10
    s = s * t - 2.50507477628578072866e-8
    s = s * t + 2.75573136213857245213e-6
    s = s * t - 1.98412698295895385996e-4
    s = s * t + 8.33333333332211858878e-3
    s = s * t - 1.66666666666666307295e-1
    s = r + r * t * s
    c = -1.13585365213876817300e-11
    c = c * t + 2.08757008419747316778e-9
    c = c * t - 2.75573141792967388112e-7
    c = c * t + 2.48015872888517045348e-5
    c = c * t - 1.38888888888730564116e-3
    c = c * t + 4.16666666666665929218e-2
    c = 1.0 - 0.5 * t + t * t * c
    # x = pi * half + odd * pi/2 + r, odd in {-1, 0, 1}: products with 0 and +-1 are exact.
    half = (q * 0.5 + _ROUND) - _ROUND
    odd = q - 2.0 * half
    parity = half - 2.0 * ((half * 0.5 + _ROUND) - _ROUND)
    sign = 1.0 - 2.0 * parity * parity
    even = 1.0 - odd * odd
    return sign * (even * s + odd * c), sign * (even * c - odd * s)


@njit(**EXACT)
def phase(re: Floats, im: Floats, diagonal: Floats, gamma: float) -> None:
    """psi *= exp(-i gamma C)."""
    for j in range(len(re)):
        s, c = sincos(gamma * diagonal[j])
        a, b = re[j], im[j]
        re[j] = a * c + b * s
        im[j] = b * c - a * s


@njit(**EXACT)
def begin(re: Floats, im: Floats, diagonal: Floats, gamma: float, amplitude: float) -> None:
    """psi = amplitude exp(-i gamma C): the first phase, without reading psi."""
    for j in range(len(re)):
        s, c = sincos(gamma * diagonal[j])
        re[j] = amplitude * c
        im[j] = -amplitude * s


@njit(**SUMS)
def expectation(re: Floats, im: Floats, diagonal: Floats) -> float:
    """<psi|C|psi>."""
    total = 0.0
    for j in range(len(re)):
        total += diagonal[j] * (re[j] * re[j] + im[j] * im[j])
    return total


@njit(**SUMS)
def apply_cost(pr: Floats, pi: Floats, lr: Floats, li: Floats, diagonal: Floats) -> float:
    """lambda = C psi; returns <C>."""
    total = 0.0
    for j in range(len(pr)):
        a, b, d = pr[j], pi[j], diagonal[j]
        lr[j], li[j] = d * a, d * b
        total += d * (a * a + b * b)
    return total


@njit(**SUMS)
def unphase(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, diagonal: Floats, gamma: float
) -> float:
    """Takes both states back through exp(-i gamma C); returns Im <lambda|C|psi>."""
    total = 0.0
    for j in range(len(pr)):
        d = diagonal[j]
        s, c = sincos(gamma * d)
        a, b, e, f = pr[j], pi[j], lr[j], li[j]
        total += d * (e * b - f * a)
        pr[j], pi[j] = a * c - b * s, b * c + a * s
        lr[j], li[j] = e * c - f * s, f * c + e * s
    return total


@njit(**SUMS)
def overlap(pr: Floats, pi: Floats, lr: Floats, li: Floats, diagonal: Floats) -> float:
    """Im <lambda|C|psi>."""
    total = 0.0
    for j in range(len(pr)):
        total += diagonal[j] * (lr[j] * pi[j] - li[j] * pr[j])
    return total
