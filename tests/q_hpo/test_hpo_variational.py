"""Circuits trained by parameter-shift: angles, gradients, Hamiltonians and the searcher."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_hpo import Prior, Study
from qcluster.q_hpo.vqc.variational import (
    Ensemble,
    FourierTwin,
    TrainedCircuit,
    fit_hamiltonian,
    train,
)

SPACE: dict[str, Any] = {
    "x": {"type": "uniform", "low": -5, "high": 5},
    "y": {"type": "uniform", "low": -5, "high": 5},
    "k": {"type": "choice", "values": ["a", "b"]},
}
MODES = [
    {"name": "vqc", "mode": "variational"},
    {"name": "vqc", "mode": "variational", "shots": 64, "circuits": 1},
    {"name": "vqc", "mode": "variational", "twin": True},
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


def test_a_parameter_turns_its_qubit_by_pi_times_its_share_of_the_interval() -> None:
    """theta = pi (eta - a) / (b - a): untrained at zero, a qubit has <Z> = cos(theta)."""
    low, high = -5.0, 5.0
    study = Study({"x": {"type": "uniform", "low": low, "high": high}})
    model = TrainedCircuit(1, layers=1)
    for eta in (-5.0, -1.0, 2.5, 5.0):
        point = study.space.point({"x": eta})[None]
        theta = math.pi * (eta - low) / (high - low)
        got = model.features(point, np.zeros(model.count))
        np.testing.assert_allclose(got, [[math.cos(theta)]], atol=1e-12)


@pytest.mark.parametrize("columns", [1, 2, 5, 7])
def test_parameter_shift_is_the_gradient(columns: int) -> None:
    """Equal to the adjoint method to 1e-10 and to differences, for weights and for points."""
    rng = np.random.default_rng(columns)
    shift, adjoint = TrainedCircuit(columns), TrainedCircuit(columns, gradient="adjoint")
    x, weights = rng.random((3, columns)), shift.start(0)
    down = rng.normal(size=shift.features(x, weights).shape)
    for name in ("weight_slope", "point_slope"):
        ours = getattr(shift, name)(x, weights, down)
        np.testing.assert_allclose(ours, getattr(adjoint, name)(x, weights, down), atol=1e-10)
    step = 1e-6 * np.eye(shift.count)[-1]
    above, below = (float((shift.features(x, weights + s) * down).sum()) for s in (step, -step))
    assert shift.weight_slope(x, weights, down)[-1] == pytest.approx(
        (above - below) / 2e-6, abs=1e-7
    )


def test_the_twins_gradients_are_those_of_its_features() -> None:
    rng = np.random.default_rng(0)
    twin = FourierTwin(2, size=5)
    x, weights, down = rng.random((3, 2)), twin.start(0), rng.normal(size=(3, 5))

    def value(w: Any, at: Any) -> float:
        return float((twin.features(at, w) * down).sum())

    steps = 1e-6 * np.eye(twin.count)
    slope = [(value(weights + s, x) - value(weights - s, x)) / 2e-6 for s in steps]
    np.testing.assert_allclose(twin.weight_slope(x, weights, down), slope, atol=1e-7)
    e = np.zeros_like(x)
    e[1, 0] = 1e-6
    assert twin.point_slope(x, weights, down)[1, 0] == pytest.approx(
        (value(weights, x + e) - value(weights, x - e)) / 2e-6, abs=1e-7
    )


def test_pennylane_has_the_same_expectation_values() -> None:
    qml = pytest.importorskip("pennylane")
    model = TrainedCircuit(3)
    x, weights = np.random.default_rng(0).random((4, 3)), model.start(1)
    own = weights.reshape(2, 3, 3)

    @qml.qnode(qml.device("default.qubit", wires=3))
    def circuit(point: Any) -> Any:
        for layer in range(2):
            for q in range(3):
                qml.RX(math.pi * point[q], wires=q)
            qml.StronglyEntanglingLayers(own[layer][None], wires=range(3), ranges=[layer + 1])
        return [qml.expval(qml.PauliZ(q)) for q in range(3)]

    theirs = np.array([circuit(point) for point in x], float)
    np.testing.assert_allclose(model.features(x, weights)[:, :3], theirs, atol=1e-9)


def test_shots_scatter_around_values_and_gradients() -> None:
    rng = np.random.default_rng(0)
    exact = TrainedCircuit(2)
    x, weights = rng.random((5, 2)), exact.start(0)
    values = exact.features(x, weights)
    down = np.ones_like(values)
    slope = exact.weight_slope(x, weights, down)
    gaps = []
    for shots in (32, 20_000):
        noisy = TrainedCircuit(2, shots=shots, seed=1)
        gaps.append(np.abs(noisy.features(x, weights) - values).mean())
        gaps.append(np.abs(noisy.weight_slope(x, weights, down) - slope).mean())
    assert gaps[0] > 4 * gaps[2] > 0
    assert gaps[1] > 4 * gaps[3] > 0


def test_the_hamiltonian_is_ridge_regression_and_its_error_is_leave_one_out() -> None:
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(12, 4)), rng.normal(size=12)
    h = fit_hamiltonian(phi, y)
    centred = phi - phi.mean(axis=0)
    direct = np.linalg.solve(
        centred.T @ centred + 4 * h.ridge * np.eye(4), centred.T @ (y - y.mean())
    )
    np.testing.assert_allclose(h.coefficients, direct, atol=1e-10)
    assert h.constant == pytest.approx(float(y.mean() - phi.mean(axis=0) @ direct))
    gaps = []
    for i in range(12):
        rest = [j for j in range(12) if j != i]
        c = np.linalg.solve(
            centred[rest].T @ centred[rest] + 4 * h.ridge * np.eye(4),
            centred[rest].T @ (y[rest] - y.mean()),
        )
        gaps.append(y[i] - y.mean() - centred[i] @ c)
    assert h.error == pytest.approx(float(np.mean(np.square(gaps))))


def test_training_lowers_the_error_and_descent_the_loss() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((30, 2))
    y = np.sin(4 * x[:, 0]) * np.cos(3 * x[:, 1])
    model = TrainedCircuit(2, gradient="adjoint")
    start = model.start(0)
    before = fit_hamiltonian(model.features(x, start), y)
    weights, after = train(model, x, y, start, 60, rng)

    def error(w: Any, h: Any) -> float:
        return float(np.mean((h.constant + model.features(x, w) @ h.coefficients - y) ** 2))

    assert error(weights, after) < 0.5 * error(start, before)
    ensemble = Ensemble(model, (weights,), (after,))
    points = rng.random((6, 2))
    down = ensemble.descend(points, 12)
    assert ((down >= 0) & (down <= 1)).all()
    assert ensemble.predict(down)[0].mean() < ensemble.predict(points)[0].mean()


@pytest.mark.parametrize("strategy", MODES, ids=str)
def test_it_searches_resumes_and_spreads(strategy: Any, tmp_path: Path) -> None:
    whole = run(Study(SPACE, strategy=strategy, seed=5), 11)
    assert len({json.dumps(c) for c in whole}) == 11
    study = Study(SPACE, strategy=strategy, seed=5)
    first = run(study, 8)
    study.save(tmp_path / "study")
    again = Study.load(tmp_path / "study")
    assert first + run(again, 3) == whole
    assert len({json.dumps(t.config) for t in again.ask(3)}) == 3
    assert again.best is not None
    assert again.best.value == min(loss(c) for c in whole)


def test_it_finds_the_minimum() -> None:
    study = Study(SPACE, strategy={**MODES[0], "gradient": "adjoint"}, seed=0)
    run(study, 25)
    assert study.best is not None
    assert study.best.value is not None
    assert study.best.value < 0.5


@pytest.mark.parametrize("outcome", ["failed", "nan", "same", "half"])
def test_it_lives_with_failures(outcome: str) -> None:
    study = Study(SPACE, strategy={**MODES[0], "gradient": "adjoint"})
    for i in range(9):
        trial = study.ask()
        if outcome == "same" or (outcome == "half" and i % 2):
            study.tell(trial.id, 1.0 if outcome == "same" else loss(trial.config))
        else:
            study.tell(trial.id, None, "failed" if outcome == "half" else outcome)
    assert len(study.history) == 9


def test_rotations_start_from_earlier_tasks() -> None:
    """Trained on a prior, they differ from those without one; the first trial is a good old one."""
    rng = np.random.default_rng(0)
    configs = [
        {"x": float(a), "y": float(b), "k": "a"} for a, b in rng.uniform(-5, 5, (30, 2))
    ]  # fmt: skip
    prior = Prior(configs=configs, values=[loss(c) for c in configs], names=["old"] * 30)
    strategy = {**MODES[0], "gradient": "adjoint"}
    warm, cold = Study(SPACE, strategy=strategy, prior=prior), Study(SPACE, strategy=strategy)
    assert loss(run(warm, 8)[0]) <= sorted(loss(c) for c in configs)[3]
    run(cold, 8)
    states = [list(study.records())[8]["state"]["weights"][0] for study in (warm, cold)]
    assert not np.allclose(states[0], states[1])


def test_a_pool_and_a_small_grid_are_searched() -> None:
    rows = [{"x": float(a), "y": float(b), "k": "a"} for a in range(-3, 4) for b in range(-3, 4)]
    study = Study(SPACE, strategy={**MODES[0], "gradient": "adjoint"}, pool=rows)
    asked = run(study, 12)
    assert all(c in rows for c in asked)
    assert len({json.dumps(c) for c in asked}) == 12
    grid = Study({"n": {"type": "randint", "low": 0, "high": 12}}, strategy=MODES[0])
    seen = set()
    for _ in range(10):
        trial = grid.ask()
        seen.add(trial.config["n"])
        grid.tell(trial.id, (trial.config["n"] - 7) ** 2)
    assert len(seen) == 10


def test_settings_are_checked() -> None:
    for wrong in ({"mode": "literal"}, {"gradient": "finite"}):
        with pytest.raises(InputError):
            Study(SPACE, strategy={"name": "vqc", **wrong})
