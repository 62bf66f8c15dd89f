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


@numba.njit(cache=True)
def _moments(x: F, y: F, scale: F) -> tuple[float, float, float, float, float]:
    """r2, u.v, |u|^2, |v|^2, sum u_k^2 v_k^2."""
    r2, uv, uu, vv, squares = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(x.size):
        step = (x[k] - y[k]) * scale[k]
        r2 += step * step
        u, v = 2.0 * x[k] - 1.0, 2.0 * y[k] - 1.0
        uv += u * v
        uu += u * u
        vv += v * v
        squares += u * u * v * v
    return r2, uv, uu, vv, squares


@numba.njit(cache=True)
def _pair(x: F, y: F, scale: F, shape: int, w: F) -> float:
    d = x.size
    r2, uv, uu, vv, squares = _moments(x, y, scale)
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
            value = _pair(x[i], x[j], scale, shape, weights)
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
            out[i, j] = _pair(x[i], y[j], scale, shape, weights)
    return out


@numba.njit(cache=True)
def diagonal(x: F, scale: F, shape: int, weights: F) -> F:
    """(m,) prior variance at the rows of ``x`` (m, d)."""
    out = np.empty(x.shape[0])
    for i in range(x.shape[0]):
        out[i] = _pair(x[i], x[i], scale, shape, weights)
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
            r2, uv, uu, vv, squares = _moments(x[i], x[j], scale)
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
def cross_slope(point: F, x: F, scale: F, shape: int, w: F) -> F:
    """(n, d) derivative by ``point`` (d,) of its covariance with the rows of ``x`` (n, d)."""
    n, d = x.shape
    out = np.empty((n, d))
    for i in range(n):
        r2, uv, _uu, vv, _squares = _moments(point, x[i], scale)
        slope = w[0] * _slope(r2, shape)
        for k in range(d):
            u, v = 2.0 * point[k] - 1.0, 2.0 * x[i, k] - 1.0
            out[i, k] = -slope * (point[k] - x[i, k]) * scale[k] * scale[k]
            out[i, k] += 2.0 * w[1] * v / d + 4.0 * w[2] * u * vv / (d * d)
            out[i, k] += 4.0 * w[3] * u * v * v / d + 4.0 * w[4] * uv * v / d
    return out


@numba.njit(cache=True)
def diagonal_slope(point: F, w: F) -> F:
    """(d,) derivative by ``point`` (d,) of its own prior variance."""
    d = point.size
    uu = 0.0
    for k in range(d):
        uu += (2.0 * point[k] - 1.0) ** 2
    out = np.empty(d)
    for k in range(d):
        u = 2.0 * point[k] - 1.0
        out[k] = 4.0 * w[1] * u / d + 8.0 * w[2] * uu * u / (d * d)
        out[k] += 8.0 * w[3] * u**3 / d + 8.0 * w[4] * uu * u / d
    return out
