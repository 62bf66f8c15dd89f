"""The process's toggles: the plain formula, bent parameters, batches by fantasies, a trust box."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_hpo import Study
from qcluster.q_hpo.config import GPConfig
from qcluster.q_hpo.gp.acquisition import (
    AveragedImprovement,
    Improvement,
    LogImprovement,
    expected_improvement,
)
from qcluster.q_hpo.gp.bending import Bending, BentRule
from qcluster.q_hpo.gp.model import Form, GaussianProcess, condition, fit, start_theta
from qcluster.q_hpo.gp.region import trust_box
from qcluster.q_hpo.gp.search import GPStrategy, fantasies

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": -5, "high": 5},
    "y": {"type": "uniform", "low": -5, "high": 5},
    "k": {"type": "choice", "values": ["a", "b"]},
}
LITERAL = {
    "name": "gp", "kernel": "rbf", "ard": False, "trend": False, "output_warping": False,
    "acquisition": "ei",
}  # fmt: skip
TOGGLES: list[dict[str, Any]] = [
    LITERAL,
    {"name": "gp", "input_warping": True},
    {"name": "gp", "batch": "fantasies"},
    {"name": "gp", "trust_region": True},
]


def loss(config: dict[str, Any]) -> float:
    return math.hypot(config["x"] - 1, config["y"] + 2) + (config["k"] == "b")


def run(study: Study, n: int) -> list[dict[str, Any]]:
    asked = []
    for _ in range(n):
        trial = study.ask()
        asked.append(trial.config)
        study.tell(trial.id, loss(trial.config))
    return asked


def process(n: int = 8, d: int = 2, seed: int = 0) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    y = np.sin(5 * x[:, 0]) + x.sum(axis=1)
    form = Form(0, ard=False, trend=False)
    theta = np.array([math.log(0.4), 0.0, math.log(1e-6)])
    return condition(x, (y - y.mean()) / y.std(), theta, form)


@pytest.mark.parametrize("strategy", TOGGLES, ids=str)
def test_every_toggle_searches_resumes_and_spreads(strategy: Any, tmp_path: Path) -> None:
    whole = run(Study(SPACE, strategy=strategy, seed=5), 16)
    study = Study(SPACE, strategy=strategy, seed=5)
    first = run(study, 12)
    study.save(tmp_path / "s")
    again = Study.load(tmp_path / "s")
    assert first + run(again, 4) == whole
    assert len({json.dumps(t.config) for t in again.ask(4)}) == 4
    assert min(loss(c) for c in whole) < 1.0


def test_the_literal_formula_is_one_squared_exponential_and_plain_improvement() -> None:
    """k = exp(-|x - x'|^2 / (2 l^2)): one form, one length, no trend."""
    strategy = GPStrategy(GPConfig.read({k: v for k, v in LITERAL.items() if k != "name"}))
    assert strategy.forms() == [Form(0, ard=False, trend=False)]
    study = Study(SPACE, seed=1)
    run(study, 9)
    view = study.view()
    model = strategy.fitted(view)[0].model
    length, amplitude = math.exp(model.theta[0]), math.exp(model.theta[1])
    gap = np.sum((model.x[0] - model.x[1:]) ** 2, axis=1)
    covariance = (model.lower @ model.lower.T)[0, 1:]
    np.testing.assert_allclose(covariance, amplitude * np.exp(-gap / (2 * length**2)), atol=1e-9)
    rule = strategy.acquisition(view)
    points = np.random.default_rng(0).random((20, model.x.shape[1]))
    mean, sd = model.predict(points)
    np.testing.assert_allclose(
        rule.score(points), expected_improvement(mean, sd, float(model.y.min())), atol=1e-12
    )


def test_both_acquisitions_have_the_same_maximum_and_slopes() -> None:
    model = process()
    log = LogImprovement(model, float(model.y.min()))
    plain = Improvement(log)
    points = np.random.default_rng(1).random((500, 2))
    assert plain.score(points).max() > 1e-12
    assert np.argmax(log.score(points)) == np.argmax(plain.score(points))
    at, step = points[np.argmax(log.score(points))], 1e-6
    value, slope = plain.slope(at)
    assert value == pytest.approx(plain.score(at[None])[0])
    for k in range(2):
        e = step * np.eye(2)[k]
        gap = plain.score((at + e)[None])[0] - plain.score((at - e)[None])[0]
        assert slope[k] == pytest.approx(gap / (2 * step), rel=1e-3, abs=1e-8)


def test_bending_is_kumaraswamys_and_so_are_its_slopes() -> None:
    torch = pytest.importorskip("torch")
    bending = Bending(np.array([0.5, 2.0, 1.0]), np.array([2.0, 0.5, 1.0]))
    x = np.random.default_rng(0).random((6, 3))
    theirs = torch.distributions.Kumaraswamy(torch.tensor(bending.a), torch.tensor(bending.b))
    np.testing.assert_allclose(bending(x), theirs.cdf(torch.tensor(x)).numpy(), atol=1e-9)
    slope = (bending(x + 1e-7) - bending(x - 1e-7)) / 2e-7
    np.testing.assert_allclose(bending.slope(x), slope, rtol=1e-4)
    assert np.isfinite(bending.slope(np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))).all()
    np.testing.assert_allclose(Bending.none(3)(x), x, atol=1e-6)
    assert Bending.none(3).penalty == 0


def test_a_bent_rule_has_the_slopes_of_the_straight_features() -> None:
    model = process()
    rule = BentRule(
        LogImprovement(model, float(model.y.min())), Bending(np.array([0.5, 2]), np.array([2, 1.0]))
    )
    at = np.array([0.3, 0.6])
    value, slope = rule.slope(at)
    assert value == pytest.approx(rule.score(at[None])[0])
    for k in range(2):
        e = 1e-6 * np.eye(2)[k]
        gap = rule.score((at + e)[None])[0] - rule.score((at - e)[None])[0]
        assert slope[k] == pytest.approx(gap / 2e-6, rel=1e-4)


def test_an_axis_that_acts_bent_is_bent() -> None:
    """Values are smooth in x^2 of one column only; the other column stays as it is."""
    rng = np.random.default_rng(2)
    x = rng.random((40, 2))
    y = np.sin(14 * x[:, 0] ** 2) + x[:, 1]
    y = (y - y.mean()) / y.std()
    form = Form(ard=True)
    straight, before = fit(x, y, form, [start_theta(form, 2)])
    bending = Bending.none(2).improved(x, straight)
    _, after = fit(bending(x), y, form, [start_theta(form, 2)])
    assert after + bending.penalty < before - 1
    assert bending.a[0] == 2.0
    assert (bending.a[1], bending.b[1]) == (1.0, 1.0)


def test_averaging_over_fantasies_is_greedy_batch_improvement() -> None:
    """qEI of pending and candidate less qEI of pending alone, by plain Monte Carlo."""
    model = process()
    best = float(model.y.min())
    pending = np.array([[0.8, 0.05], [0.55, 0.9]])
    rng = np.random.default_rng(0)
    models = fantasies(model, pending, rng, count=4000)
    rules = tuple(LogImprovement(m, float(m.y.min())) for m in models)
    rule = AveragedImprovement(rules, np.full(len(rules), -math.log(len(rules))))
    candidate = np.array([[0.95, 0.2]])
    points = np.vstack([pending, candidate])
    mean, covariance = model.joint(points)
    root = np.linalg.cholesky(covariance + 1e-10 * np.eye(3))
    draws = mean + rng.normal(size=(400_000, 3)) @ root.T
    with_it = np.maximum(best - draws.min(axis=1), 0).mean()
    without = np.maximum(best - draws[:, :2].min(axis=1), 0).mean()
    ours = math.exp(float(rule.score(candidate)[0]))
    assert ours == pytest.approx(with_it - without, rel=0.1, abs=2e-4)


def test_botorch_has_the_same_joint_posterior_and_batch_improvement() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("botorch")
    from botorch.posteriors import GPyTorchPosterior
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.distributions import MultivariateNormal

    model = process()
    points = np.array([[0.8, 0.05], [0.55, 0.9], [0.95, 0.2]])
    mean, covariance = model.joint(points)
    single, sd = model.predict(points)
    np.testing.assert_allclose(mean, single, atol=1e-9)
    np.testing.assert_allclose(np.diag(covariance), sd**2, atol=1e-9)
    posterior = GPyTorchPosterior(
        MultivariateNormal(torch.tensor(-mean), torch.tensor(covariance + 1e-9 * np.eye(3)))
    )
    draws = SobolQMCNormalSampler(torch.Size([8192]), seed=0)(posterior).squeeze(-1)
    best = float(model.y.min())
    theirs = {k: float((draws[:, :k].max(dim=1).values + best).clamp_min(0).mean()) for k in (2, 3)}
    models = fantasies(model, points[:2], np.random.default_rng(0), count=4000)
    rules = tuple(LogImprovement(m, float(m.y.min())) for m in models)
    rule = AveragedImprovement(rules, np.full(len(rules), -math.log(len(rules))))
    ours = math.exp(float(rule.score(points[2:])[0]))
    assert ours == pytest.approx(theirs[3] - theirs[2], rel=0.1, abs=2e-4)


def test_the_trust_box_follows_successes_and_failures() -> None:
    points = np.full((40, 2), 0.5)
    low, high = trust_box(points[:4], np.array([3.0, 2.0, 1.0, 4.0]), 4)
    np.testing.assert_allclose(high - low, 0.8)
    better = np.concatenate([[3.0], 2.0 - 0.1 * np.arange(3)])
    low, high = trust_box(points[:4], better, 1)
    np.testing.assert_allclose(high - low, 1.0)
    worse = np.concatenate([[1.0], np.full(8, 2.0)])
    low, high = trust_box(points[:9], worse, 1)
    np.testing.assert_allclose(high - low, 0.2)
    none = trust_box(points[:3], np.full(3, np.nan), 1)
    np.testing.assert_allclose(none, [[0, 0], [1, 1]])


def test_proposals_stay_in_the_trust_box() -> None:
    space = {f"x{k}": {"type": "uniform", "low": 0, "high": 1} for k in range(3)}
    study = Study(space, strategy=TOGGLES[3])
    for i in range(14):
        view = study.view()
        trial = study.ask()
        if i >= 6:
            low, high = trust_box(view.points, view.values, 6)
            point = study.space.point(trial.config)
            assert (point >= low - 1e-9).all()
            assert (point <= high + 1e-9).all()
        study.tell(trial.id, sum((v - 0.3) ** 2 for v in trial.config.values()))


def test_settings_are_checked() -> None:
    for wrong in ({"acquisition": "ucb"}, {"batch": "liar"}, {"trust_region": 2}):
        with pytest.raises(InputError):
            Study(SPACE, strategy={"name": "gp", **wrong})
