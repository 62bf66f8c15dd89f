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
from qcluster.q_hpo.gp.acquisition import LogImprovement
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
        import os
        mode,val=os.environ.get("HY","pick:0").split(":"); val=float(val)
        process=self.gp.fitted(view)[0]
        circuits = self.vqc.fitted(view, (process.power,) if mode!="pick" else (1.0,.5,0.))
        gap= left_out_density(process.model.lower, process.model.alpha, values, process.power)-left_out_density(
            circuits.model.lower, circuits.model.alpha, values, circuits.power)
        if mode in("pick","pickc"):
            return (self.vqc if gap+val<0 else self.gp).propose(view)
        if mode=="mix": w=1/(1+math.exp(-max(min(gap/val,30),-30)))
        elif mode=="const": w=val
        from qcluster.q_hpo.gp.optimize import maximize
        rule=Mixed([LogImprovement(process.model,float(process.model.y.min())),LogImprovement(circuits.model,float(circuits.model.y.min()))],np.log([max(w,1e-9),max(1-w,1e-9)]))
        ok=view.ok
        best = np.argsort(view.values[ok], kind="stable")[:3]
        return Proposal(maximize(view, rule, view.points[ok][best]), "gp" if w>.5 else "vqc")

    def state(self) -> dict[str, Any]:
        """States of both arms."""
        both = {"gp": self.gp.state(), "vqc": self.vqc.state()}
        return both if any(both.values()) else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        for arm, name in ((self.gp, "gp"), (self.vqc, "vqc")):
            if state[name]:
                arm.restore(state[name])


class Mixed:
    def __init__(self,rules,logw): self.rules,self.logw=rules,logw
    def score(self,f):
        return np.logaddexp.reduce([r.score(f)+w for r,w in zip(self.rules,self.logw)],axis=0)
    def slope(self,f):
        both=[r.slope(f) for r in self.rules]
        v=np.array([a for a,_ in both])+self.logw
        t=np.logaddexp.reduce(v)
        return float(t), np.exp(v-t)@np.array([g for _,g in both])


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
