"""Log expected improvement, accurate in the far tail, and its slope.

log EI(x) = log sd + log h(z), z = (best - mean) / sd, h(z) = phi(z) + z Phi(z) (Ament, Daulton,
Eriksson, Balandat & Bakshy, 2023). Improvement is towards smaller values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, ndtr

__all__ = [
    "AveragedImprovement",
    "Improvement",
    "LogImprovement",
    "Rule",
    "expected_improvement",
    "log_h",
    "log_h_slope",
]

F = NDArray[np.float64]
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def log_h(z: F) -> F:
    """log(phi(z) + z Phi(z)) for any finite z."""
    z = np.asarray(z, float)
    out = np.empty_like(z)
    high = z > -1.0
    top = z[high]
    out[high] = np.log(np.exp(-0.5 * top * top - _LOG_ROOT_2PI) + top * ndtr(top))
    low = -z[~high]
    out[~high] = -0.5 * low * low - _LOG_ROOT_2PI + np.log(_tail(low))
    return out


def log_h_slope(z: F) -> F:
    """Derivative of ``log_h``: Phi(z) / h(z)."""
    z = np.asarray(z, float)
    out = np.empty_like(z)
    high = z > -1.0
    top = z[high]
    out[high] = ndtr(top) / (np.exp(-0.5 * top * top - _LOG_ROOT_2PI) + top * ndtr(top))
    low = -z[~high]
    out[~high] = _mills(low) / _tail(low)
    return out


def _log_h_and_slope(z: float) -> tuple[float, float]:
    """Both at one point, without arrays."""
    if z > -1.0:
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        h = math.exp(-0.5 * z * z - _LOG_ROOT_2PI) + z * below
        return math.log(h), below / h
    low = -z
    mills = math.sqrt(math.pi / 2) * float(erfcx(low / math.sqrt(2)))
    if low > 50.0:
        tail = (1.0 - 3.0 / low**2 + 15.0 / low**4 - 105.0 / low**6) / low**2
    else:
        tail = 1.0 - low * mills
    return -0.5 * low * low - _LOG_ROOT_2PI + math.log(tail), mills / tail


def _mills(low: F) -> F:
    out: F = math.sqrt(math.pi / 2) * erfcx(low / math.sqrt(2))
    return out


def _tail(low: F) -> F:
    """1 - low * Mills(low), by its series where the difference loses digits."""
    series = (1.0 - 3.0 / low**2 + 15.0 / low**4 - 105.0 / low**6) / low**2
    return np.where(low > 50.0, series, 1.0 - low * _mills(low))


def expected_improvement(mean: F, sd: F, best: float) -> F:
    """The formula itself (Jones, Schonlau & Welch, 1998); zero where it underflows."""
    z = (best - mean) / sd
    out: F = sd * (np.exp(-0.5 * z * z - _LOG_ROOT_2PI) + z * ndtr(z))
    return np.maximum(out, 0.0)


class Predictor(Protocol):
    """What a score asks of a model."""

    def predict(self, points: F) -> tuple[F, F]:
        """Mean and standard deviation (m,) at ``points`` (m, columns)."""
        ...


class Posterior(Predictor, Protocol):
    """What a slope asks of a model."""

    def slopes(self, point: F) -> tuple[float, float, F, F]:
        """Mean, standard deviation and their gradients at one point."""
        ...


class Chance(Protocol):
    """A log probability that is added to the score."""

    def log_chance(self, points: F) -> F:
        """(m,) log probability of success."""
        ...

    def log_chance_slope(self, point: F) -> tuple[float, F]:
        """The same at one point, and its gradient."""
        ...


class Rule(Protocol):
    """A score of feature vectors, to be maximised."""

    def score(self, features: F) -> F:
        """(m,) scores of the rows of ``features`` (m, columns)."""
        ...

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient."""
        ...


@dataclass(frozen=True)
class LogImprovement:
    """log EI below ``best``, plus the log probability that the trial succeeds."""

    model: Predictor
    best: float
    chance: Chance | None = None

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns)."""
        mean, sd = self.model.predict(features)
        out: F = np.log(sd) + log_h((self.best - mean) / sd)
        return out if self.chance is None else out + self.chance.log_chance(features)

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient; the model must have slopes."""
        mean, sd, d_mean, d_sd = cast(Posterior, self.model).slopes(features)
        z = (self.best - mean) / sd
        log_value, rate = _log_h_and_slope(z)
        value = math.log(sd) + log_value
        gradient = (d_sd - rate * (d_mean + z * d_sd)) / sd
        if self.chance is not None:
            more, slope = self.chance.log_chance_slope(features)
            value, gradient = value + more, gradient + slope
        return value, gradient


@dataclass(frozen=True)
class AveragedImprovement:
    """log of the mean EI of several models of the same values, weighted by ``log_weights`` (k,)."""

    rules: tuple[LogImprovement, ...]
    log_weights: F

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns)."""
        each = [
            rule.score(features) + w for rule, w in zip(self.rules, self.log_weights, strict=True)
        ]
        return np.asarray(np.logaddexp.reduce(each, axis=0))

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient; the models must have slopes."""
        pairs = [rule.slope(features) for rule in self.rules]
        terms = np.array([value for value, _ in pairs]) + self.log_weights
        total = float(np.logaddexp.reduce(terms))
        return total, np.asarray(np.exp(terms - total) @ np.array([g for _, g in pairs]))


@dataclass(frozen=True)
class Improvement:
    """Expected improvement itself, times the probability of success, from its logarithm."""

    log: Rule

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns); zero where they underflow."""
        return np.asarray(np.exp(self.log.score(features)))

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient."""
        value, gradient = self.log.slope(features)
        return math.exp(value), math.exp(value) * gradient
