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

__all__ = ["circulate", "lean", "lean_overlap", "ring_overlap", "spread", "sums_overlap"]

Floats = NDArray[np.float64]

CHUNK = 256
SHORT = 24


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
def _spread_near(re: Floats, im: Floats, k: int, inner: int, mr: float, mi: float) -> None:
    """``spread`` where slices would be too short to pay; unsigned indices spare the compiler
    Python's rule for negative ones.
    """
    w, levels = np.uint64(inner), np.uint64(k)
    for block in range(len(re) // (k * inner)):
        base = np.uint64(block) * levels * w
        for j in range(w):
            first = base + np.uint64(j)
            x = y = 0.0
            for level in range(levels):
                x += re[first + level * w]
                y += im[first + level * w]
            u, v = mr * x - mi * y, mr * y + mi * x
            for level in range(levels):
                re[first + level * w] += u
                im[first + level * w] += v


@njit(**SUMS)
def spread(re: Floats, im: Floats, k: int, inner: int, mr: float, mi: float) -> None:
    """psi += m S, with S the sum of each fibre and m = mr + i mi."""
    if inner == 1:
        _spread_line(re, im, k, mr, mi)
        return
    if inner < SHORT:
        _spread_near(re, im, k, inner, mr, mi)
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
def _sums_overlap_near(pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int) -> float:
    total = 0.0
    w, levels = np.uint64(inner), np.uint64(k)
    for block in range(len(pr) // (k * inner)):
        base = np.uint64(block) * levels * w
        for j in range(w):
            first = base + np.uint64(j)
            a = b = c = d = 0.0
            for level in range(levels):
                at = first + level * w
                a += pr[at]
                b += pi[at]
                c += lr[at]
                d += li[at]
            total += c * b - d * a
    return float(total)


@njit(**SUMS)
def sums_overlap(pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int) -> float:
    """Im of the sum over fibres of conj(S_lambda) S_psi = Im <lambda|11^T|psi> on the axis."""
    if inner < SHORT and k < len(pr):
        return float(_sums_overlap_near(pr, pi, lr, li, k, inner))
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
                total += c[j] * b[j] - d[j] * a[j]
    return total


@njit(**SUMS)
def _circulate_near(re: Floats, im: Floats, k: int, inner: int, cr: Floats, ci: Floats) -> None:
    w, levels = np.uint64(inner), np.uint64(k)
    x, y = np.empty(2 * k), np.empty(2 * k)  # the fibre twice, so that no index wraps
    for block in range(len(re) // (k * inner)):
        base = np.uint64(block) * levels * w
        for j in range(w):
            first = base + np.uint64(j)
            for level in range(levels):
                at = first + level * w
                x[level] = x[level + levels] = re[at]
                y[level] = y[level + levels] = im[at]
            for level in range(levels):
                a = b = 0.0
                for other in range(levels):
                    u, v = cr[other], ci[other]
                    e, f = x[level + other], y[level + other]
                    a += u * e - v * f
                    b += u * f + v * e
                re[first + level * w] = a
                im[first + level * w] = b


@njit(**SUMS)
def _rows(x: Floats, y: Floats, level: int, cr: Floats, ci: Floats, a: Floats, b: Floats) -> None:
    """a + i b = sum_m c[m] (x + i y)[level + m], two terms a pass over the rows."""
    k = len(cr)
    for j in range(len(a)):
        a[j] = cr[0] * x[level, j] - ci[0] * y[level, j]
        b[j] = cr[0] * y[level, j] + ci[0] * x[level, j]
    for m in range(1, k - 1, 2):
        e, f = x[(level + m) % k, : len(a)], y[(level + m) % k, : len(a)]
        g, h = x[(level + m + 1) % k, : len(a)], y[(level + m + 1) % k, : len(a)]
        u, v, s, t = cr[m], ci[m], cr[m + 1], ci[m + 1]
        for j in range(len(a)):
            a[j] += u * e[j] - v * f[j] + s * g[j] - t * h[j]
            b[j] += u * f[j] + v * e[j] + s * h[j] + t * g[j]
    if k % 2 == 0:
        e, f = x[(level + k - 1) % k, : len(a)], y[(level + k - 1) % k, : len(a)]
        u, v = cr[k - 1], ci[k - 1]
        for j in range(len(a)):
            a[j] += u * e[j] - v * f[j]
            b[j] += u * f[j] + v * e[j]


@njit(**SUMS)
def circulate(re: Floats, im: Floats, k: int, inner: int, cr: Floats, ci: Floats) -> None:
    """psi_l = sum_m c[m] psi_(l + m) along the axis, indices modulo k; c = cr + i ci, (k,)."""
    if inner < SHORT:
        _circulate_near(re, im, k, inner, cr, ci)
        return
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
                _rows(x, y, level, cr, ci, re[at : at + width], im[at : at + width])


@njit(**SUMS)
def ring_overlap(pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int) -> float:
    """Im <lambda|A|psi> with A the adjacency of a ring of k >= 3 levels along the axis."""
    total = 0.0
    w = np.uint64(inner)
    for block in range(len(pr) // (k * inner)):
        base = np.uint64(block) * np.uint64(k) * w
        for level in range(k):
            a = base + np.uint64(level) * w
            b = base + np.uint64((level + 1) % k) * w
            for j in range(w):
                e, f = a + np.uint64(j), b + np.uint64(j)
                total += lr[e] * pi[f] - li[e] * pr[f] + lr[f] * pi[e] - li[f] * pr[e]
    return total


@njit(**SUMS)
def _lean_near(re: Floats, im: Floats, k: int, inner: int, w: Floats, fr: float, fi: float) -> None:
    stride, levels = np.uint64(inner), np.uint64(k)
    for block in range(len(re) // (k * inner)):
        base = np.uint64(block) * levels * stride
        for j in range(stride):
            first = base + np.uint64(j)
            x = y = 0.0
            for level in range(levels):
                x += w[level] * re[first + level * stride]
                y += w[level] * im[first + level * stride]
            u, v = fr * x - fi * y, fr * y + fi * x
            for level in range(levels):
                re[first + level * stride] += w[level] * u
                im[first + level * stride] += w[level] * v


@njit(**SUMS)
def _fibre_leans(values: Floats, inner: int, first: int, w: Floats, sums: Floats) -> None:
    sums[:] = 0.0
    for level in range(len(w)):
        row = values[first + level * inner : first + level * inner + len(sums)]
        weight = w[level]
        for j in range(len(sums)):
            sums[j] += weight * row[j]


@njit(**SUMS)
def lean(re: Floats, im: Floats, k: int, inner: int, w: Floats, fr: float, fi: float) -> None:
    """psi += f |w><w|psi> along the axis, f = fr + i fi, w (k,) real."""
    if inner < SHORT:
        _lean_near(re, im, k, inner, w, fr, fi)
        return
    x, y = np.empty(min(inner, CHUNK)), np.empty(min(inner, CHUNK))
    for base in range(0, len(re), k * inner):
        for first in range(base, base + inner, CHUNK):
            width = min(CHUNK, base + inner - first)
            a, b = x[:width], y[:width]
            _fibre_leans(re, inner, first, w, a)
            _fibre_leans(im, inner, first, w, b)
            for level in range(k):
                at = first + level * inner
                c, d = re[at : at + width], im[at : at + width]
                g, h = w[level] * fr, w[level] * fi
                for j in range(width):
                    c[j] += g * a[j] - h * b[j]
                    d[j] += g * b[j] + h * a[j]


@njit(**SUMS)
def _lean_overlap_near(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int, w: Floats
) -> float:
    total = 0.0
    stride, levels = np.uint64(inner), np.uint64(k)
    for block in range(len(pr) // (k * inner)):
        base = np.uint64(block) * levels * stride
        for j in range(stride):
            a = b = c = d = 0.0
            for level in range(levels):
                at = base + np.uint64(j) + level * stride
                weight = w[level]
                a += weight * pr[at]
                b += weight * pi[at]
                c += weight * lr[at]
                d += weight * li[at]
            total += c * b - d * a
    return total


@njit(**SUMS)
def lean_overlap(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, k: int, inner: int, w: Floats
) -> float:
    """Im <lambda|w><w|psi> summed over the fibres of the axis."""
    if inner < SHORT:
        near: float = _lean_overlap_near(pr, pi, lr, li, k, inner, w)
        return near
    width = min(inner, CHUNK)
    a, b, c, d = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    total = 0.0
    for base in range(0, len(pr), k * inner):
        for first in range(base, base + inner, CHUNK):
            width = min(CHUNK, base + inner - first)
            _fibre_leans(pr, inner, first, w, a[:width])
            _fibre_leans(pi, inner, first, w, b[:width])
            _fibre_leans(lr, inner, first, w, c[:width])
            _fibre_leans(li, inner, first, w, d[:width])
            for j in range(width):
                total += c[j] * b[j] - d[j] * a[j]
    return total
