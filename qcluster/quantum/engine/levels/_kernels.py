"""Compiled loops of the XY and Grover mixers on axes of k levels.

An axis of k levels and stride ``inner`` splits a state of N amplitudes into N / k fibres. Complete
mixing adds a multiple of a fibre's sum to each of its members; ring mixing multiplies the fibre by
a k x k circulant matrix. Real and imaginary parts stand in separate arrays.
``qcluster.quantum.engine.reference`` is the plain NumPy twin.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.quantum.engine.phase._kernels import SUMS

__all__ = ["circulate", "ring_overlap", "spread", "spread_both"]

Floats = NDArray[np.float64]

CHUNK = 256


@njit(**SUMS)
def _fibre_sums(values: Floats, k: int, inner: int, first: int, sums: Floats) -> None:
    sums[:] = values[first : first + len(sums)]
    for level in range(1, k):
        row = values[first + level * inner : first + level * inner + len(sums)]
        for j in range(len(sums)):
            sums[j] += row[j]


@njit(**SUMS)
def _add(values: Floats, k: int, inner: int, first: int, change: Floats) -> None:
    for level in range(k):
        row = values[first + level * inner : first + level * inner + len(change)]
        for j in range(len(change)):
            row[j] += change[j]


@njit(**SUMS)
def _spread_line(re: Floats, im: Floats, k: int, mr: float, mi: float) -> None:
    """``spread`` for fibres of neighbours, inner = 1."""
    for first in range(0, len(re), k):
        a, b = re[first : first + k], im[first : first + k]
        x = y = 0.0
        for j in range(k):
            x += a[j]
            y += b[j]
        u, v = mr * x - mi * y, mr * y + mi * x
        for j in range(k):
            a[j] += u
            b[j] += v


@njit(**SUMS)
def spread(re: Floats, im: Floats, k: int, inner: int, mr: float, mi: float) -> None:
    """psi += m S, with S the sum of each fibre and m = mr + i mi."""
    if inner == 1:
        _spread_line(re, im, k, mr, mi)
        return
    x, y = np.empty(min(inner, CHUNK)), np.empty(min(inner, CHUNK))
    for base in range(0, len(re), k * inner):
        for first in range(base, base + inner, CHUNK):
            width = min(CHUNK, base + inner - first)
            a, b = x[:width], y[:width]
            _fibre_sums(re, k, inner, first, a)
            _fibre_sums(im, k, inner, first, b)
            for j in range(width):
                u, v = a[j], b[j]
                a[j], b[j] = mr * u - mi * v, mr * v + mi * u
            _add(re, k, inner, first, a)
            _add(im, k, inner, first, b)


@njit(**SUMS)
def spread_both(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int, mr: float, mi: float
) -> float:
    """``spread`` of psi and lambda; returns Im sum over fibres of conj(S_lambda) S_psi."""
    total = 0.0
    width = min(inner, CHUNK)
    x, y, z, w = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    for base in range(0, len(pr), k * inner):
        for first in range(base, base + inner, CHUNK):
            width = min(CHUNK, base + inner - first)
            a, b, c, d = x[:width], y[:width], z[:width], w[:width]
            _fibre_sums(pr, k, inner, first, a)
            _fibre_sums(pi, k, inner, first, b)
            _fibre_sums(lr, k, inner, first, c)
            _fibre_sums(li, k, inner, first, d)
            for j in range(width):
                e, f, g, h = a[j], b[j], c[j], d[j]
                total += g * f - h * e
                a[j], b[j] = mr * e - mi * f, mr * f + mi * e
                c[j], d[j] = mr * g - mi * h, mr * h + mi * g
            _add(pr, k, inner, first, a)
            _add(pi, k, inner, first, b)
            _add(lr, k, inner, first, c)
            _add(li, k, inner, first, d)
    return total


@njit(**SUMS)
def circulate(re: Floats, im: Floats, k: int, inner: int, cr: Floats, ci: Floats) -> None:
    """psi_l = sum_m c[(l - m) mod k] psi_m along the axis; c = cr + i ci, (k,)."""
    width = min(inner, CHUNK)
    x, y = np.empty((k, width)), np.empty((k, width))
    for base in range(0, len(re), k * inner):
        for first in range(base, base + inner, CHUNK):
            width = min(CHUNK, base + inner - first)
            for level in range(k):
                at = first + level * inner
                x[level, :width] = re[at : at + width]
                y[level, :width] = im[at : at + width]
            for level in range(k):
                at = first + level * inner
                a, b = re[at : at + width], im[at : at + width]
                a[:] = 0.0
                b[:] = 0.0
                for other in range(k):
                    u, v = cr[(level - other) % k], ci[(level - other) % k]
                    e, f = x[other], y[other]
                    for j in range(width):
                        a[j] += u * e[j] - v * f[j]
                        b[j] += u * f[j] + v * e[j]


@njit(**SUMS)
def ring_overlap(pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int) -> float:
    """Im <lambda|A|psi> with A the adjacency of a ring of k >= 3 levels along the axis."""
    total = 0.0
    for base in range(0, len(pr), k * inner):
        for level in range(k):
            a = base + level * inner
            b = base + (level + 1) % k * inner
            er, ei, fr, fi = (
                pr[a : a + inner],
                pi[a : a + inner],
                pr[b : b + inner],
                pi[b : b + inner],
            )
            gr, gi, hr, hi = (
                lr[a : a + inner],
                li[a : a + inner],
                lr[b : b + inner],
                li[b : b + inner],
            )
            for j in range(inner):
                total += gr[j] * fi[j] - gi[j] * fr[j] + hr[j] * ei[j] - hi[j] * er[j]
    return total
