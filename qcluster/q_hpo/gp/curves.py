"""Values at several steps in one process: a configuration and how far it was trained.

The step enters as one more column, log(step) / log(full step), so that a value of an early step
informs the final ones as far as curves are alike (Swersky, Snoek & Adams, 2013). Improvement is
that of the final value below the lowest final mean among the configurations seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp.acquisition import Chance, LogImprovement, Rule
from qcluster.q_hpo.gp.model import Form, fit, start_theta
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import View

__all__ = ["AtFullStep", "curve_rule"]

F = NDArray[np.float64]
_FORM = Form(ard=True, trend=True)


@dataclass(frozen=True)
class AtFullStep:
    """A rule over feature vectors with a step, read at the full one, and a chance of success."""

    rule: Rule
    chance: Chance | None

    def score(self, features: F) -> F:
        """(m,) scores of feature vectors (m, columns)."""
        out = self.rule.score(_with(features, None))
        return out if self.chance is None else out + self.chance.log_chance(features)

    def slope(self, features: F) -> tuple[float, F]:
        """Score of one feature vector and its gradient."""
        value, gradient = self.rule.slope(np.append(features, 1.0))
        if self.chance is None:
            return value, gradient[:-1]
        more, slope = self.chance.log_chance_slope(features)
        return value + more, gradient[:-1] + slope


def curve_rule(
    view: View, thetas: dict[str, list[float]], chance: Chance | None
) -> AtFullStep | None:
    """The rule for ``view``, if it has curves; ``thetas`` keeps where the next fit starts."""
    if view.curves is None:
        return None
    points, shares, values = view.curves
    straight = view.space.features(points)
    x = _with(straight, shares)
    found = []
    for power in POWERS:
        y, jacobian = warp(values, power)
        name = f"curve/{power:g}/{x.shape[1]}"
        known = thetas.get(name)
        start = start_theta(_FORM, x.shape[1]) if known is None else np.array(known)
        model, loss = fit(x, y, _FORM, [start], 40 if known is None else 10)
        thetas[name] = model.theta.tolist()
        found.append((loss - jacobian, model))
    model = min(found, key=lambda pair: pair[0])[1]
    final = model.predict(_with(np.unique(straight, axis=0), None))[0]
    return AtFullStep(LogImprovement(model, float(final.min())), chance)


def _with(features: F, shares: F | None) -> F:
    column = np.ones(len(features)) if shares is None else shares
    return np.ascontiguousarray(np.column_stack([features, column]))
