"""Circuit features, the Bayesian head, the circuit searcher and the hybrid."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_hpo import HPOConfig, Study
from qcluster.q_hpo.hybrid import left_out_densities
from qcluster.q_hpo.vqc.features import CircuitFeatures, FourierFeatures
from qcluster.q_hpo.vqc.head import condition_head, fit_head, groups_of

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": -5, "high": 5},
    "y": {"type": "uniform", "low": -5, "high": 5},
    "k": {"type": "choice", "values": ["a", "b"]},
}
STRATEGIES = ["vqc", "hybrid", {"name": "vqc", "twin": True}, {"name": "vqc", "shots": 64},
              {"name": "hybrid", "alternate": True}]  # fmt: skip


def loss(config: dict[str, Any]) -> float:
    return math.hypot(config["x"] - 1, config["y"] + 2) + (config["k"] == "b")


def run(study: Study, n: int) -> list[dict[str, Any]]:
    asked = []
    for _ in range(n):
        trial = study.ask()
        asked.append(trial.config)
        study.tell(trial.id, loss(trial.config))
    return asked


def test_features_are_trigonometric_polynomials_of_the_number_of_layers() -> None:
    """Along one coordinate only frequencies 0 to L times pi occur (Schuld et al., 2021)."""
    for layers in (1, 2, 3):
        maps = CircuitFeatures(3, 0, count=2, layers=layers)
        # Two full periods of the lowest frequency, so that each frequency is one Fourier bin.
        t = np.arange(64) / 64 * 2.0
        x = np.column_stack([t, np.full(64, 0.3), np.full(64, 0.8)])
        spectrum = np.abs(np.fft.rfft(maps(x, 1.0), axis=0))
        assert spectrum[layers + 1 :].max() < 1e-9
        assert spectrum[layers].max() > 1e-3


def test_one_layer_at_scale_one_is_the_angle_encoding() -> None:
    """theta = pi (eta - a) / (b - a): a qubit turned by RX(theta) has <Z> = cos(theta)."""
    maps = CircuitFeatures(1, 0, count=1, layers=1)
    maps.weights[:] = 0.0
    eta = np.array([[0.0], [0.25], [0.5], [1.0]])
    np.testing.assert_allclose(maps(eta, 1.0)[:, 0], np.cos(math.pi * eta[:, 0]), atol=1e-12)


def test_pennylane_has_the_same_expectation_values() -> None:
    qml = pytest.importorskip("pennylane")
    maps = CircuitFeatures(3, 5, count=1, layers=2)
    x = np.random.default_rng(0).random((4, 3))
    device = qml.device("default.qubit", wires=3)

    @qml.qnode(device)
    def circuit(point: Any) -> Any:
        for layer in range(2):
            for q in range(3):
                qml.RX(math.pi * 0.6 * point[maps.parts[0][q]], wires=q)
            qml.StronglyEntanglingLayers(
                maps.weights[0, layer][None], wires=range(3), ranges=[layer + 1]
            )
        return [qml.expval(qml.PauliZ(q)) for q in range(3)]

    theirs = np.array([circuit(point) for point in x], float)
    ours = maps(x, 0.6)[:, :3] * math.sqrt(maps.size)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_shots_scatter_around_the_exact_values() -> None:
    x = np.random.default_rng(0).random((20, 3))
    exact = CircuitFeatures(3, 0)(x, 1.0)
    few, many = (CircuitFeatures(3, 0, shots=s)(x, 1.0) for s in (32, 8192))
    assert np.abs(few - exact).mean() > 4 * np.abs(many - exact).mean() > 0
    np.testing.assert_array_equal(CircuitFeatures(3, 0, shots=32)(x, 1.0), few)


def test_every_column_is_seen_by_some_circuit() -> None:
    for columns in (1, 4, 9, 23):
        maps = CircuitFeatures(columns, 1)
        assert set(np.concatenate(maps.parts)) == set(range(columns))
        assert maps(np.random.default_rng(0).random((3, columns)), 1.0).shape == (3, maps.size)


def test_the_head_is_bayesian_linear_regression() -> None:
    """The same posterior as computed in the space of weights."""
    rng = np.random.default_rng(0)
    x, y = rng.random((15, 3)), rng.normal(size=15)
    maps = FourierFeatures(3, 0, size=12)
    head, theta = fit_head(maps, 1.0, x, y)
    psi = np.hstack([math.sqrt(w) * g for w, g in zip(head.widths, groups_of(maps(x, 1.0), x),
                     strict=True)])  # fmt: skip
    noise = math.exp(theta[-1])
    precision = psi.T @ psi / noise + np.eye(psi.shape[1])
    weights = np.linalg.solve(precision, psi.T @ (y - head.mean)) / noise
    points = rng.random((5, 3))
    at = np.hstack([math.sqrt(w) * g for w, g in zip(head.widths, groups_of(maps(points, 1.0),
                    points), strict=True)])  # fmt: skip
    mean, sd = head.predict(points)
    np.testing.assert_allclose(mean, head.mean + at @ weights, atol=1e-6)
    np.testing.assert_allclose(sd**2, np.einsum("ij,jk,ik->i", at, np.linalg.inv(precision), at),
                               atol=1e-6)  # fmt: skip
    believed = condition_head(head, points)
    np.testing.assert_allclose(believed.predict(points)[0], mean, atol=0.05)
    assert (believed.predict(points)[1] <= sd + 1e-9).all()


def test_left_out_densities_are_what_leaving_out_gives() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((9, 2))
    y = rng.normal(size=9)
    y = (y - y.mean()) / y.std()
    k = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1)) + 0.1 * np.eye(9)
    lower, alpha = np.linalg.cholesky(k), np.linalg.solve(k, y)
    total = 0.0
    for i in range(9):
        rest = [j for j in range(9) if j != i]
        mean = k[i, rest] @ np.linalg.solve(k[np.ix_(rest, rest)], y[rest])
        variance = k[i, i] - k[i, rest] @ np.linalg.solve(k[np.ix_(rest, rest)], k[rest, i])
        total += -0.5 * math.log(2 * math.pi * variance) - 0.5 * (y[i] - mean) ** 2 / variance
    assert left_out_densities(lower, alpha, y, 1.0).sum() == pytest.approx(total)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_arms_search_resume_and_spread(strategy: Any, tmp_path: Path) -> None:
    whole = run(Study(SPACE, strategy=strategy, seed=5), 13)
    assert len({json.dumps(c) for c in whole}) == 13
    study = Study(SPACE, strategy=strategy, seed=5)
    first = run(study, 9)
    study.save(tmp_path / "study")
    again = Study.load(tmp_path / "study")
    assert first + run(again, 4) == whole
    assert len({json.dumps(t.config) for t in again.ask(4)}) == 4


@pytest.mark.parametrize("strategy", ["vqc", "hybrid"])
def test_arms_find_the_minimum(strategy: str) -> None:
    study = Study(SPACE, strategy=strategy, seed=0)
    run(study, 25)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.3
    assert {t.arm for t in study.history} <= {"gp", "vqc"}


@pytest.mark.parametrize("strategy", ["vqc", "hybrid"])
@pytest.mark.parametrize("outcome", ["failed", "nan", "same", "half"])
def test_arms_live_with_failures(strategy: str, outcome: str) -> None:
    study = Study(SPACE, strategy=strategy, seed=0)
    for i in range(10):
        trial = study.ask()
        if outcome == "same" or (outcome == "half" and i % 2):
            study.tell(trial.id, 1.0 if outcome == "same" else loss(trial.config))
        else:
            study.tell(trial.id, None, "failed" if outcome == "half" else outcome)
    assert len(study.history) == 10


def test_toggles_name_strategies_in_every_combination() -> None:
    names = {
        (vqc, surrogate, hybrid): HPOConfig(vqc=vqc, surrogate=surrogate, hybrid=hybrid).strategy
        for vqc in (True, False) for surrogate in (True, False) for hybrid in (True, False)
    }  # fmt: skip
    assert {v for k, v in names.items() if k[2]} == {"hybrid"}
    assert names[True, True, False] == "hybrid"
    assert names[True, False, False] == "vqc"
    assert names[False, True, False] == "gp"
    assert names[False, False, False] == "sobol"


def test_settings_are_checked() -> None:
    for wrong in ({"circuits": 0}, {"shots": 0}, {"layers": True}, {"nope": 1}):
        with pytest.raises(InputError):
            Study(SPACE, strategy={"name": "vqc", **wrong})
