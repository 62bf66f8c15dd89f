"""The searcher with trained circuits: mode ``variational`` of the circuit searcher.

Before each proposal every member's rotations take a few more steps from where the last proposal
left them; the first time they start from rotations trained on the tasks of a warm start, if there
are any. The point with the lowest expectation value less the members' disagreement is sought among
scattered candidates and by descent along the encoding angles. What a study recommends is the
configuration with the lowest measured loss, never the lowest predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import VQCConfig
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.optimize import candidates, maximize_by_sampling
from qcluster.q_hpo.gp.transfer import TaskMean, promising
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import Proposal, SobolStrategy, Task, View, from_pool, unseen
from qcluster.q_hpo.vqc.variational import (
    Ensemble,
    FourierTwin,
    Hamiltonian,
    Trainable,
    TrainedCircuit,
    fit_hamiltonian,
    train,
)

__all__ = ["VariationalStrategy"]

F = NDArray[np.float64]
_FIRST, _MORE = 40, 6
_STARTS, _DOWN = 6, 8
_TASK_ROWS, _POOL_ROWS = 60, 2048


@dataclass(frozen=True)
class _Rule:
    """The ensemble's score, and half the log probability that the trial succeeds."""

    ensemble: Ensemble
    chance: Feasibility | None

    def score(self, features: F) -> F:
        out = self.ensemble.score(features)
        return out if self.chance is None else out + 0.5 * self.chance.log_chance(features)

    def slope(self, features: F) -> tuple[float, F]:
        raise NotImplementedError("descends by Ensemble.descend")


class VariationalStrategy:
    """Proposes points for a ``Study``; see ``VQCConfig``."""

    def __init__(self, config: VQCConfig) -> None:
        self.config = config
        self._members = config.circuits or 3
        self._weights: list[F] = []
        self._design = SobolStrategy()

    def propose(self, view: View) -> Proposal:
        ok = view.ok
        if view.number < self.config.design or ok.sum() < 2 or np.ptp(view.values[ok]) == 0:
            return Proposal(self._first(view), "vqc")
        chance = None
        if not ok.all():
            chance = Feasibility.fit(view.space.features(view.points), ok)
        rule = _Rule(self._trained(view), chance)
        best = view.points[ok][np.argsort(view.values[ok], kind="stable")[:3]]
        if view.pool is not None:
            rows = view.rng.permutation(len(view.pool))[:_POOL_ROWS]
            scores = rule.score(view.space.features(view.pool[rows]))
            return Proposal(from_pool(view, rows[np.argsort(-scores, kind="stable")]), "vqc")
        if view.space.grid is not None:
            return Proposal(maximize_by_sampling(view, rule, best), "vqc")
        return Proposal(self._descended(view, rule, best), "vqc")

    def _first(self, view: View) -> F:
        """Half of the design from other tasks' best, if there are any, the rest Sobol points."""
        if view.tasks and view.pool is None and view.number < self.config.design // 2:
            return unseen(view, promising(view, TaskMean.fit(view)))
        return self._design.propose(view).point

    def _trained(self, view: View) -> Ensemble:
        """The ensemble after some steps on all values; running trials count as predicted."""
        ok = view.ok
        x, values = view.space.features(view.points[ok]), view.values[ok]
        model = self._model(x.shape[1], view)
        steps = _MORE
        if len(self._weights) != self._members or len(self._weights[0]) != model.count:
            self._weights = [model.start(view.seed + i) for i in range(self._members)]
            steps = _FIRST
            for task in view.tasks:
                self._weights = [self._on_task(view, model, task, w) for w in self._weights]
        y = _warped(model.features(x, self._weights[0]), values)
        if len(view.pending):
            liars = view.space.features(view.pending)
            h = fit_hamiltonian(model.features(x, self._weights[0]), y)
            said = h.constant + model.features(liars, self._weights[0]) @ h.coefficients
            x, y = np.vstack([x, liars]), np.concatenate([y, said])
        found: list[tuple[F, Hamiltonian]] = [
            train(model, x, y, w, steps, np.random.default_rng([view.seed, view.number, i]))
            for i, w in enumerate(self._weights)
        ]
        self._weights = [w for w, _ in found]
        return Ensemble(model, tuple(self._weights), tuple(h for _, h in found))

    def _model(self, columns: int, view: View) -> Trainable:
        circuit = TrainedCircuit(
            columns, layers=self.config.layers or 2, shots=self.config.shots,
            gradient=self.config.gradient, seed=view.seed * 1_000_003 + view.number,
        )  # fmt: skip
        if not self.config.twin:
            return circuit
        return FourierTwin(columns, size=len(circuit.parts) * len(circuit.observables))

    @staticmethod
    def _on_task(view: View, model: Trainable, task: Task, weights: F) -> F:
        """Rotations after training on the best rows of another task."""
        keep = np.argsort(task.values, kind="stable")[:_TASK_ROWS]
        values = task.values[keep]
        if len(values) < 4 or np.ptp(values) == 0:
            return weights
        x = view.space.features(task.points[keep])
        return train(model, x, warp(values, 1.0)[0], weights, _FIRST, view.rng)[0]

    @staticmethod
    def _descended(view: View, rule: _Rule, best: F) -> F:
        """The best of the candidates and of descents from a few of them."""
        space = view.space
        points = space.snap(candidates(view, best)[::2])
        scores = rule.score(space.features(points))
        top = points[np.argsort(-scores, kind="stable")[:_STARTS]]
        moved = rule.ensemble.descend(space.features(top), _DOWN)
        down = top.copy()
        for k, column in enumerate(space.column_of):
            if column >= 0:
                down[:, k] = moved[:, column]
        down = space.snap(down)
        points = np.vstack([points, down])
        scores = np.concatenate([scores, rule.score(space.features(down))])
        return unseen(view, points[np.argsort(-scores, kind="stable")])

    def state(self) -> dict[str, Any]:
        """The rotations that the next training starts from."""
        return {"weights": [w.tolist() for w in self._weights]} if self._weights else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._weights = [np.array(w) for w in state["weights"]]


def _warped(features: F, values: F) -> F:
    """Values under the power that leaves the highest leave-one-out density."""
    found = []
    for power in POWERS:
        y, jacobian = warp(values, power)
        error = fit_hamiltonian(features, y).error
        found.append((0.5 * len(y) * np.log(max(error, 1e-12)) - jacobian, y))
    return min(found, key=lambda pair: pair[0])[1]
