"""An exact Gaussian process in float64: fit by penalised likelihood, predict, and slopes.

The covariance is a stationary part and a quadratic trend (see ``_kernels.py``); a ``Form`` says
which parts a model has. Lengths have the prior LogNormal(sqrt(2) + log(d) / 2, sqrt(3)) (Hvarfner,
Hellsten & Nardi, 2024); the mean is a constant, estimated with the rest (generalised least
squares). Targets are expected standardised. It knows no output warping, no categories and no
failures: see ``warping.py``, ``features.py`` and ``feasibility.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp import _kernels as kernels

__all__ = ["Form", "GaussianProcess", "condition", "fit", "negative_log_posterior", "start_theta"]

F = NDArray[np.float64]
NOISE_FLOOR = 1e-6
TREND = 4


@dataclass(frozen=True)
class Form:
    """What a model is made of: ``shape`` 0 squared exponential or 1 Matern-5/2, one length per
    axis (``ard``) or one for all, with or without the quadratic ``trend``.
    """

    shape: int = kernels.MATERN
    ard: bool = True
    trend: bool = False

    def size(self, d: int) -> int:
        """Number of hyperparameters."""
        return (d if self.ard else 1) + 2 + (TREND if self.trend else 0)

    def expand(self, theta: F, d: int) -> tuple[F, F, float]:
        """Inverse lengths (d,), weights (5,) and noise variance of ``theta``.

        ``theta``: log lengths, log amplitude, [4 log trend weights], log noise variance.
        """
        lengths = d if self.ard else 1
        scale = np.exp(-theta[:lengths]) * np.ones(d)
        weights = np.zeros(5)
        weights[0] = math.exp(theta[lengths])
        if self.trend:
            weights[1:] = np.exp(theta[lengths + 1 : -1])
        return scale, weights, math.exp(theta[-1])

    def collapse(self, full: F, d: int) -> F:
        """Gradient by ``theta`` (without noise) from that by all d lengths and 5 weights."""
        lengths = full[:d] if self.ard else np.array([full[:d].sum()])
        return np.concatenate([lengths, full[d:] if self.trend else full[d : d + 1]])

    def prior(self, d: int) -> tuple[F, F]:
        """Centre and spread of the normal prior of ``theta``."""
        lengths = d if self.ard else 1
        trend = TREND if self.trend else 0
        centre = [math.sqrt(2) + 0.5 * math.log(d)] * lengths + [0.0] + [-1.0] * trend + [-5.0]
        spread = [math.sqrt(3)] * lengths + [1.5] + [3.0] * trend + [1.5]
        return np.array(centre), np.array(spread)

    def bounds(self, d: int) -> list[tuple[float, float]]:
        """Box of ``theta``."""
        lengths = d if self.ard else 1
        box = [(math.log(0.01), math.log(100.0))] * lengths + [(-5.0, 9.0)]
        box += [(-12.0, 9.0)] * (TREND if self.trend else 0)
        return [*box, (math.log(NOISE_FLOOR), 0.0)]


@dataclass(frozen=True)
class GaussianProcess:
    """A fitted process on inputs ``x`` (n, d) and targets ``y`` (n,)."""

    x: F
    y: F
    theta: F
    form: Form
    mean: float
    lower: F
    alpha: F

    @cached_property
    def _parts(self) -> tuple[F, F, float]:
        return self.form.expand(self.theta, self.x.shape[1])

    @property
    def noise(self) -> float:
        """Variance of the noise."""
        return self._parts[2]

    def predict(self, points: F) -> tuple[F, F]:
        """Mean and standard deviation (without noise) at the rows of ``points`` (m, d)."""
        from scipy.linalg.lapack import dtrtrs

        scale, weights, _ = self._parts
        k = kernels.cross(points, self.x, scale, self.form.shape, weights)
        # The transpose of a row-major lower factor is a column-major upper one: no copy.
        half = dtrtrs(self.lower.T, k.T, lower=0, trans=1)[0]
        prior = kernels.diagonal(points, scale, self.form.shape, weights)
        variance = prior - np.einsum("ij,ij->j", half, half)
        return self.mean + k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))

    def joint(self, points: F) -> tuple[F, F]:
        """Mean (m,) and covariance (m, m), without noise, at the rows of ``points`` (m, d)."""
        from scipy.linalg import solve_triangular

        scale, weights, _ = self._parts
        k = kernels.cross(points, self.x, scale, self.form.shape, weights)
        half = solve_triangular(self.lower, k.T, lower=True)
        prior = kernels.covariance(points, scale, self.form.shape, weights, 0.0)
        return self.mean + k @ self.alpha, prior - half.T @ half

    def slopes(self, point: F) -> tuple[float, float, F, F]:
        """Mean, standard deviation and their gradients (d,) at ``point`` (d,)."""
        scale, weights, _ = self._parts
        mean, variance, d_mean, d_variance = kernels.moments_at(
            point, self.x, scale, self.form.shape, weights, self.lower, self.alpha
        )
        sd = math.sqrt(max(variance, 1e-12))
        return self.mean + mean, sd, d_mean, 0.5 * d_variance / sd


def start_theta(form: Form, d: int) -> F:
    """Where a fit starts without history."""
    lengths = d if form.ard else 1
    start = [math.log(0.5 * math.sqrt(d))] * lengths + [0.0]
    return np.array(start + [-1.0] * (TREND if form.trend else 0) + [math.log(1e-3)])


def negative_log_posterior(theta: F, x: F, y: F, form: Form) -> tuple[float, F]:
    """The function that ``fit`` minimises, and its gradient by ``theta``."""
    from scipy.linalg.blas import dsymv
    from scipy.linalg.lapack import dpotrf, dpotri

    n, d = x.shape
    scale, weights, noise = form.expand(theta, d)
    lower, failed = dpotrf(kernels.covariance(x, scale, form.shape, weights, noise), lower=1)
    if failed:
        return 1e25, np.zeros(theta.size)
    inverse, _ = dpotri(lower, lower=1)
    column = dsymv(1.0, inverse, np.ones(n), lower=1)
    residual = y - float(column @ y) / float(column.sum())
    alpha = dsymv(1.0, inverse, residual, lower=1)
    value = 0.5 * float(residual @ alpha) + float(np.log(np.diag(lower)).sum())
    gradient = np.empty(theta.size)
    full = kernels.contract(x, scale, form.shape, weights, inverse, alpha)
    gradient[:-1] = form.collapse(full, d)
    gradient[-1] = 0.5 * noise * (float(np.trace(inverse)) - float(alpha @ alpha))
    centre, spread = form.prior(d)
    gap = (theta - centre) / spread
    value += 0.5 * n * math.log(2 * math.pi) + 0.5 * float(gap @ gap)
    return value, gradient + gap / spread


def fit(
    x: F, y: F, form: Form, starts: list[F], iterations: int = 60
) -> tuple[GaussianProcess, float]:
    """The best of local searches from ``starts`` and its negative log posterior."""
    from scipy.optimize import minimize

    best, best_value = starts[0], math.inf
    for start in starts:
        found = minimize(
            negative_log_posterior, start, (x, y, form), jac=True, method="L-BFGS-B",
            bounds=form.bounds(x.shape[1]), options={"maxiter": iterations, "ftol": 1e-6},
        )  # fmt: skip
        if found.fun < best_value:
            best, best_value = found.x, float(found.fun)
    return condition(x, y, best, form), best_value


def condition(x: F, y: F, theta: F, form: Form) -> GaussianProcess:
    """The process with these hyperparameters; noise grows until the covariance is positive."""
    from scipy.linalg.lapack import dpotrf, dpotrs

    scale, weights, noise = form.expand(theta, x.shape[1])
    while True:
        lower, failed = dpotrf(kernels.covariance(x, scale, form.shape, weights, noise), lower=1)
        if not failed:
            break
        noise *= 10.0
    ones = dpotrs(lower, np.ones(len(y)), lower=1)[0]
    mean = float(ones @ y) / float(ones.sum())
    alpha = dpotrs(lower, y - mean, lower=1)[0]
    return GaussianProcess(x, y, theta, form, mean, np.ascontiguousarray(lower), alpha)
