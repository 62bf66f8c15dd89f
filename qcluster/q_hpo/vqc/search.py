"""The circuit searcher: circuit features, a Bayesian head, log expected improvement.

It is the Gaussian process searcher with another model. ``twin=True`` puts random Fourier features
in the circuits' place and changes nothing else: what the circuits are worth is the difference.
Everything is simulated; no quantum advantage is claimed or was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import VQCConfig
from qcluster.q_hpo.gp.acquisition import LogImprovement
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.optimize import maximize, maximize_by_sampling
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import Proposal, SobolStrategy, View
from qcluster.q_hpo.vqc.features import SCALES, CircuitFeatures, FeatureMap, FourierFeatures
from qcluster.q_hpo.vqc.head import LinearHead, condition_head, fit_head

__all__ = ["VQCStrategy"]

F = NDArray[np.float64]
_ALL_EVERY = 5


@dataclass(frozen=True)
class FittedHead:
    """A head, the power its values were transformed by, and its negative log posterior."""

    model: LinearHead
    power: float
    loss: float


class VQCStrategy:
    """Proposes points for a ``Study``; see ``VQCConfig``."""

    def __init__(self, config: VQCConfig | None = None) -> None:
        self.config = config or VQCConfig()
        self._thetas: dict[str, list[float]] = {}
        self._losses: dict[str, float] = {}
        self._all_at = 0
        self._last: tuple[tuple[int, bytes, tuple[float, ...]], FittedHead] | None = None
        self._design = SobolStrategy()
        self._maps: dict[int, FeatureMap] = {}

    def propose(self, view: View) -> Proposal:
        ok = view.ok
        if view.number < self.config.design or ok.sum() < 2 or np.ptp(view.values[ok]) == 0:
            return Proposal(self._design.propose(view).point, "vqc")
        model = self.fitted(view).model
        incumbent = float(model.y.min())
        if len(view.pending):
            model = condition_head(model, view.space.features(view.pending))
        chance = None
        if not ok.all():
            chance = Feasibility.fit(view.space.features(view.points), ok)
        best = np.argsort(view.values[ok], kind="stable")[:3]
        rule = LogImprovement(model, incumbent, chance)
        import os
        if os.environ.get("AVG"):
            return self._avg(view, float(os.environ["AVG"]))
        climb = maximize if model.feature_map.exact and not os.environ.get("SAMP") else maximize_by_sampling
        return Proposal(climb(view, rule, view.points[ok][best]), "vqc")

    def _avg(self, view, T):
        from qcluster.q_hpo.hybrid import Mixed
        ok=view.ok
        best=self.fitted(view)
        x, values = view.space.features(view.points[ok]), view.values[ok]
        y,jac=warp(values,best.power)
        rules=[];lw=[]
        for s in SCALES:
            name=f"{s}/{best.power:g}/{x.shape[1]}"
            known=self._thetas.get(name)
            head,theta=fit_head(self._map(view,x.shape[1]),s,x,y,None if known is None else np.array(known))
            self._thetas[name]=theta.tolist()
            rules.append(LogImprovement(head,float(y.min()))); lw.append(-head.loss/T)
        lw=np.array(lw)-np.logaddexp.reduce(lw)
        keep=[i for i in range(len(lw)) if lw[i]>-5]
        rule=Mixed([rules[i] for i in keep],lw[keep])
        b = np.argsort(view.values[ok], kind="stable")[:3]
        return Proposal(maximize_by_sampling(view, rule, view.points[ok][b]), "vqc")

    def fitted(self, view: View, powers: tuple[float, ...] = POWERS) -> FittedHead:
        """The head of the scale and power with the highest posterior; all compete every fifth."""
        x, values = view.space.features(view.points[view.ok]), view.values[view.ok]
        n = len(values)
        if self._last is not None and self._last[0] == (n, values.tobytes(), powers):
            return self._last[1]
        kinds = {f"{s}/{p:g}/{x.shape[1]}": (s, p) for s in SCALES for p in powers}
        losses = {k: v for k, v in self._losses.items() if k in kinds}
        names = sorted(losses, key=lambda name: losses[name])[:2]
        if not names or n - self._all_at >= _ALL_EVERY:
            names, self._all_at = list(kinds), n
        found: dict[str, FittedHead] = {}
        for name in names:
            scale, power = kinds[name]
            y, jacobian = warp(values, power)
            known = self._thetas.get(name)
            start = None if known is None else np.array(known)
            head, theta = fit_head(self._map(view, x.shape[1]), scale, x, y, start)
            self._thetas[name] = theta.tolist()
            found[name] = FittedHead(head, power, head.loss - jacobian)
        best = min(found.values(), key=lambda one: one.loss)
        self._losses = self._losses | {name: one.loss - best.loss for name, one in found.items()}
        self._last = ((n, values.tobytes(), powers), best)
        return best

    def _map(self, view: View, columns: int) -> FeatureMap:
        if columns not in self._maps:
            circuit = CircuitFeatures(
                columns, view.seed, count=self.config.circuits, layers=self.config.layers,
                shots=self.config.shots,
            )  # fmt: skip
            self._maps[columns] = (
                FourierFeatures(columns, view.seed, size=circuit.size)
                if self.config.twin
                else circuit
            )
        return self._maps[columns]

    def state(self) -> dict[str, Any]:
        """Prior widths that the next fit starts from, and when the models last competed."""
        if not self._thetas:
            return {}
        return {
            "thetas": {name: list(theta) for name, theta in self._thetas.items()},
            "losses": dict(self._losses),
            "all_at": self._all_at,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._thetas = {name: list(theta) for name, theta in state["thetas"].items()}
        self._losses = dict(state["losses"])
        self._all_at = state["all_at"]
