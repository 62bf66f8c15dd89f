"""The Gaussian process searcher: Sobol design, model choice by posterior, log expected improvement.

Models differ in kernel shape, lengths, trend and the power that the values are transformed by; the
one with the highest posterior density (with the transform's Jacobian) proposes. Running trials
count as measured at their predicted value (kriging believer), so that a batch spreads. Failed
trials never get an invented value: a second process learns where trials fail, and its log
probability of success is added to the acquisition (Gardner et al., 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import GPConfig
from qcluster.q_hpo.gp._kernels import MATERN, RBF
from qcluster.q_hpo.gp.acquisition import LogImprovement
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.model import Form, GaussianProcess, condition, fit, start_theta
from qcluster.q_hpo.gp.optimize import maximize
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import Proposal, SobolStrategy, View

__all__ = ["GPStrategy"]

F = NDArray[np.float64]
# Beyond this many observations hyperparameters are refitted at every k-th only.
_ALWAYS = 100
_FRESH_START = 10


@dataclass(frozen=True)
class Fitted:
    """A model, the power its values were transformed by, and its negative log posterior."""

    model: GaussianProcess
    power: float
    loss: float


class GPStrategy:
    """Proposes points for a ``Study``; see ``GPConfig``."""

    def __init__(self, config: GPConfig | None = None) -> None:
        self.config = config or GPConfig()
        self._thetas: dict[str, list[float]] = {}
        self._design = SobolStrategy()

    def propose(self, view: View) -> Proposal:
        ok = view.ok
        if view.number < self.config.design or ok.sum() < 2 or np.ptp(view.values[ok]) == 0:
            return Proposal(self._design.propose(view).point, "gp")
        rule = self.acquisition(view)
        best = np.argsort(view.values[ok], kind="stable")[:3]
        return Proposal(maximize(view, rule, view.points[ok][best]), "gp")

    def acquisition(self, view: View) -> LogImprovement:
        """The rule that is maximised for ``view``."""
        chosen = self.fitted(view)[0].model
        incumbent = float(chosen.y.min())
        if len(view.pending):
            chosen = believed(chosen, view.space.features(view.pending))
        return LogImprovement(chosen, incumbent, self._feasibility(view))

    def fitted(self, view: View) -> list[Fitted]:
        """All models of the successful trials, best first."""
        ok = view.ok
        x = view.space.features(view.points[ok])
        found = []
        for power in POWERS if self.config.output_warping else POWERS[:1]:
            y, jacobian = warp(view.values[ok], power)
            for form in self.forms():
                model, loss = self._fit(form, power, x, y)
                found.append(Fitted(model, power, loss - jacobian))
        return sorted(found, key=lambda one: one.loss)

    def forms(self) -> list[Form]:
        """The kinds of model that are compared."""
        shapes = {"auto": (MATERN, RBF), "matern": (MATERN,), "rbf": (RBF,)}[self.config.kernel]
        trend = self.config.trend
        return [
            *(Form(shape, ard=False, trend=trend) for shape in shapes),
            Form(shapes[0], ard=True, trend=trend),
        ]

    def _fit(self, form: Form, power: float, x: F, y: F) -> tuple[GaussianProcess, float]:
        n, d = x.shape
        key = f"{form.shape}{form.ard:d}{form.trend:d}/{power:g}/{d}"
        known = self._thetas.get(key)
        starts = [] if known is None else [np.array(known)]
        if known is None or (n % _FRESH_START == 0 and n <= _ALWAYS):
            starts.append(start_theta(form, d))
        iterations = 60 if n <= _ALWAYS or known is None else 5
        model, loss = fit(x, y, form, starts, iterations)
        self._thetas[key] = model.theta.tolist()
        return model, loss

    def _feasibility(self, view: View) -> Feasibility | None:
        if view.ok.all():
            return None
        return Feasibility.fit(view.space.features(view.points), view.ok)

    def state(self) -> dict[str, Any]:
        """Hyperparameters that the next fit starts from."""
        return {"thetas": {name: list(theta) for name, theta in self._thetas.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._thetas = {name: list(theta) for name, theta in state["thetas"].items()}


def believed(model: GaussianProcess, x: F) -> GaussianProcess:
    """The model after observing its own prediction at ``x`` (m, columns)."""
    mean, _ = model.predict(x)
    return condition(
        np.vstack([model.x, x]), np.concatenate([model.y, mean]), model.theta, model.form
    )
