"""Warm starts: what other tasks of the same space say, used as far as the new values bear it out.

Each task gets its own process; the mean of their predictions is offered to the new task's model as
one regressor. It is taken only if it raises the posterior density of the values seen so far, so a
misleading task costs a few first trials and nothing later (the guard that rank weights give the
ensemble of Feurer et al., 2018). A task whose sign is flipped gets a negative coefficient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp.model import Form, GaussianProcess, fit, start_theta
from qcluster.q_hpo.gp.warping import POWERS, warp
from qcluster.q_hpo.strategy import Task, View

__all__ = ["TaskMean", "Transferred", "first_points", "transferred"]

F = NDArray[np.float64]
_MAX_ROWS, _MAX_TASKS = 200, 8
# How much better, in nats, the values must be explained before the tasks are believed.
_DOUBT = 1.0


@dataclass(frozen=True)
class TaskMean:
    """Mean prediction of the tasks' processes, each on its own standardised scale."""

    models: tuple[GaussianProcess, ...]

    @classmethod
    def fit(cls, view: View) -> TaskMean:
        """Processes of the view's tasks; of a long one, its best half and a random rest."""
        return cls(tuple(_process(view, task) for task in view.tasks[:_MAX_TASKS]))

    def predict(self, x: F) -> F:
        """(m,) at feature vectors (m, columns)."""
        out: F = np.mean([model.predict(x)[0] for model in self.models], axis=0)
        return out

    def slopes(self, x: F) -> tuple[float, F]:
        """Value and gradient at one feature vector."""
        found = [model.slopes(x) for model in self.models]
        return float(np.mean([f[0] for f in found])), np.mean([f[2] for f in found], axis=0)


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
    guess = tasks.predict(x)
    if np.ptp(guess) == 0:
        return None
    weight = float(np.cov(guess, y, bias=True)[0, 1] / guess.var())
    rest = y - weight * guess
    sd = max(float(rest.std()), 1e-3)
    model, ours = fit(x, rest / sd, form, [start_theta(form, x.shape[1])], 30)
    if ours + len(y) * math.log(sd) + _DOUBT >= loss:
        return None
    return Transferred(model, tasks, weight, sd)


def first_points(view: View) -> F:
    """(k, d) the best point of each task in turn, then their second best, and so on."""
    orders = [np.argsort(task.values, kind="stable")[:10] for task in view.tasks]
    rows = [
        task.points[order[i]]
        for i in range(10)
        for task, order in zip(view.tasks, orders, strict=True)
        if i < len(order)
    ]
    return np.array(rows).reshape(len(rows), view.space.d)


def _process(view: View, task: Task) -> GaussianProcess:
    keep = np.arange(len(task.values))
    if len(keep) > _MAX_ROWS:
        order = np.argsort(task.values, kind="stable")
        half = _MAX_ROWS // 2
        rest = np.random.default_rng(view.seed).permutation(order[half:])[:half]
        keep = np.concatenate([order[:half], rest])
    x, values = view.space.features(task.points[keep]), task.values[keep]
    form = Form(ard=True, trend=True)
    found = []
    for power in POWERS:
        y, jacobian = warp(values, power)
        model, loss = fit(x, y, form, [start_theta(form, x.shape[1])], 20)
        found.append((loss - jacobian, model))
    return min(found, key=lambda pair: pair[0])[1]
