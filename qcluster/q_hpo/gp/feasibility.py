"""Where trials fail: a Gaussian process on success (1) and failure (0), read as a probability.

P(success) = Phi((m - 1/2) / sqrt(v + s^2)) with the process's mean m and variance v and label noise
s: a least-squares classifier (Rasmussen & Williams, 2006, section 6.5), which costs one fit and
has closed slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp._kernels import MATERN
from qcluster.q_hpo.gp.model import Form, GaussianProcess, fit, start_theta

__all__ = ["Feasibility"]

F = NDArray[np.float64]
_ROOT_2PI = math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Feasibility:
    """A fitted classifier. ``scale``: labels were (label - rate) / scale."""

    model: GaussianProcess
    rate: float
    scale: float
    noise: float

    @classmethod
    def fit(cls, x: F, ok: NDArray[np.bool_]) -> Feasibility:
        """From features (n, columns) and success (n,); a share of 0 or 1 is moved inside."""
        n = len(ok)
        rate = (float(ok.sum()) + 1.0) / (n + 2.0)
        scale = math.sqrt(rate * (1 - rate))
        form = Form(MATERN, ard=False)
        y = (ok.astype(float) - rate) / scale
        model, _ = fit(x, y, form, [start_theta(form, x.shape[1])], 30)
        noise = form.expand(model.theta, x.shape[1])[2]
        return cls(model, rate, scale, noise)

    def log_chance(self, points: F) -> F:
        """(m,) log probability of success at ``points`` (m, columns)."""
        from scipy.special import log_ndtr

        mean, sd = self.model.predict(points)
        out: F = log_ndtr((mean - self._half) / np.sqrt(sd * sd + self.noise))
        return out

    def log_chance_slope(self, point: F) -> tuple[float, F]:
        """The same at one point, and its gradient."""
        from scipy.special import log_ndtr

        mean, sd, d_mean, d_sd = self.model.slopes(point)
        width = math.sqrt(sd * sd + self.noise)
        z = (mean - self._half) / width
        value = float(log_ndtr(z))
        rate = math.exp(min(-0.5 * z * z - value, 700.0)) / _ROOT_2PI
        slope = rate * (d_mean / width - z * sd * d_sd / width**2)
        return value, slope

    @property
    def _half(self) -> float:
        return (0.5 - self.rate) / self.scale
