"""The Gaussian process searcher: Sobol design, model choice by posterior, log expected improvement.

Models differ in kernel shape, lengths, trend and the power that the values are transformed by; the
one with the highest posterior density (with the transform's Jacobian) proposes. Running trials
count as measured at their predicted value (kriging believer) or at draws of the posterior, over
which the improvement is averaged (greedy batch EI), so that a batch spreads. Failed
trials never get an invented value: a second process learns where trials fail, and its log
probability of success is added to the acquisition (Gardner et al., 2014).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.config import GPConfig
from qcluster.q_hpo.gp._kernels import MATERN, RBF
from qcluster.q_hpo.gp.acquisition import AveragedImprovement, Improvement, LogImprovement, Rule
from qcluster.q_hpo.gp.bending import Bending, BentRule
from qcluster.q_hpo.gp.curves import curve_rule
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.model import Form, GaussianProcess, condition, fit, start_theta
from qcluster.q_hpo.gp.optimize import maximize
from qcluster.q_hpo.gp.region import trust_box
from qcluster.q_hpo.gp.related import relate
from qcluster.q_hpo.gp.transfer import (
    FEWEST,
    TaskMean,
    concordance,
    promising,
    transferred,
)
from qcluster.q_hpo.gp.warping import DEEP, POWERS, warp
from qcluster.q_hpo.strategy import Proposal, SobolStrategy, View, from_pool, unseen

__all__ = ["GPStrategy"]

F = NDArray[np.float64]
# Beyond this many observations hyperparameters are refitted at every k-th only.
_ALWAYS = 100
_FRESH_START = 10
_FEW, _ALL_EVERY = 3, 5
_FANTASIES = 16
# A warm start's first two trials are what the tasks find promising; its fourth is one of the
# design's points, to compare with. Up to so many trials the tasks' process is not asked whether it
# explains the values better than one of these alone.
_FIRST, _CHECK, _EARLY = 2, 3, 12


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
        self._losses: dict[str, float] = {}
        self._seen = self._all_at = 0
        self._design = SobolStrategy()
        self._tasks: TaskMean | None = None
        self._task_sizes: tuple[tuple[str, int], ...] = ()
        self._promising: F | None = None
        self._bending: Bending | None = None
        self._curve_thetas: dict[str, list[float]] = {}

    def propose(self, view: View) -> Proposal:
        ok = view.ok
        if view.prior_tasks and view.number < _EARLY:
            point = self._warm(view)
            if point is not None:
                return Proposal(point, "gp")
        if view.number < self.config.design or ok.sum() < 2 or np.ptp(view.values[ok]) == 0:
            return Proposal(self._design.propose(view).point, "gp")
        rule = None if view.prior_tasks else self._curve_rule(view)
        rule = rule or self.acquisition(view)
        best = np.argsort(view.values[ok], kind="stable")[:3]
        box = None
        if self.config.trust_region:
            box = trust_box(view.points, view.values, self.config.design)
        return Proposal(maximize(view, rule, view.points[ok][best], box), "gp")

    def _curve_rule(self, view: View) -> Rule | None:
        """While most of what is known is of lower fidelity: one model of all steps."""
        if view.curves is None:
            return None
        self._bending = None
        return curve_rule(view, self._curve_thetas, self._feasibility(view))

    def acquisition(self, view: View) -> Rule:
        """The rule that is maximised for ``view``."""
        rule = self._improvement(view)
        if self.config.acquisition == "ei":
            rule = Improvement(rule)
        return rule if self._bending is None else BentRule(rule, self._bending)

    def _improvement(self, view: View) -> Rule:
        """Log expected improvement of the best model, in the columns that it was fitted on."""
        best = self.fitted(view)[0]
        incumbent = float(best.model.y.min())
        chance = self._feasibility(view)
        pending = self._columns(view, view.pending)
        if view.tasks:
            rule = self._with_tasks(view, best, pending, chance)
            if rule is not None:
                return rule
        if self.config.batch == "fantasies" and len(pending):
            models = fantasies(best.model, pending, view.rng)
            rules = tuple(LogImprovement(one, float(one.y.min()), chance) for one in models)
            return AveragedImprovement(rules, np.full(len(rules), -math.log(len(rules))))
        return LogImprovement(believed(best.model, pending), incumbent, chance)

    def _with_tasks(
        self, view: View, best: Fitted, pending: F, chance: Feasibility | None
    ) -> Rule | None:
        """The rule of a model with the tasks under which the values are more probable than under
        ``best``; None if there is none.
        """
        tasks, values = self._task_mean(view), view.values[view.ok]
        x, y = best.model.x, best.model.y
        few = bool(view.prior_tasks) and len(values) <= _ALWAYS
        if few and concordance(tasks.ranked(x, values).predict(x), values) > 0.5:
            related = relate(tasks.models, x, values, pending, chance)
            if related.loss < best.loss:
                return related
        _, jacobian = warp(values, best.power)
        model = transferred(tasks, x, y, best.model.form, best.loss + jacobian)
        if model is None:
            return None
        model = replace(model, rest=believed(model.rest, pending))
        return LogImprovement(model, float(y.min()), chance)

    def _columns(self, view: View, points: F) -> F:
        """Feature vectors of ``points``, bent if this is asked for."""
        x = view.space.features(points)
        return x if self._bending is None else self._bending(x)

    def _warm(self, view: View) -> F | None:
        """One of the first points after a warm start: what the tasks find promising, then the
        largest improvement under their mean; None for a point of the design, and as soon as the
        tasks do not rank the new values better than by chance.
        """
        if view.number == _CHECK:
            return None
        tasks, ok = self._task_mean(view), view.ok
        assert self._promising is not None
        if view.number < _FIRST or not ok.any():
            return self._near(view, self._promising)
        x, values = view.space.features(view.points[ok]), view.values[ok]
        if len(values) >= FEWEST and concordance(tasks.ranked(x, values).predict(x), values) <= 0.5:
            return None
        pending = view.space.features(view.pending)
        rule = relate(tasks.models, x, values, pending, self._feasibility(view))
        best = view.points[ok][np.argsort(values, kind="stable")[:3]]
        return maximize(view, rule, np.vstack([best, self._promising[:3]]))

    @staticmethod
    def _near(view: View, points: F) -> F:
        """The first of ``points`` that was not tried; of a pool the row nearest to it."""
        if view.pool is None:
            return unseen(view, points)
        far = np.abs(view.pool[:, None] - points[None]).sum(axis=2)
        hits = [int(np.argmin(column)) for column in far.T]
        return from_pool(view, np.concatenate([hits, np.argsort(far.min(axis=1), kind="stable")]))

    def _task_mean(self, view: View) -> TaskMean:
        """Processes of the other tasks, kept until one of them grows (stopped trials' do)."""
        sizes = tuple((task.name, len(task.values)) for task in view.tasks)
        if self._tasks is None or self._task_sizes != sizes:
            self._tasks, self._task_sizes = TaskMean.fit(view), sizes
            self._promising = promising(view, self._tasks) if view.prior_tasks else None
        return self._tasks

    def fitted(self, view: View) -> list[Fitted]:
        """The models of the successful trials that are in the race, best first.

        All compete at every fifth number of observations, the best few in between. Beyond a
        hundred observations hyperparameters change slowly and are fitted at every tenth (later
        twenty-fifth) only; trials that are asked for without news reuse the last fit.
        """
        ok = view.ok
        if view.tasks:
            self._bending = None
        x, y = self._columns(view, view.points[ok]), view.values[ok]
        n = len(y)
        forms, powers = self.forms(), (*POWERS, DEEP) if self.config.output_warping else POWERS[:1]
        kinds = {_key(form, power, x.shape[1]): (form, power) for form in forms for power in powers}
        losses = self._losses if set(self._losses) <= set(kinds) else {}
        wait = 1 if n <= _ALWAYS else 10 if n <= 2 * _ALWAYS else 25
        if losses and 0 <= n - self._seen < wait and (n == self._seen or wait > 1):
            best = min(losses, key=lambda name: losses[name])
            form, power = kinds[best]
            values, _ = warp(y, power)
            model = condition(x, values, np.array(self._thetas[best]), form)
            return [Fitted(model, power, losses[best])]
        names = sorted(losses, key=lambda name: losses[name])[:_FEW]
        if not losses or (n - self._all_at >= _ALL_EVERY and n <= 2 * _ALWAYS):
            names, self._all_at = list(kinds), n
        found = {name: self._fit(name, *kinds[name], x, y) for name in names}
        if self.config.input_warping and not view.tasks and self._all_at == n >= 2 * x.shape[1]:
            first = min(found.values(), key=lambda one: one.loss)
            straight = view.space.features(view.points[ok])
            known = self._bending or Bending.none(x.shape[1])
            self._bending = known.improved(straight, first.model)
            x = self._bending(straight)
            found = {name: self._fit(name, *kinds[name], x, y) for name in names}
        # Losses grow and shrink with n: only those relative to the best of their time compare.
        low = min(one.loss for one in found.values())
        self._losses = losses | {name: one.loss - low for name, one in found.items()}
        self._seen = n
        return sorted(found.values(), key=lambda one: one.loss)

    def forms(self) -> list[Form]:
        """The kinds of model that are compared."""
        shapes = {"auto": (MATERN, RBF), "matern": (MATERN,), "rbf": (RBF,)}[self.config.kernel]
        trend = self.config.trend
        alike = [Form(shape, ard=False, trend=trend) for shape in shapes]
        return [*alike, Form(shapes[0], ard=True, trend=trend)] if self.config.ard else alike

    def _fit(self, name: str, form: Form, power: float, x: F, y: F) -> Fitted:
        n, d = x.shape
        values, jacobian = warp(y, power)
        known = self._thetas.get(name)
        starts = [] if known is None else [np.array(known)]
        if known is None or (n % _FRESH_START == 0 and n <= _ALWAYS):
            starts.append(start_theta(form, d))
        iterations = 60 if known is None else 20 if n <= _ALWAYS else 5
        model, loss = fit(x, values, form, starts, iterations)
        self._thetas[name] = model.theta.tolist()
        return Fitted(model, power, loss - jacobian)

    def _feasibility(self, view: View) -> Feasibility | None:
        if view.ok.all():
            return None
        return Feasibility.fit(self._columns(view, view.points), view.ok)

    def state(self) -> dict[str, Any]:
        """Hyperparameters that the next fit starts from, and when the models last competed."""
        if not self._thetas and not self._curve_thetas:
            return {}
        state: dict[str, Any] = {
            "thetas": {name: list(theta) for name, theta in self._thetas.items()},
            "losses": dict(self._losses),
            "seen": [self._seen, self._all_at],
        }
        if self._curve_thetas:
            state["curves"] = {name: list(theta) for name, theta in self._curve_thetas.items()}
        if self._bending is not None:
            state["bending"] = [self._bending.a.tolist(), self._bending.b.tolist()]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._thetas = {name: list(theta) for name, theta in state["thetas"].items()}
        self._losses = dict(state["losses"])
        self._seen, self._all_at = state["seen"]
        self._curve_thetas = {name: list(t) for name, t in state.get("curves", {}).items()}
        if "bending" in state:
            self._bending = Bending(*(np.array(one) for one in state["bending"]))


def _key(form: Form, power: float, columns: int) -> str:
    return f"{form.shape}{form.ard:d}{form.trend:d}/{power:g}/{columns}"


def believed(model: GaussianProcess, x: F) -> GaussianProcess:
    """The model after observing its own prediction at ``x`` (m, columns)."""
    if not len(x):
        return model
    mean, _ = model.predict(x)
    return condition(
        np.vstack([model.x, x]), np.concatenate([model.y, mean]), model.theta, model.form
    )


def fantasies(
    model: GaussianProcess, x: F, rng: np.random.Generator, count: int = _FANTASIES
) -> list[GaussianProcess]:
    """The model after observing each of ``count`` joint draws of its posterior at ``x``."""
    mean, covariance = model.joint(x)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    draws = mean + rng.normal(size=(count, len(x))) @ root.T
    inputs = np.vstack([model.x, x])
    return [
        condition(inputs, np.concatenate([model.y, row]), model.theta, model.form) for row in draws
    ]
