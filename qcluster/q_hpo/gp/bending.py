"""Kumaraswamy transforms of parameters: w(x) = 1 - (1 - x^a)^b, one pair (a, b) per column.

They bend an axis whose parameter acts on another scale than it is given on (Snoek, Swersky, Zemel
& Adams, 2014). Each column takes the pair of a short list with the highest posterior density of
the values, one column after the other, with the prior log a, log b ~ N(0, 0.75^2).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp.acquisition import Rule
from qcluster.q_hpo.gp.model import GaussianProcess, negative_log_posterior

__all__ = ["Bending", "BentRule"]

F = NDArray[np.float64]
_EXPONENTS = (0.5, 1.0, 2.0)
_SPREAD, _EDGE, _GAIN = 0.75, 1e-6, 0.5


@dataclass(frozen=True)
class Bending:
    """Exponents a and b (columns,)."""

    a: F
    b: F

    @classmethod
    def none(cls, columns: int) -> Bending:
        """The identity."""
        return cls(np.ones(columns), np.ones(columns))

    def __call__(self, x: F) -> F:
        """``x`` (m, columns) in [0, 1], bent."""
        inside = np.clip(x, _EDGE, 1 - _EDGE)
        out: F = 1.0 - (1.0 - inside**self.a) ** self.b
        return out

    def slope(self, x: F) -> F:
        """dw/dx, of the shape of ``x``."""
        inside = np.clip(x, _EDGE, 1 - _EDGE)
        up = inside**self.a
        out: F = self.a * self.b * up / inside * (1.0 - up) ** (self.b - 1.0)
        return out

    @property
    def penalty(self) -> float:
        """Negative log prior density, 0 for the identity."""
        logs = np.concatenate([np.log(self.a), np.log(self.b)])
        return float(0.5 * (logs**2).sum() / _SPREAD**2)

    def improved(self, x: F, model: GaussianProcess) -> Bending:
        """From here column by column the pair that explains the values of ``model``, whose inputs
        were the columns of ``x`` (n, columns), best under its hyperparameters.
        """

        def loss(one: Bending) -> float:
            return negative_log_posterior(model.theta, one(x), model.y, model.form)[0] + one.penalty

        best, low = self, loss(self)
        for column in range(x.shape[1]):
            if len(np.unique(x[:, column])) < 4:
                continue
            for pair in itertools.product(_EXPONENTS, repeat=2):
                a, b = best.a.copy(), best.b.copy()
                a[column], b[column] = pair
                new = Bending(a, b)
                value = loss(new)
                if math.isfinite(value) and value < low - _GAIN:
                    best, low = new, value
        return best


@dataclass(frozen=True)
class BentRule:
    """An acquisition of bent features, as a function of the straight ones."""

    rule: Rule
    bending: Bending

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns)."""
        return self.rule.score(self.bending(features))

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient."""
        value, gradient = self.rule.slope(self.bending(features[None])[0])
        return value, gradient * self.bending.slope(features[None])[0]
