"""A task and the new one as one process: against the joint covariance written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcluster.q_hpo.gp import _kernels as kernels
from qcluster.q_hpo.gp.model import Form, GaussianProcess, fit, start_theta
from qcluster.q_hpo.gp.related import Pair, RelatedRule, relate, spread_over

RNG = np.random.default_rng(3)
D = 3
NONE = np.empty((0, D))


def bowl(x: np.ndarray, centre: float) -> np.ndarray:
    return ((x - centre) ** 2).sum(axis=1)


def task(centre: float = 0.3, rows: int = 40, sign: float = 1.0) -> GaussianProcess:
    x = np.random.default_rng(0).random((rows, D))
    y = sign * bowl(x, centre)
    form = Form(ard=True, trend=True)
    return fit(x, (y - y.mean()) / y.std(), form, [start_theta(form, D)], 25)[0]


def written_out(pair: Pair, y: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance at ``points`` by the covariance of all rows of both tasks at once."""
    old, rho = pair.task, pair.correlation
    scale, weights, noise = old.form.expand(old.theta, D)
    rows = np.vstack([old.x, pair.x])
    factor = np.r_[np.full(len(old.x), rho), np.ones(len(pair.x))]
    both = np.outer(np.r_[np.ones(len(old.x)), np.ones(len(pair.x))], np.ones(len(rows)))
    both[: len(old.x), len(old.x) :] = rho
    both[len(old.x) :, : len(old.x)] = rho
    covariance = both * kernels.cross(rows, rows, scale, old.form.shape, weights)
    own = np.full(len(pair.x), max(noise, 0.05))
    covariance += np.diag(np.r_[np.full(len(old.x), noise), own])
    targets = np.r_[old.y - old.mean, pair.scale * y - pair.mean]
    k = factor * kernels.cross(points, rows, scale, old.form.shape, weights)
    mean = pair.mean + k @ np.linalg.solve(covariance, targets)
    spread = kernels.diagonal(points, scale, old.form.shape, weights)
    return mean, spread - np.einsum("ij,ji->i", k, np.linalg.solve(covariance, k.T))


def test_each_pair_is_the_joint_process_of_both_tasks() -> None:
    from qcluster.q_hpo.gp.related import CORRELATIONS, _shared
    from qcluster.q_hpo.gp.warping import warp

    x = RNG.random((6, D))
    values, points = bowl(x, 0.4), RNG.random((9, D))
    rule = relate((task(),), x, values, NONE)
    assert [pair.correlation for pair in rule.pairs[::2]] == list(CORRELATIONS)
    for pair, power in zip(rule.pairs, [0.0, 0.5] * len(CORRELATIONS), strict=True):
        mean, variance = written_out(pair, warp(values, power)[0], points)
        found, sd = pair.moments(*_shared(pair.task, pair.x, points))
        assert found == pytest.approx(mean, abs=1e-6)
        assert sd**2 == pytest.approx(variance, abs=1e-6)
        plain, deviation = pair.process.predict(points)
        assert plain == pytest.approx(mean, abs=1e-6)
        assert deviation == pytest.approx(sd, abs=1e-6)


def test_slopes_of_the_rule_are_those_of_its_score() -> None:
    x = RNG.random((5, D))
    rule = relate((task(), task(0.6)), x, bowl(x, 0.4), RNG.random((2, D)))
    point = np.array([0.35, 0.6, 0.2])
    value, gradient = rule.slope(point)
    assert value == pytest.approx(float(rule.score(point[None])[0]), abs=1e-9)
    for k in range(D):
        step = np.eye(D)[k] * 1e-5
        ends = rule.score(np.array([point + step, point - step]))
        assert gradient[k] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-5)


def weight(rule: RelatedRule, wanted: Callable[[Pair], bool]) -> float:
    """How probable the pairs of some kind are together."""
    logs = np.array([pair.log_weight for pair in rule.pairs])
    return float(np.exp(logs - np.logaddexp.reduce(logs)) @ [wanted(pair) for pair in rule.pairs])


def unrelated(pair: Pair) -> bool:
    return pair.correlation == 0


def test_values_decide_which_task_is_related_and_whether_any_is() -> None:
    x = RNG.random((12, D))
    right, wrong = task(0.4), task(0.4, sign=-1.0)
    rule = relate((right, wrong), x, bowl(x, 0.4), NONE)
    assert weight(rule, lambda pair: pair.task is right) > 0.9
    assert weight(rule, unrelated) < 0.05
    assert rule.loss < relate((wrong,), x, bowl(x, 0.4), NONE).loss - 2.0
    assert weight(relate((wrong,), x, bowl(x, 0.4), NONE), unrelated) > 0.5


def test_running_trials_count_as_predicted_and_are_not_asked_for_again() -> None:
    x = RNG.random((6, D))
    running = np.array([[0.4, 0.4, 0.4], [0.2, 0.3, 0.4]])
    alone, with_them = (relate((task(),), x, bowl(x, 0.4), p) for p in (NONE, running))
    assert with_them.loss == pytest.approx(alone.loss)
    assert (with_them.score(running) < alone.score(running)).all()


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, 0.0, 1e300]])
def test_few_equal_and_huge_values_leave_finite_scores(values: list[float]) -> None:
    x = RNG.random((len(values), D))
    rule = relate((task(),), x, np.array(values), NONE)
    assert np.isfinite(rule.loss)
    assert np.isfinite(rule.score(RNG.random((5, D)))).all()


def test_first_points_are_good_ones_and_apart() -> None:
    points = RNG.random((60, D))
    chosen = spread_over((task(),), points, 5, np.random.default_rng(0))
    assert len(set(chosen)) == 5
    ranks = np.argsort(np.argsort(bowl(points, 0.3)))
    assert ranks[chosen[0]] < 6
    assert ranks[chosen[1]] < 20
    gap = np.abs(points[chosen[0]] - points[chosen[1]]).max()
    assert gap > 0.05
    assert spread_over((task(),), points, 5, np.random.default_rng(0)) == chosen
    assert len(spread_over((task(),), points[:3], 5, np.random.default_rng(0))) == 3
