"""Warm starts: what other tasks of the same space say, used as far as the new values bear it out.

Each task gets its own process on the normal scores of its values (Salinas, Shen & Perrone, 2020):
tasks differ in scale, and the ranks of the good ones are what is to be carried over. Their means
are weighted by how well each ranks the values of the new task (rank-weighted ensemble: Feurer et
al., 2018). The first trials follow the tasks' processes themselves (``related.py``): a few values
in a region that was found good say nothing about hyperparameters. Later these compete with the
models fitted to the new values alone, and so does the tasks' mean, with a weight, as a regressor of
the fitted models. Either is taken only if the new values are then more probable, so that a
misleading task costs a few first trials and nothing later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp.model import Form, GaussianProcess, fit, start_theta
from qcluster.q_hpo.gp.related import spread_over
from qcluster.q_hpo.strategy import Task, View

__all__ = ["TaskMean", "Transferred", "concordance", "promising", "transferred"]

F = NDArray[np.float64]
_MAX_ROWS, _MAX_TASKS = 200, 8
_PROMISING, _CONSIDERED = 16, 400
FEWEST = 4
"""Values of the new task before it is asked whether other tasks rank them."""


@dataclass(frozen=True)
class TaskMean:
    """Weighted mean prediction of the tasks' processes, each in normal scores."""

    models: tuple[GaussianProcess, ...]
    weights: tuple[float, ...]

    @classmethod
    def fit(cls, view: View) -> TaskMean:
        """Processes of the view's tasks, all of one weight."""
        models = tuple(_process(view, task) for task in view.tasks[:_MAX_TASKS])
        return cls(models, (1.0 / len(models),) * len(models))

    def ranked(self, x: F, y: F) -> TaskMean:
        """Weights by how much better than chance each task ranks ``y`` (n,) at ``x`` (n, columns);
        as they were if none does, or if there are fewer than four values.
        """
        if len(y) < FEWEST:
            return self
        gains = np.array([
            max(0.0, 2 * concordance(model.predict(x)[0], y) - 1) ** 2 for model in self.models
        ])  # fmt: skip
        if gains.sum() == 0:
            return self
        return replace(self, weights=tuple((gains / gains.sum()).tolist()))

    def predict(self, x: F) -> F:
        """(m,) at feature vectors (m, columns)."""
        each = [w * m.predict(x)[0] for w, m in zip(self.weights, self.models, strict=True) if w]
        out: F = np.sum(each, axis=0)
        return out

    def slopes(self, x: F) -> tuple[float, F]:
        """Value and gradient at one feature vector."""
        pairs = [(w, m.slopes(x)) for w, m in zip(self.weights, self.models, strict=True) if w]
        return sum(w * f[0] for w, f in pairs), np.sum([w * f[2] for w, f in pairs], axis=0)


def concordance(guess: F, y: F) -> float:
    """Share of pairs that ``guess`` (n,) puts in the order of ``y`` (n,); ties count half.

    A pair counts as much as ``guess`` sees it apart: among points that were all chosen for being
    good the order is chance, and it must not outvote the few that were chosen otherwise.
    """
    above = np.triu_indices(len(y), 1)
    gap = (guess[:, None] - guess)[above]
    total = float(np.abs(gap).sum())
    same = gap * np.sign(y[:, None] - y)[above]
    return 0.5 + 0.5 * float(same.sum()) / total if total > 0 else 0.5


@dataclass(frozen=True)
class Transferred:
    """Tasks' mean times ``weight`` plus a process on what is left, which was divided by ``sd``."""

    rest: GaussianProcess
    tasks: TaskMean
    weight: float
    sd: float

    def predict(self, points: F) -> tuple[F, F]:
        """Mean and standard deviation (m,) at ``points`` (m, columns)."""
        mean, sd = self.rest.predict(points)
        return self.sd * mean + self.weight * self.tasks.predict(points), self.sd * sd

    def slopes(self, point: F) -> tuple[float, float, F, F]:
        """Mean, standard deviation and their gradients at one point."""
        mean, sd, d_mean, d_sd = self.rest.slopes(point)
        more, slope = self.tasks.slopes(point)
        return (
            self.sd * mean + self.weight * more, self.sd * sd,
            self.sd * d_mean + self.weight * slope, self.sd * d_sd,
        )  # fmt: skip


def transferred(tasks: TaskMean, x: F, y: F, form: Form, loss: float) -> Transferred | None:
    """The model with the tasks' mean, if it beats ``loss``: the best negative log posterior of
    ``y`` (n,) at ``x`` (n, columns) without it.
    """
    tasks = tasks.ranked(x, y)
    guess = tasks.predict(x)
    if np.ptp(guess) == 0 or concordance(guess, y) <= 0.5:
        return None
    weight = max(0.0, float(np.cov(guess, y, bias=True)[0, 1] / guess.var()))
    rest = y - weight * guess
    sd = max(float(rest.std()), 1e-3)
    model, ours = fit(x, rest / sd, form, [start_theta(form, x.shape[1])], 30)
    if weight == 0 or ours + len(y) * math.log(sd) >= loss:
        return None
    return Transferred(model, tasks, weight, sd)


def promising(view: View, tasks: TaskMean) -> F:
    """(k, d) points to try first, of the pool, or else of what the tasks tried: those that a
    related task's minimum is expected among (``spread_over``).
    """
    points = view.pool if view.pool is not None else np.vstack([t.points for t in view.tasks])
    points = np.unique(points, axis=0)
    features = view.space.features(points)
    order = np.argsort(tasks.predict(features), kind="stable")[:_CONSIDERED]
    rng = np.random.default_rng([view.seed, len(order)])
    chosen = spread_over(tasks.models, features[order], _PROMISING, rng)
    rows: F = points[order[chosen]]
    return rows


def _process(view: View, task: Task) -> GaussianProcess:
    """Of a long task, its best half and a random rest; scores are those among all."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = ndtri((rankdata(task.values) - 0.5) / len(task.values))
    keep = np.arange(len(task.values))
    if len(keep) > _MAX_ROWS:
        order = np.argsort(task.values, kind="stable")
        half = _MAX_ROWS // 2
        rest = np.random.default_rng(view.seed).permutation(order[half:])[:half]
        keep = np.concatenate([order[:half], rest])
    x, y = view.space.features(task.points[keep]), scores[keep]
    form = Form(ard=True, trend=True)
    return fit(x, (y - y.mean()) / (y.std() or 1.0), form, [start_theta(form, x.shape[1])], 25)[0]
