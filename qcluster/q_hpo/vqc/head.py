"""A Bayesian linear head on feature maps: closed posterior, prior widths by evidence.

Weights of each group of features (the map's own, slopes, curvatures, products) are normal with a
width of their own; widths and noise maximise the evidence (MacKay, 1992). It is computed in the
space of observations, where each group is one n x n matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.vqc.features import FeatureMap

__all__ = ["LinearHead", "condition_head", "fit_head", "groups_of"]

F = NDArray[np.float64]


def groups_of(features: F, x: F) -> list[F]:
    """The groups (m, k_g): the map's features, and slopes, common and own curvatures, products."""
    d = x.shape[1]
    u = 2 * x - 1
    above = np.triu_indices(d, 1)
    products = math.sqrt(2 / d) * u[:, above[0]] * u[:, above[1]]
    squares = u * u
    return [
        features,
        u / math.sqrt(d),
        squares.sum(axis=1, keepdims=True) / d,
        squares / math.sqrt(d),
        products if products.shape[1] else np.zeros((len(x), 1)),
    ]


@dataclass(frozen=True)
class LinearHead:
    """A fitted head on ``feature_map`` at ``scale``; predicts as the Gaussian processes do."""

    feature_map: FeatureMap
    scale: float
    groups: list[F]
    widths: F
    noise: float
    y: F
    mean: float
    lower: F
    alpha: F
    loss: float

    @cached_property
    def _wide(self) -> tuple[F, F]:
        """All features (n, k) and the prior width of each (k,)."""
        sizes = [group.shape[1] for group in self.groups]
        return np.hstack(self.groups), np.repeat(self.widths, sizes)

    def predict(self, points: F) -> tuple[F, F]:
        """Mean and standard deviation (without noise) at the rows of ``points`` (m, columns)."""
        from scipy.linalg import solve_triangular

        known, widths = self._wide
        ours = np.hstack(groups_of(self.feature_map(points, self.scale), points))
        k = (ours * widths) @ known.T
        half = solve_triangular(self.lower, k.T, lower=True, check_finite=False)
        variance = (ours * ours) @ widths - np.einsum("ij,ij->j", half, half)
        return self.mean + k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))


def fit_head(
    feature_map: FeatureMap, scale: float, x: F, y: F, start: F | None = None
) -> tuple[LinearHead, F]:
    """The head with the highest posterior density of its widths, and their logarithms (6,)."""
    from scipy.optimize import minimize

    groups = groups_of(feature_map(x, scale), x)
    grams = np.array([group @ group.T for group in groups] + [np.eye(len(y))])
    centre = np.array([0.5, -1.0, -1.0, -1.0, -1.0, -5.0])
    spread = np.array([1.5, 3.0, 3.0, 3.0, 3.0, 1.5])
    found = minimize(
        _loss, centre if start is None else start,
        (grams.reshape(len(grams), -1), y, centre, spread), jac=True, method="L-BFGS-B",
        bounds=[(-12.0, 9.0)] * 5 + [(math.log(1e-6), 0.0)],
        options={"maxiter": 40 if start is None else 15, "ftol": 1e-6},
    )  # fmt: skip
    widths = np.exp(found.x)
    lower, mean, alpha = _solve(np.tensordot(widths, grams, 1), y)
    head = LinearHead(
        feature_map, scale, groups, widths[:-1], float(widths[-1]), y, mean, lower, alpha,
        float(found.fun),
    )  # fmt: skip
    return head, found.x


def condition_head(head: LinearHead, x: F) -> LinearHead:
    """The head after observing its own prediction at ``x`` (m, columns)."""
    more = groups_of(head.feature_map(x, head.scale), x)
    groups = [np.vstack(pair) for pair in zip(head.groups, more, strict=True)]
    y = np.concatenate([head.y, head.predict(x)[0]])
    covariance = head.noise * np.eye(len(y))
    for width, group in zip(head.widths, groups, strict=True):
        covariance += width * group @ group.T
    lower, mean, alpha = _solve(covariance, y)
    return replace(head, groups=groups, y=y, mean=mean, lower=lower, alpha=alpha)


def _solve(covariance: F, y: F) -> tuple[F, float, F]:
    from scipy.linalg import cho_solve, cholesky

    jitter = 0.0
    while True:
        try:
            lower = cholesky(covariance + jitter * np.eye(len(y)), lower=True)
            break
        except np.linalg.LinAlgError:
            jitter = max(10 * jitter, 1e-8)
    ones = cho_solve((lower, True), np.ones(len(y)))
    mean = float(ones @ y / ones.sum())
    return lower, mean, cho_solve((lower, True), y - mean)


def _loss(theta: F, grams: F, y: F, centre: F, spread: F) -> tuple[float, F]:
    """Negative log posterior of log widths and log noise (6,); ``grams`` (6, n * n)."""
    from scipy.linalg.blas import dsymv
    from scipy.linalg.lapack import dpotrf, dpotri

    n = len(y)
    widths = np.exp(theta)
    lower, failed = dpotrf((widths @ grams).reshape(n, n), lower=1)
    if failed:
        return 1e25, np.zeros(theta.size)
    inverse, _ = dpotri(lower, lower=1)
    column = dsymv(1.0, inverse, np.ones(n), lower=1)
    residual = y - float(column @ y) / float(column.sum())
    alpha = dsymv(1.0, inverse, residual, lower=1)
    gap = (theta - centre) / spread
    value = 0.5 * float(residual @ alpha) + float(np.log(np.diag(lower)).sum())
    value += 0.5 * n * math.log(2 * math.pi) + 0.5 * float(gap @ gap)
    # Of the symmetric inverse only one triangle is filled: twice that, the diagonal once.
    weight = 2.0 * np.tril(inverse) - np.diag(np.diag(inverse)) - np.outer(alpha, alpha)
    gradient = 0.5 * widths * (grams @ weight.ravel()) + gap / spread
    return value, gradient
