"""The Gaussian process: kernels against NumPy, slopes against differences, GPyTorch as oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from qcluster.q_hpo.gp import _kernels as kernels
from qcluster.q_hpo.gp.acquisition import (
    LogImprovement,
    expected_improvement,
    log_h,
    log_h_slope,
)
from qcluster.q_hpo.gp.feasibility import Feasibility
from qcluster.q_hpo.gp.model import (
    Form,
    condition,
    fit,
    negative_log_posterior,
    start_theta,
)
from qcluster.q_hpo.gp.warping import DEEP, POWERS, warp

F = NDArray[np.float64]
FORMS = [Form(s, a, t) for s in (0, 1) for a in (True, False) for t in (True, False)]
RNG = np.random.default_rng(0)
X, Y = RNG.random((14, 3)), RNG.normal(size=14)


def twin(x: F, y: F, scale: F, shape: int, w: F) -> F:
    """The covariance in plain NumPy."""
    d = x.shape[1]
    r2 = (((x[:, None] - y[None]) * scale) ** 2).sum(-1)
    a = np.sqrt(5 * r2)
    stationary = np.exp(-r2 / 2) if shape == 0 else (1 + a + a * a / 3) * np.exp(-a)
    u, v = 2 * x - 1, 2 * y - 1
    uv = u @ v.T
    uu, vv = (u * u).sum(1), (v * v).sum(1)
    trend = w[1] * uv / d + w[2] * np.outer(uu, vv) / d**2
    return w[0] * stationary + trend + w[3] * (u * u) @ (v * v).T / d + w[4] * uv * uv / d


def theta_of(form: Form, d: int = 3) -> F:
    theta: F = start_theta(form, d) + RNG.normal(size=form.size(d)) * 0.4
    return theta


@pytest.mark.parametrize("shape", [0, 1])
def test_kernels_are_their_numpy_twins(shape: int) -> None:
    scale, w = np.array([0.5, 1.0, 3.0]), np.array([1.5, 0.2, 0.3, 0.4, 0.5])
    other = RNG.random((5, 3))
    np.testing.assert_allclose(
        kernels.cross(X, other, scale, shape, w), twin(X, other, scale, shape, w)
    )
    full = kernels.covariance(X, scale, shape, w, 0.1)
    np.testing.assert_allclose(full, twin(X, X, scale, shape, w) + 0.1 * np.eye(14))
    np.testing.assert_allclose(kernels.diagonal(X, scale, shape, w), np.diag(full) - 0.1)
    assert np.linalg.eigvalsh(full).min() > 0


def differences(function: object, at: F) -> F:
    step = 1e-6
    rows = []
    for k in range(at.size):
        e = step * np.eye(at.size)[k]
        rows.append((np.asarray(function(at + e)) - np.asarray(function(at - e))) / (2 * step))  # type: ignore[operator]
    return np.array(rows)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_slopes_are_those_of_differences(form: Form) -> None:
    theta = theta_of(form)
    _, gradient = negative_log_posterior(theta, X, Y, form)
    numeric = differences(lambda t: negative_log_posterior(t, X, Y, form)[0], theta)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-4)
    model = condition(X, Y, theta, form)
    point = RNG.random(3)
    mean, sd, d_mean, d_sd = model.slopes(point)
    np.testing.assert_allclose([[mean], [sd]], model.predict(point[None]))
    numeric = differences(lambda p: np.array(model.predict(p[None]))[:, 0], point)
    np.testing.assert_allclose(np.column_stack([d_mean, d_sd]), numeric, rtol=1e-4, atol=1e-6)
    rule = LogImprovement(model, float(Y.min()), Feasibility.fit(X, Y > 0))
    value, slope = rule.slope(point)
    assert value == pytest.approx(rule.score(point[None])[0])
    numeric = differences(lambda p: rule.score(p[None])[0], point)
    np.testing.assert_allclose(slope, numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [0, 1])
def test_gpytorch_agrees(shape: int) -> None:
    """Posterior and marginal likelihood of the same hyperparameters."""
    torch = pytest.importorskip("torch")
    gpytorch = pytest.importorskip("gpytorch")
    form = Form(shape, ard=True)
    theta = theta_of(form)
    ours = condition(X, Y, theta, form)
    scale, weights, noise = form.expand(theta, 3)
    base = gpytorch.kernels.RBFKernel if shape == 0 else gpytorch.kernels.MaternKernel
    kernel = gpytorch.kernels.ScaleKernel(base(ard_num_dims=3)).double()
    kernel.outputscale = weights[0]
    kernel.base_kernel.lengthscale = torch.tensor(1 / scale)

    class Exact(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self) -> None:
            likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
            likelihood.noise = noise
            super().__init__(torch.tensor(X), torch.tensor(Y), likelihood)
            self.mean, self.kernel = gpytorch.means.ConstantMean().double(), kernel
            self.mean.constant = ours.mean

        def forward(self, x: object) -> object:
            return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))

    model = Exact()
    model.train()
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    theirs = -float(mll(model(torch.tensor(X)), torch.tensor(Y)).detach()) * len(Y)
    centre, spread = form.prior(3)
    prior = 0.5 * float((((theta - centre) / spread) ** 2).sum())
    assert negative_log_posterior(theta, X, Y, form)[0] - prior == pytest.approx(theirs, abs=1e-6)
    model.eval()
    points = RNG.random((6, 3))
    with torch.no_grad():
        found = model(torch.tensor(points))
    mean, sd = ours.predict(points)
    np.testing.assert_allclose(mean, found.mean.numpy(), atol=1e-8)
    np.testing.assert_allclose(sd, found.variance.sqrt().numpy(), atol=1e-6)


def test_botorch_has_the_same_log_improvement() -> None:
    torch = pytest.importorskip("torch")
    analytic = pytest.importorskip("botorch.acquisition.analytic")
    z = np.concatenate([np.linspace(-40, 8, 97), [-1e3, -1e5]])
    theirs = analytic._log_ei_helper(torch.tensor(z)).numpy()
    np.testing.assert_allclose(log_h(z), theirs, rtol=1e-6, atol=1e-6)


def test_log_improvement_is_the_log_of_the_formula() -> None:
    mean, sd = RNG.normal(size=50), RNG.random(50) + 0.05
    ei = expected_improvement(mean, sd, 0.1)
    good = ei > 1e-12
    z = (0.1 - mean) / sd
    np.testing.assert_allclose((np.log(sd) + log_h(z))[good], np.log(ei[good]), rtol=1e-8)
    assert np.argmax(ei) == np.argmax(np.log(sd) + log_h(z))


def test_the_slope_of_log_improvement_holds_in_the_tail() -> None:
    z = np.array([-200.0, -60.0, -49.0, -20.0, -3.0, -0.5, 4.0])
    step = 1e-5 * np.maximum(1, np.abs(z))
    numeric = (log_h(z + step) - log_h(z - step)) / (2 * step)
    np.testing.assert_allclose(log_h_slope(z), numeric, rtol=1e-4)
    assert (np.diff(log_h(np.linspace(-300, 5, 4000))) > 0).all()


def test_a_fit_learns_a_quadratic_bowl_from_few_points() -> None:
    """Ten dimensions, thirty points: the trend finds the centre that no stationary model sees."""
    rng = np.random.default_rng(1)
    x = rng.random((30, 10))
    y = ((x - 0.3) ** 2).sum(1)
    y = (y - y.mean()) / y.std()
    model, _ = fit(x, y, Form(1, ard=False, trend=True), [start_theta(Form(1, False, True), 10)])
    centre, _ = model.predict(np.full((1, 10), 0.3))
    assert centre[0] < y.min() - 0.5
    test = rng.random((200, 10))
    truth = ((test - 0.3) ** 2).sum(1)
    assert np.corrcoef(model.predict(test)[0], truth)[0, 1] > 0.99


def test_duplicates_and_constants_do_not_break_a_fit() -> None:
    x = np.repeat(RNG.random((3, 2)), 4, axis=0)
    for y in (np.zeros(12), np.repeat([0.0, 1.0, -1.0], 4)):
        model, loss = fit(x, y, Form(0, True, True), [start_theta(Form(0, True, True), 2)])
        mean, sd = model.predict(RNG.random((5, 2)))
        assert np.isfinite([*mean, *sd, loss]).all()


@pytest.mark.parametrize("power", [*POWERS, DEEP])
def test_warping_keeps_order_and_counts_its_jacobian(power: float) -> None:
    y = np.sort(np.exp(RNG.normal(size=30) * 3))
    out, jacobian = warp(y, power)
    assert (np.diff(out) > 0).all()
    assert out.mean() == pytest.approx(0, abs=1e-9)
    assert out.std() == pytest.approx(1)
    # The derivative of the map as a whole, at fixed scale and centre, by differences in between.
    slopes = np.diff(out) / np.diff(y)
    assert jacobian == pytest.approx(30 * np.log(slopes).mean(), rel=0.15)


def test_warping_survives_what_real_values_look_like() -> None:
    for y in (np.array([1.0, 1.0, 1.0, 5.0]), np.array([1e300, -1e300, 0.0]), np.zeros(4)):
        for power in (*POWERS, DEEP):
            out, jacobian = warp(y, power)
            assert np.isfinite(out).all()
            assert math.isfinite(jacobian)


def test_the_deep_logarithm_tells_apart_what_is_nearly_as_good_as_the_best() -> None:
    """A third within a thousandth of the range: it spreads, where the other powers press it."""
    y = np.concatenate([RNG.random(12) * 1e-3, RNG.random(24)])
    near = {power: np.ptp(warp(y, power)[0][:12]) for power in (*POWERS, DEEP)}
    assert near[DEEP] > 20 * max(near[power] for power in POWERS)
    assert warp(y, DEEP)[1] > max(warp(y, power)[1] for power in POWERS)


def test_feasibility_learns_a_half_space() -> None:
    x = RNG.random((60, 3))
    ok = x[:, 0] < 0.4
    chance = np.exp(Feasibility.fit(x, ok).log_chance(RNG.random((400, 3)) * [0.3, 1, 1]))
    assert chance.mean() > 0.8
    chance = np.exp(
        Feasibility.fit(x, ok).log_chance([0.6, 0, 0] + RNG.random((400, 3)) * [0.4, 1, 1])
    )
    assert chance.mean() < 0.2
    for everything in (True, False):
        one = Feasibility.fit(x, np.full(60, everything)).log_chance(x)
        assert ((np.exp(one) > 0.5) == everything).all()
