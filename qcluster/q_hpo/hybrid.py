"""Two arms, circuits and Gaussian process: each proposal comes from the one that predicts better.

Before a proposal both models predict every value from all the others (leave-one-out, in closed
form: Rasmussen & Williams, 2006, section 5.4.2); the arm with the larger log density of the values
on their original scale proposes. That is a bandit which needs no pulls to learn an arm's worth, in
the spirit of GP-Hedge (Hoffman, Brochu & de Freitas, 2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import GPConfig, HybridConfig, VQCConfig
from qcluster.q_hpo.gp.search import GPStrategy
from qcluster.q_hpo.gp.warping import warp
from qcluster.q_hpo.strategy import Proposal, View
from qcluster.q_hpo.vqc.search import VQCStrategy

__all__ = ["HybridStrategy", "left_out_density"]

F = NDArray[np.float64]


class HybridStrategy:
    """Proposes points for a ``Study``; see ``HybridConfig``."""

    def __init__(self, config: HybridConfig | None = None) -> None:
        self.config = config or HybridConfig()
        self.gp = GPStrategy(GPConfig())
        self.vqc = VQCStrategy(VQCConfig())

    def propose(self, view: View) -> Proposal:
        values = view.values[view.ok]
        if view.number < self.gp.config.design or len(values) < 2 or np.ptp(values) == 0:
            return self.gp.propose(view)
        if self.config.alternate:
            early = view.number < self.config.early
            return (self.vqc if early and view.number % 2 == 0 else self.gp).propose(view)
        process, circuits = self.gp.fitted(view)[0], self.vqc.fitted(view)
        better = left_out_density(
            circuits.model.lower, circuits.model.alpha, values, circuits.power
        ) > left_out_density(process.model.lower, process.model.alpha, values, process.power)
        return (self.vqc if better else self.gp).propose(view)

    def state(self) -> dict[str, Any]:
        """States of both arms."""
        both = {"gp": self.gp.state(), "vqc": self.vqc.state()}
        return both if any(both.values()) else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        for arm, name in ((self.gp, "gp"), (self.vqc, "vqc")):
            if state[name]:
                arm.restore(state[name])


def left_out_density(lower: F, alpha: F, values: F, power: float) -> float:
    """Log density of ``values`` (n,), each predicted from the others, before their transform.

    ``lower`` (n, n): Cholesky factor of the covariance of the transformed values, noise included;
    ``alpha`` (n,): inverse covariance times residual.
    """
    from scipy.linalg import solve_triangular

    root = solve_triangular(lower, np.eye(len(values)), lower=True)
    precision = (root * root).sum(axis=0)
    terms = 0.5 * np.log(precision) - 0.5 * alpha**2 / precision
    _, jacobian = warp(values, power)
    return float(terms.sum()) - 0.5 * len(values) * math.log(2 * math.pi) + jacobian
