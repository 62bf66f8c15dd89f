"""Compiled loops of the X mixer on qubits.

The rotations are done two qubits at a time in the basis where X1 + X2 is simple: of the four
amplitudes, x00 - x11 and x01 - x10 stay, and the pair (x00 + x11, x01 + x10) turns by 2 beta. That
saves a quarter of the arithmetic, and <lambda|X1 + X2|psi> falls out of the same sums, so a
gradient needs no pass of its own. Blocks of 2^12 amplitudes stay in the first-level cache for the
phase and the low 12 qubits; higher pairs run over contiguous slices.

When E(z) = E(-z) the last qubit is dropped: the state is symmetric, so X on it is the complement of
all other bits, which is a reversal of the array. Half the memory, half the work.

``qcluster.quantum.engine.reference`` is the plain NumPy twin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qcluster.quantum.engine.phase._kernels import (
    EXACT,
    SUMS,
    apply_cost,
    begin,
    overlap,
    phase,
    unphase,
)

__all__ = ["backward", "forward"]

Floats = NDArray[np.float64]

BLOCK = 1 << 12
OUTER = 1 << 14


@njit(**SUMS)
def _turn(
    ar: float, ai: float, br: float, bi: float, dr: float, di: float, er: float, ei: float,
    c: float, s: float,
) -> Any:  # fmt: skip
    """Two qubits' rotation of x00 = a, x01 = b, x10 = d, x11 = e, and the sums it turned:
    u = a + e, w = b + d. c, s = cos, sin of 2 beta, halved.
    """
    ur, ui, vr, vi = ar + er, ai + ei, 0.5 * (ar - er), 0.5 * (ai - ei)
    wr, wi, yr, yi = br + dr, bi + di, 0.5 * (br - dr), 0.5 * (bi - di)
    pr, pi = c * ur + s * wi, c * ui - s * wr
    qr, qi = c * wr + s * ui, c * wi - s * ur
    return (
        pr + vr, pi + vi, qr + yr, qi + yi, qr - yr, qi - yi, pr - vr, pi - vi,
        ur, ui, wr, wi,
    )  # fmt: skip


@njit(**SUMS)
def _quad(re: Floats, im: Floats, h: int, c: float, s: float) -> None:
    """Turn the qubits of strides h and 2h, h >= 64: contiguous slices vectorise."""
    for k in range(0, len(re), 4 * h):
        ar, ai = re[k : k + h], im[k : k + h]
        br, bi = re[k + h : k + 2 * h], im[k + h : k + 2 * h]
        dr, di = re[k + 2 * h : k + 3 * h], im[k + 2 * h : k + 3 * h]
        er, ei = re[k + 3 * h : k + 4 * h], im[k + 3 * h : k + 4 * h]
        for j in range(h):
            t = _turn(ar[j], ai[j], br[j], bi[j], dr[j], di[j], er[j], ei[j], c, s)
            ar[j], ai[j], br[j], bi[j] = t[0], t[1], t[2], t[3]
            dr[j], di[j], er[j], ei[j] = t[4], t[5], t[6], t[7]


@njit(**SUMS)
def _quad_near(re: Floats, im: Floats, h: int, c: float, s: float) -> None:
    """``_quad`` for short strides; called with a constant h, so that the loop is unrolled.
    Unsigned indices spare the compiler Python's rule for negative ones.
    """
    w = np.uint64(h)
    for b in range(len(re) // (4 * h)):
        base = np.uint64(4) * w * np.uint64(b)
        for j in range(w):
            k = base + np.uint64(j)
            k1, k2, k3 = k + w, k + w + w, k + w + w + w
            t = _turn(
                re[k], im[k], re[k1], im[k1], re[k2], im[k2], re[k3], im[k3], c, s
            )  # fmt: skip
            re[k], im[k], re[k1], im[k1] = t[0], t[1], t[2], t[3]
            re[k2], im[k2], re[k3], im[k3] = t[4], t[5], t[6], t[7]


@njit(**SUMS)
def _both(pr: Floats, pi: Floats, lr: Floats, li: Floats, h: int, c: float, s: float) -> float:
    """``_quad`` of psi and lambda; returns Im <lambda|X1 + X2|psi>."""
    total = 0.0
    for k in range(0, len(pr), 4 * h):
        k1, k2, k3, k4 = k + h, k + 2 * h, k + 3 * h, k + 4 * h
        ar, ai, br, bi = pr[k:k1], pi[k:k1], pr[k1:k2], pi[k1:k2]
        dr, di, er, ei = pr[k2:k3], pi[k2:k3], pr[k3:k4], pi[k3:k4]
        fr, fi, gr, gi = lr[k:k1], li[k:k1], lr[k1:k2], li[k1:k2]
        mr, mi, nr, ni = lr[k2:k3], li[k2:k3], lr[k3:k4], li[k3:k4]
        for j in range(h):
            t = _turn(ar[j], ai[j], br[j], bi[j], dr[j], di[j], er[j], ei[j], c, s)
            ar[j], ai[j], br[j], bi[j] = t[0], t[1], t[2], t[3]
            dr[j], di[j], er[j], ei[j] = t[4], t[5], t[6], t[7]
            o = _turn(fr[j], fi[j], gr[j], gi[j], mr[j], mi[j], nr[j], ni[j], c, s)
            fr[j], fi[j], gr[j], gi[j] = o[0], o[1], o[2], o[3]
            mr[j], mi[j], nr[j], ni[j] = o[4], o[5], o[6], o[7]
            total += o[8] * t[11] - o[9] * t[10] + o[10] * t[9] - o[11] * t[8]
    return total


@njit(**SUMS)
def _both_near(pr: Floats, pi: Floats, lr: Floats, li: Floats, h: int, c: float, s: float) -> float:
    """``_both`` for short constant strides."""
    total = 0.0
    w = np.uint64(h)
    for b in range(len(pr) // (4 * h)):
        base = np.uint64(4) * w * np.uint64(b)
        for j in range(w):
            k = base + np.uint64(j)
            m, n, q = k + w, k + w + w, k + w + w + w
            t = _turn(pr[k], pi[k], pr[m], pi[m], pr[n], pi[n], pr[q], pi[q], c, s)
            pr[k], pi[k], pr[m], pi[m] = t[0], t[1], t[2], t[3]
            pr[n], pi[n], pr[q], pi[q] = t[4], t[5], t[6], t[7]
            o = _turn(lr[k], li[k], lr[m], li[m], lr[n], li[n], lr[q], li[q], c, s)
            lr[k], li[k], lr[m], li[m] = o[0], o[1], o[2], o[3]
            lr[n], li[n], lr[q], li[q] = o[4], o[5], o[6], o[7]
            total += o[8] * t[11] - o[9] * t[10] + o[10] * t[9] - o[11] * t[8]
    return total


@njit(**SUMS)
def _pair(re: Floats, im: Floats, mirrored: bool, c: float, s: float) -> None:
    """Turn one qubit: the top bit, or, ``mirrored``, the complement of all bits. c, s = cos, sin
    of beta.
    """
    n = len(re)
    half = n // 2
    for j in range(half):
        k = np.uint64(j)
        m = np.uint64(n - 1 - j if mirrored else j + half)
        ar, ai, br, bi = re[k], im[k], re[m], im[m]
        re[k], im[k] = c * ar + s * bi, c * ai - s * br
        re[m], im[m] = c * br + s * ai, c * bi - s * ar


@njit(**SUMS)
def _pair_sum(pr: Floats, pi: Floats, lr: Floats, li: Floats, mirrored: bool) -> float:
    """Im <lambda|X|psi> for the qubit that ``_pair`` turns."""
    n = len(pr)
    half = n // 2
    total = 0.0
    for j in range(half):
        k = np.uint64(j)
        m = np.uint64(n - 1 - j if mirrored else j + half)
        total += lr[k] * pi[m] - li[k] * pr[m] + lr[m] * pi[k] - li[m] * pr[k]
    return total


@njit(**SUMS)
def _top_quad(re: Floats, im: Floats, c: float, s: float) -> None:
    """Turn the top bit and the complement together: x00 = j, x01 = n - 1 - j, x10 = n/2 + j,
    x11 = n/2 - 1 - j.
    """
    n = len(re)
    for j in range(n // 4):
        k, m = np.uint64(j), np.uint64(n - 1 - j)
        d, q = np.uint64(n // 2 + j), np.uint64(n // 2 - 1 - j)
        t = _turn(re[k], im[k], re[m], im[m], re[d], im[d], re[q], im[q], c, s)
        re[k], im[k], re[m], im[m] = t[0], t[1], t[2], t[3]
        re[d], im[d], re[q], im[q] = t[4], t[5], t[6], t[7]


@njit(**EXACT)
def _low_pairs(re: Floats, im: Floats, bits: int, c: float, s: float) -> None:
    """All pairs of qubits inside a block of 2^bits."""
    if bits >= 2:
        _quad_near(re, im, 1, c, s)
    if bits >= 4:
        _quad_near(re, im, 4, c, s)
    if bits >= 6:
        _quad_near(re, im, 16, c, s)
    for bit in range(6, bits - 1, 2):
        _quad(re, im, 1 << bit, c, s)


@njit(**EXACT)
def _low_both(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, bits: int, c: float, s: float
) -> float:
    total = 0.0
    if bits >= 2:
        total += _both_near(pr, pi, lr, li, 1, c, s)
    if bits >= 4:
        total += _both_near(pr, pi, lr, li, 4, c, s)
    if bits >= 6:
        total += _both_near(pr, pi, lr, li, 16, c, s)
    for bit in range(6, bits - 1, 2):
        total += _both(pr, pi, lr, li, 1 << bit, c, s)
    return total


@njit(**EXACT)
def _bits(n: int) -> int:
    bits = 0
    while (1 << bits) < n:
        bits += 1
    return bits


@njit(**EXACT)
def _rest(re: Floats, im: Floats, mirrored: bool, low: int, beta: float) -> None:
    """The qubits above bit ``low``, the odd one out and the complement."""
    bits = _bits(len(re))
    c, s = 0.5 * np.cos(2 * beta), 0.5 * np.sin(2 * beta)
    for bit in range(low, bits - 1, 2):
        _quad(re, im, 1 << bit, c, s)
    if bits % 2 and mirrored and bits > 1:
        _top_quad(re, im, c, s)
    elif bits % 2 or mirrored:
        _pair(re, im, bits % 2 == 0, np.cos(beta), np.sin(beta))


@njit(**EXACT)
def forward(
    re: Floats, im: Floats, diagonal: Floats, gammas: Floats, betas: Floats, mirrored: bool
) -> None:
    """All layers, from the uniform superposition, into ``re`` and ``im`` (2^m,), m >= 1."""
    n = len(re)
    size = min(n, BLOCK)
    bits = _bits(size)
    low = bits - bits % 2
    outer = min(n, OUTER)
    for layer in range(len(gammas)):
        c, s = 0.5 * np.cos(2 * betas[layer]), 0.5 * np.sin(2 * betas[layer])
        for start in range(0, n, outer):
            for k in range(start, start + outer, size):
                a, b, d = re[k : k + size], im[k : k + size], diagonal[k : k + size]
                if layer == 0:
                    begin(a, b, d, gammas[0], 1.0 / np.sqrt(n))
                else:
                    phase(a, b, d, gammas[layer])
                _low_pairs(a, b, low, c, s)
            if outer == OUTER:
                _quad(re[start : start + outer], im[start : start + outer], BLOCK, c, s)
        _rest(re, im, mirrored, low + 2 if outer == OUTER else low, betas[layer])


@njit(**EXACT)
def _rest_both(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, mirrored: bool, low: int, beta: float
) -> float:
    """``_rest`` for psi and lambda; returns their part of Im <lambda|sum X|psi>."""
    bits = _bits(len(pr))
    c, s = 0.5 * np.cos(2 * beta), 0.5 * np.sin(2 * beta)
    total = 0.0
    for bit in range(low, bits - 1, 2):
        total += _both(pr, pi, lr, li, 1 << bit, c, s)
    if bits % 2:
        total += _pair_sum(pr, pi, lr, li, False)
    if mirrored:
        total += _pair_sum(pr, pi, lr, li, True)
    for re, im in ((pr, pi), (lr, li)):
        if bits % 2 and mirrored and bits > 1:
            _top_quad(re, im, c, s)
        elif bits % 2 or mirrored:
            _pair(re, im, bits % 2 == 0, np.cos(beta), np.sin(beta))
    return total


@njit(**EXACT)
def backward(
    pr: Floats, pi: Floats, lr: Floats, li: Floats, diagonal: Floats, observable: Floats,
    gammas: Floats, betas: Floats, mirrored: bool, by_gamma: Floats, by_beta: Floats,
) -> float:  # fmt: skip
    """From the final psi: <observable>, its derivatives into ``by_gamma``, ``by_beta`` (p,)."""
    n = len(pr)
    size = min(n, BLOCK)
    bits = _bits(size)
    low = bits - bits % 2
    outer = min(n, OUTER)
    value = apply_cost(pr, pi, lr, li, observable)
    for layer in range(len(gammas) - 1, -1, -1):
        beta = -betas[layer]
        c, s = 0.5 * np.cos(2 * beta), 0.5 * np.sin(2 * beta)
        top = low + 2 if outer == OUTER else low
        slope = _rest_both(pr, pi, lr, li, mirrored, top, beta)
        turned = 0.0
        for k in range(0, n, outer):
            end = k + outer
            if outer == OUTER:
                slope += _both(pr[k:end], pi[k:end], lr[k:end], li[k:end], BLOCK, c, s)
            for j in range(k, end, size):
                a, b, d = pr[j : j + size], pi[j : j + size], diagonal[j : j + size]
                e, f = lr[j : j + size], li[j : j + size]
                slope += _low_both(a, b, e, f, low, c, s)
                if layer:
                    turned += unphase(a, b, e, f, d, gammas[layer])
                else:
                    turned += overlap(a, b, e, f, d)
        by_beta[layer] = 2.0 * slope
        by_gamma[layer] = 2.0 * turned
    return float(value)
