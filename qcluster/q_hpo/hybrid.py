"""Two arms, circuits and Gaussian process: each proposal comes from the one that predicts better.

Before a proposal both models predict every value from all the others (leave-one-out, in closed
form: Rasmussen & Williams, 2006, section 5.4.2), whichever arm proposed it; the arm with the larger
log density of the values on their original scale proposes. That is a bandit which needs no pulls to
learn an arm's worth, in the spirit of GP-Hedge (Hoffman, Brochu & de Freitas, 2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import GPConfig, HybridConfig, VQCConfig
from qcluster.q_hpo.gp.search import GPStrategy
from qcluster.q_hpo.gp.warping import log_slopes
from qcluster.q_hpo.strategy import Proposal, View
from qcluster.q_hpo.vqc.search import VQCStrategy

__all__ = ["HybridStrategy", "left_out_densities"]

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
        return (self.vqc if self._gain(view, values) > 0 else self.gp).propose(view)

    def _gain(self, view: View, values: F) -> float:
        """By how many nats the circuits' heads predict the values better than the process does."""
        process, circuits = self.gp.fitted(view)[0], self.vqc.fitted(view)
        heads = [
            weight + left_out_densities(head.lower, head.alpha, values, circuits.power)
            for head, weight in zip(circuits.heads, circuits.log_weights, strict=True)
        ]
        theirs = left_out_densities(process.model.lower, process.model.alpha, values, process.power)
        return float((np.logaddexp.reduce(heads, axis=0) - theirs).sum())

    def state(self) -> dict[str, Any]:
        """States of both arms."""
        both = {"gp": self.gp.state(), "vqc": self.vqc.state()}
        return both if any(both.values()) else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        for arm, name in ((self.gp, "gp"), (self.vqc, "vqc")):
            if state[name]:
                arm.restore(state[name])


def left_out_densities(lower: F, alpha: F, values: F, power: float) -> F:
    """Log densities (n,) of ``values``, each predicted from the others, before their transform.

    ``lower`` (n, n): Cholesky factor of the covariance of the transformed values, noise included;
    ``alpha`` (n,): inverse covariance times residual.
    """
    from scipy.linalg import solve_triangular

    root = solve_triangular(lower, np.eye(len(values)), lower=True)
    precision = (root * root).sum(axis=0)
    terms: F = 0.5 * np.log(precision / (2 * math.pi)) - 0.5 * alpha**2 / precision
    return terms + log_slopes(values, power)
