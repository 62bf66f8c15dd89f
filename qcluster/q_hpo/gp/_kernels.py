"""Numba kernels of the Gaussian process: covariance, likelihood gradient, slopes at a point.

The covariance of two points of the unit cube is a stationary part and a quadratic trend:

    k(x, y) = w0 s(r2) + w1 u.v / d + w2 |u|^2 |v|^2 / d^2 + w3 sum u_k^2 v_k^2 / d + w4 (u.v)^2 / d

with r2 = sum_k (scale_k (x_k - y_k))^2, u = 2x - 1, v = 2y - 1. Shape 0 is the squared exponential
s = exp(-r2/2), shape 1 Matern-5/2 s = (1 + a + a^2/3) exp(-a), a = sqrt(5 r2). The trend is a
Bayesian linear model of slopes, of one common curvature, of a curvature per axis and of all
quadratic terms, each group with its own weight. ``scale`` (d,) are inverse length scales,
``weights`` (5,). All is float64. The twins in plain NumPy are in the tests.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

F = NDArray[np.float64]
RBF, MATERN = 0, 1


@numba.njit(cache=True)
def _stationary(r2: float, shape: int) -> float:
    if shape == 0:
        return math.exp(-0.5 * r2)
    a = math.sqrt(5.0 * r2)
    return (1.0 + a + a * a / 3.0) * math.exp(-a)


@numba.njit(cache=True)
def _slope(r2: float, shape: int) -> float:
    """-2 ds/d(r2): what multiplies (scale_k (x_k - y_k))^2 in the gradient of log lengths."""
    if shape == 0:
        return math.exp(-0.5 * r2)
    a = math.sqrt(5.0 * r2)
    return 5.0 / 3.0 * (1.0 + a) * math.exp(-a)


@numba.njit(cache=True, fastmath={"reassoc", "contract"})
def _moments(x: F, i: int, y: F, j: int, scale: F) -> tuple[float, float, float, float, float]:
    """r2, u.v, |u|^2, |v|^2, sum u_k^2 v_k^2 of row i of ``x`` and row j of ``y``."""
    r2, uv, uu, vv, squares = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(scale.size):
        step = (x[i, k] - y[j, k]) * scale[k]
        r2 += step * step
        u, v = 2.0 * x[i, k] - 1.0, 2.0 * y[j, k] - 1.0
        uv += u * v
        uu += u * u
        vv += v * v
        squares += u * u * v * v
    return r2, uv, uu, vv, squares


@numba.njit(cache=True)
def _pair(x: F, i: int, y: F, j: int, scale: F, shape: int, w: F) -> float:
    d = scale.size
    r2, uv, uu, vv, squares = _moments(x, i, y, j, scale)
    trend = w[1] * uv / d + w[2] * uu * vv / (d * d) + w[3] * squares / d + w[4] * uv * uv / d
    out: float = w[0] * _stationary(r2, shape) + trend
    return out


@numba.njit(cache=True)
def covariance(x: F, scale: F, shape: int, weights: F, noise: float) -> F:
    """(n, n) covariance of the rows of ``x`` (n, d) with ``noise`` on the diagonal."""
    n = x.shape[0]
    out = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            value = _pair(x, i, x, j, scale, shape, weights)
            out[i, j] = value
            out[j, i] = value
        out[i, i] += noise
    return out


@numba.njit(cache=True)
def cross(x: F, y: F, scale: F, shape: int, weights: F) -> F:
    """(m, n) covariance between the rows of ``x`` (m, d) and of ``y`` (n, d)."""
    m, n = x.shape[0], y.shape[0]
    out = np.empty((m, n))
    for i in range(m):
        for j in range(n):
            out[i, j] = _pair(x, i, y, j, scale, shape, weights)
    return out


@numba.njit(cache=True)
def diagonal(x: F, scale: F, shape: int, weights: F) -> F:
    """(m,) prior variance at the rows of ``x`` (m, d)."""
    out = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        out[i] = _pair(x, i, x, i, scale, shape, weights)
    return out


@numba.njit(cache=True)
def contract(x: F, scale: F, shape: int, weights: F, inverse: F, alpha: F) -> F:
    """Gradient of the negative log likelihood by log lengths (d,) and log weights (5,).

    0.5 trace((inverse - alpha alpha') dK); ``inverse`` (n, n) is the inverse covariance, of which
    the lower triangle is read, ``alpha`` (n,) inverse times residual.
    """
    n, d = x.shape
    out = np.zeros(d + 5)
    for i in range(n):
        for j in range(i + 1):
            r2, uv, uu, vv, squares = _moments(x, i, x, j, scale)
            g = inverse[i, j] - alpha[i] * alpha[j]
            if i == j:
                g *= 0.5
            out[d] += g * weights[0] * _stationary(r2, shape)
            out[d + 1] += g * weights[1] * uv / d
            out[d + 2] += g * weights[2] * uu * vv / (d * d)
            out[d + 3] += g * weights[3] * squares / d
            out[d + 4] += g * weights[4] * uv * uv / d
            g *= weights[0] * _slope(r2, shape)
            for k in range(d):
                step = (x[i, k] - x[j, k]) * scale[k]
                out[k] += g * step * step
    return out


@numba.njit(cache=True)
def moments_at(
    point: F, x: F, scale: F, shape: int, w: F, lower: F, alpha: F
) -> tuple[float, float, F, F]:
    """Posterior mean (without the constant) and variance at ``point`` (d,), and their gradients.

    ``lower`` (n, n), row-major: Cholesky factor of the covariance of the rows of ``x``;
    ``alpha`` (n,): inverse covariance times residual.
    """
    n, d = x.shape
    at = point.reshape(1, d)
    half = np.empty(n)
    mean = 0.0
    for i in range(n):
        value = _pair(at, 0, x, i, scale, shape, w)
        mean += value * alpha[i]
        for j in range(i):
            value -= lower[i, j] * half[j]
        half[i] = value / lower[i, i]
    variance = _pair(at, 0, at, 0, scale, shape, w)
    for i in range(n):
        variance -= half[i] * half[i]
    for i in range(n - 1, -1, -1):
        half[i] /= lower[i, i]
        for j in range(i):
            half[j] -= lower[i, j] * half[i]
    d_mean, d_variance = np.zeros(d), np.zeros(d)
    for i in range(n):
        r2, uv, _uu, vv, _squares = _moments(at, 0, x, i, scale)
        slope = w[0] * _slope(r2, shape)
        for k in range(d):
            u, v = 2.0 * point[k] - 1.0, 2.0 * x[i, k] - 1.0
            g = -slope * (point[k] - x[i, k]) * scale[k] * scale[k]
            g += 2.0 * w[1] * v / d + 4.0 * w[2] * u * vv / (d * d)
            g += 4.0 * w[3] * u * v * v / d + 4.0 * w[4] * uv * v / d
            d_mean[k] += g * alpha[i]
            d_variance[k] -= 2.0 * g * half[i]
    own = _moments(at, 0, at, 0, scale)
    for k in range(d):
        u = 2.0 * point[k] - 1.0
        d_variance[k] += 4.0 * w[1] * u / d + 8.0 * w[2] * own[2] * u / (d * d)
        d_variance[k] += 8.0 * w[3] * u**3 / d + 8.0 * w[4] * own[2] * u / d
    return mean, variance, d_mean, d_variance
