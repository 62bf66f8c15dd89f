"""A task and the new one as two outputs of one process, over several correlations.

The task's process, fitted to its normal scores, says how smooth such losses are along each
parameter; the new task's values follow the same covariance and are correlated with the task's by an
unknown number (intrinsic coregionalisation: Bonilla, Chai & Williams, 2008; Swersky, Snoek & Adams,
2013). None is chosen: each correlation, and no correlation at all, weighs as much as it makes the
new values probable, for every task, and so does each of two transforms of the values. Improvements
are averaged with these weights. New values have a
scale and an offset of their own: the offset is estimated with the rest, the scale is the one at
which they vary as much as is expected of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp import _kernels as kernels
from qcluster.q_hpo.gp.acquisition import AveragedImprovement, Chance, LogImprovement, log_h
from qcluster.q_hpo.gp.model import GaussianProcess
from qcluster.q_hpo.gp.warping import warp

__all__ = ["Pair", "RelatedRule", "relate", "spread_over"]

F = NDArray[np.float64]
CORRELATIONS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
# Log odds of no correlation against each of the others.
_UNRELATED = -3.0
# Values are compressed by these powers (``warping.py``); both are averaged over too.
_POWERS = (0.0, 0.5)
# Variance of what neither the task nor smoothness explains, at least: transforms bend the values.
_NOISE = 0.05
_DRAWS = 256
_NEGLIGIBLE = math.log(1e-3)


@dataclass(frozen=True)
class Pair:
    """A task's process and the new values at ``x`` (n, columns), correlated by ``correlation``.

    ``half`` (rows, n): the task's Cholesky factor applied to its covariance with ``x``. ``lower``
    (n, n), ``alpha`` (n,), ``mean``: the new values given the task, times ``scale``. ``best`` is
    the lowest of them, ``log_weight`` how probable they are, as they were before the scale.
    """

    task: GaussianProcess
    x: F
    correlation: float
    half: F
    lower: F
    alpha: F
    mean: float
    scale: float
    best: float
    log_weight: float

    def moments(self, near: F, towards: F, task_mean: F, spread: F) -> tuple[F, F]:
        """Mean and standard deviation (m,) from what all correlations share: covariances with
        ``x`` (m, n), the task's factor applied to its covariances (rows, m), the task's own mean
        without its constant (m,) and the prior variance (m,).
        """
        from scipy.linalg import solve_triangular

        rho = self.correlation
        k = near - rho**2 * (towards.T @ self.half)
        rest = solve_triangular(self.lower, k.T, lower=True)
        variance = spread - rho**2 * (towards * towards).sum(axis=0) - (rest * rest).sum(axis=0)
        return self.mean + rho * task_mean + k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))

    @cached_property
    def process(self) -> GaussianProcess:
        """The same as a plain process on the rows of both, for its slopes.

        A row of the task has the correlation times the kernel as its covariance; the factor and
        the weights are divided and multiplied by it in the kernel's place.
        """
        from scipy.linalg import solve_triangular

        task, rho, n = self.task, self.correlation, len(self.x)
        if rho == 0:
            y = np.zeros(n)
            return GaussianProcess(
                self.x, y, task.theta, task.form, self.mean, self.lower, self.alpha
            )
        rows = len(task.x)
        lower = np.zeros((rows + n, rows + n))
        lower[:rows, :rows] = task.lower / rho
        lower[rows:, :rows] = rho * self.half.T
        lower[rows:, rows:] = self.lower
        back = solve_triangular(task.lower.T, self.half @ self.alpha, lower=False)
        alpha = np.concatenate([rho * task.alpha - rho**2 * back, self.alpha])
        return GaussianProcess(
            np.vstack([task.x, self.x]), np.zeros(rows + n), task.theta, task.form, self.mean,
            lower, alpha,
        )  # fmt: skip


@dataclass(frozen=True)
class RelatedRule:
    """log of the mean expected improvement over ``pairs``, plus the log probability of success.

    ``loss`` is the negative log likelihood of the new values.
    """

    pairs: tuple[Pair, ...]
    loss: float
    chance: Chance | None = None

    @cached_property
    def _log_weights(self) -> F:
        weights = np.array([pair.log_weight for pair in self.pairs])
        return np.asarray(weights - np.logaddexp.reduce(weights))

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns)."""
        terms: list[F] = []
        shared: tuple[F, F, F, F] | None = None
        task = None
        for pair, weight in zip(self.pairs, self._log_weights, strict=True):
            if pair.task is not task:
                task, shared = pair.task, _shared(pair.task, pair.x, features)
            if weight > _NEGLIGIBLE and shared is not None:
                mean, sd = pair.moments(*shared)
                z = (pair.best - mean) / sd
                terms.append(np.log(sd) + log_h(z) - math.log(pair.scale) + weight)
        out: F = np.logaddexp.reduce(terms, axis=0)
        return out if self.chance is None else out + self.chance.log_chance(features)

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient."""
        value, gradient = self._average.slope(features)
        if self.chance is None:
            return value, gradient
        more, slope = self.chance.log_chance_slope(features)
        return value + more, gradient + slope

    @cached_property
    def _average(self) -> AveragedImprovement:
        kept = [k for k, weight in enumerate(self._log_weights) if weight > _NEGLIGIBLE]
        rules = tuple(LogImprovement(self.pairs[k].process, self.pairs[k].best) for k in kept)
        scales = np.log([self.pairs[k].scale for k in kept])
        return AveragedImprovement(rules, self._log_weights[kept] - scales)


def relate(
    tasks: tuple[GaussianProcess, ...], x: F, values: F, pending: F, chance: Chance | None = None
) -> RelatedRule:
    """The rule after ``values`` (n,), n >= 1, at ``x`` (n, columns); running trials at ``pending``
    (m, columns) count as measured at their prediction.
    """
    odds = np.array([_UNRELATED if rho == 0 else 0.0 for rho in CORRELATIONS])
    odds -= np.logaddexp.reduce(odds) + math.log(len(tasks) * len(_POWERS))
    warped = [warp(values, power) for power in _POWERS]
    pairs: list[Pair] = []
    for task in tasks:
        scale, weights, _ = task.form.expand(task.theta, task.x.shape[1])
        rows = np.vstack([x, pending])
        near = kernels.cross(rows, rows, scale, task.form.shape, weights)
        half, mean = _towards(task, rows)
        for rho, odd in zip(CORRELATIONS, odds, strict=True):
            covariance = (
                near - rho**2 * (half.T @ half) + max(task.noise, _NOISE) * np.eye(len(rows))
            )
            pairs += [
                _pair(task, rows, y, rho, covariance, half, mean, odd + jacobian)
                for y, jacobian in warped
            ]
    loss = -float(np.logaddexp.reduce([pair.log_weight for pair in pairs]))
    return RelatedRule(tuple(pairs), loss, chance)


def _pair(
    task: GaussianProcess, rows: F, y: F, rho: float, covariance: F, half: F, mean: F, odds: float
) -> Pair:
    """One correlation; ``rows`` (n + m, columns) are those of ``y`` (n,) and of running trials."""
    from scipy.linalg import cho_solve, cholesky

    n = len(y)
    own, guess = covariance[:n, :n], rho * mean[:n]
    expected = (np.trace(own) - own.sum() / n) / n + float(guess.var())
    sd = float(y.std())
    scale = math.sqrt(expected) / sd if sd > 0 and expected > 0 else 1.0
    lower = cholesky(own, lower=True)
    ones, left = cho_solve((lower, True), np.column_stack([np.ones(n), scale * y - guess])).T
    offset = float(left.sum() / ones.sum())
    alpha = left - offset * ones
    residual = scale * y - guess - offset
    likelihood = -0.5 * float(residual @ alpha) - float(np.log(np.diag(lower)).sum())
    likelihood += n * (math.log(scale) - 0.5 * math.log(2 * math.pi))
    # What is observed where it was predicted changes the spread only.
    full = np.concatenate([alpha, np.zeros(len(rows) - n)])
    return Pair(
        task=task, x=rows, correlation=rho, half=half, lower=cholesky(covariance, lower=True),
        alpha=full, mean=offset, scale=scale, best=float(scale * y.min()),
        log_weight=likelihood + odds,
    )  # fmt: skip


def _towards(task: GaussianProcess, points: F) -> tuple[F, F]:
    """The task's factor applied to its covariance with ``points`` (m, columns), (rows, m), and its
    mean there without the constant, (m,).
    """
    from scipy.linalg import solve_triangular

    scale, weights, _ = task.form.expand(task.theta, task.x.shape[1])
    k = kernels.cross(points, task.x, scale, task.form.shape, weights)
    return solve_triangular(task.lower, k.T, lower=True), k @ task.alpha


def _shared(task: GaussianProcess, x: F, points: F) -> tuple[F, F, F, F]:
    """What ``Pair.moments`` asks for."""
    scale, weights, _ = task.form.expand(task.theta, task.x.shape[1])
    near = kernels.cross(points, x, scale, task.form.shape, weights)
    spread = kernels.diagonal(points, scale, task.form.shape, weights)
    return near, *_towards(task, points), spread


def spread_over(
    tasks: tuple[GaussianProcess, ...], points: F, count: int, rng: np.random.Generator
) -> list[int]:
    """Indices of ``count`` of the ``points`` (m, columns) to try first: each lowers the expected
    minimum over those chosen so far by most, over draws of what a related task may be.
    """
    draws: list[F] = []
    related = [rho for rho in CORRELATIONS if rho > 0]
    each = max(1, _DRAWS // (len(related) * len(tasks)))
    for task in tasks:
        scale, weights, _ = task.form.expand(task.theta, task.x.shape[1])
        prior = kernels.covariance(points, scale, task.form.shape, weights, 0.0)
        half, mean = _towards(task, points)
        for rho in related:
            values, vectors = np.linalg.eigh(prior - rho**2 * (half.T @ half))
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            draws.append((rho * mean)[:, None] + root @ rng.normal(size=(len(points), each)))
    drawn = np.concatenate(draws, axis=1)
    lowest = np.full(drawn.shape[1], np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(points))):
        expected = np.minimum(drawn, lowest).mean(axis=1)
        expected[chosen] = np.inf
        chosen.append(int(np.argmin(expected)))
        lowest = np.minimum(lowest, drawn[chosen[-1]])
    return chosen
