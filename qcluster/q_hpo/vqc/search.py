"""The circuit searcher: circuit features, Bayesian heads, log expected improvement.

One head for each scale of the encoding; their expected improvements are averaged, weighted by the
tempered posterior densities of the heads. ``twin=True`` puts random Fourier features in the
circuits' place and changes nothing else: what the circuits are worth is the difference. Everything
is simulated; no quantum advantage is claimed or was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import VQCConfig
from qcluster.q_hpo.gp.acquisition import AveragedImprovement, LogImprovement
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.optimize import maximize_by_sampling
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import Proposal, SobolStrategy, View
from qcluster.q_hpo.vqc.features import SCALES, CircuitFeatures, FeatureMap, FourierFeatures
from qcluster.q_hpo.vqc.head import LinearHead, condition_head, fit_head

__all__ = ["FittedHeads", "VQCStrategy"]

F = NDArray[np.float64]
_ALL_EVERY = 5
# Posterior densities of heads overstate what they know: their logarithms are halved.
_TEMPERATURE = 2.0
_NEGLIGIBLE = -3.0


@dataclass(frozen=True)
class FittedHeads:
    """Heads on the same values, transformed by ``power``, and their log weights (k,)."""

    heads: tuple[LinearHead, ...]
    log_weights: F
    power: float


class VQCStrategy:
    """Proposes points for a ``Study``; see ``VQCConfig``."""

    def __init__(self, config: VQCConfig | None = None) -> None:
        self.config = config or VQCConfig()
        self._thetas: dict[str, list[float]] = {}
        self._power = POWERS[0]
        self._all_at = 0
        self._last: tuple[tuple[int, bytes], FittedHeads] | None = None
        self._design = SobolStrategy()
        self._maps: dict[int, FeatureMap] = {}

    def propose(self, view: View) -> Proposal:
        ok = view.ok
        if view.number < self.config.design or ok.sum() < 2 or np.ptp(view.values[ok]) == 0:
            return Proposal(self._design.propose(view).point, "vqc")
        fitted = self.fitted(view)
        heads = fitted.heads
        incumbent = float(heads[0].y.min())
        if len(view.pending):
            pending = view.space.features(view.pending)
            heads = tuple(condition_head(head, pending) for head in heads)
        chance = None
        if not ok.all():
            chance = Feasibility.fit(view.space.features(view.points), ok)
        best = np.argsort(view.values[ok], kind="stable")[:3]
        rules = tuple(LogImprovement(head, incumbent, chance) for head in heads)
        rule = AveragedImprovement(rules, fitted.log_weights)
        return Proposal(maximize_by_sampling(view, rule, view.points[ok][best]), "vqc")

    def fitted(self, view: View) -> FittedHeads:
        """Heads of all scales; powers compete at every fifth number of observations."""
        x, values = view.space.features(view.points[view.ok]), view.values[view.ok]
        n = len(values)
        if self._last is not None and self._last[0] == (n, values.tobytes()):
            return self._last[1]
        powers: tuple[float, ...] = (self._power,)
        if not self._thetas or n - self._all_at >= _ALL_EVERY:
            powers, self._all_at = POWERS, n
        found = {power: self._fit(view, x, values, power) for power in powers}
        self._power = min(found, key=lambda power: min(loss for _, loss in found[power]))
        heads = [head for head, _ in found[self._power]]
        weights = -np.array([loss for _, loss in found[self._power]]) / _TEMPERATURE
        weights -= weights.max()
        keep = np.flatnonzero(weights > _NEGLIGIBLE)
        weights = weights[keep] - np.logaddexp.reduce(weights[keep])
        fitted = FittedHeads(tuple(heads[i] for i in keep), weights, self._power)
        self._last = ((n, values.tobytes()), fitted)
        return fitted

    def _fit(self, view: View, x: F, values: F, power: float) -> list[tuple[LinearHead, float]]:
        """A head for each scale and its negative log posterior on the original values."""
        y, jacobian = warp(values, power)
        found = []
        for scale in SCALES:
            name = f"{scale}/{power:g}/{x.shape[1]}"
            known = self._thetas.get(name)
            start = None if known is None else np.array(known)
            head, theta = fit_head(self._map(view, x.shape[1]), scale, x, y, start)
            self._thetas[name] = theta.tolist()
            found.append((head, head.loss - jacobian))
        return found

    def _map(self, view: View, columns: int) -> FeatureMap:
        if columns not in self._maps:
            circuit = CircuitFeatures(
                columns, view.seed, count=self.config.circuits or 8,
                layers=self.config.layers or 3, shots=self.config.shots,
            )  # fmt: skip
            self._maps[columns] = (
                FourierFeatures(columns, view.seed, size=circuit.size)
                if self.config.twin
                else circuit
            )
        return self._maps[columns]

    def state(self) -> dict[str, Any]:
        """Prior widths that the next fit starts from, the power, and when powers last competed."""
        if not self._thetas:
            return {}
        return {
            "thetas": {name: list(theta) for name, theta in self._thetas.items()},
            "power": self._power,
            "all_at": self._all_at,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._thetas = {name: list(theta) for name, theta in state["thetas"].items()}
        self._power, self._all_at = state["power"], state["all_at"]
