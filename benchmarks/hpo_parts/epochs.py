"""Learning curves of real networks: scikit-learn's perceptron, 27 epochs, on data that is at hand.

A task is a data set; a configuration has five parameters, and what an epoch shows is the error on
held-out rows. 400 random configurations are trained once and kept; others are trained as asked.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from typing import Any

import harness
import numpy as np

EPOCHS, CONFIGS, TRAINED = 27, 400, 600
SPACE: dict[str, Any] = {
    "learning_rate_init": {"type": "loguniform", "low": 1e-4, "high": 1e-1},
    "alpha": {"type": "loguniform", "low": 1e-7, "high": 1e-1},
    "batch_size": {"type": "loguniform", "low": 8, "high": 128},
    "width": {"type": "loguniform", "low": 8, "high": 128},
    "depth": {"type": "randint", "low": 1, "high": 4},
}
NAMES = ("digits", "made 1")


def configurations(name: str) -> list[dict[str, Any]]:
    """The task's configurations, drawn evenly in the space's own scales."""
    rng = np.random.default_rng([sum(name.encode()), CONFIGS])
    rows = []
    for _ in range(CONFIGS):
        row: dict[str, Any] = {"depth": int(rng.integers(1, 4))}
        for key, one in SPACE.items():
            if one["type"] == "loguniform":
                row[key] = float(np.exp(rng.uniform(np.log(one["low"]), np.log(one["high"]))))
        rows.append({key: row[key] for key in SPACE})
    return rows


def data(name: str) -> tuple[np.ndarray, ...]:
    """Training and held-out rows and labels, scaled: ``digits``, or ``made N`` (seed N)."""
    from sklearn.datasets import load_digits, make_classification
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    if name == "digits":
        x, y = load_digits(return_X_y=True)
    else:
        seed = int(name.split()[1])
        x, y = make_classification(
            3000, 25, n_informative=12, n_classes=4, n_clusters_per_class=2, flip_y=0.02,
            class_sep=1.2, random_state=seed,
        )  # fmt: skip
    x, held, y, answers = train_test_split(x, y, train_size=TRAINED, random_state=0, stratify=y)
    scale = StandardScaler().fit(x)
    return scale.transform(x), scale.transform(held), y, answers


def curves(name: str, *, fresh: bool = False) -> np.ndarray:
    """(400, 27) errors of ``configurations`` after each epoch."""

    def compute() -> list[list[float]]:
        sets = data(name)
        return [_trained(row, sets, i) for i, row in enumerate(configurations(name))]

    return np.array(harness.cached("hpo", ["epochs", name, SPACE, CONFIGS], compute, fresh=fresh))


def live(name: str) -> Callable[[dict[str, Any], int], float]:
    """The error of a configuration after so many epochs, trained on from where it was left."""
    sets = data(name)
    begun: dict[str, tuple[Any, list[float]]] = {}

    def curve(config: dict[str, Any], step: int) -> float:
        key = " ".join(f"{config[k]:.9g}" for k in SPACE)
        net, errors = begun.setdefault(key, (_net(config, zlib.crc32(key.encode())), []))
        _train(net, sets, errors, step)
        return errors[step - 1]

    return curve


def _net(config: dict[str, Any], seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        [round(config["width"])] * config["depth"],
        learning_rate_init=config["learning_rate_init"],
        alpha=config["alpha"], batch_size=round(config["batch_size"]), random_state=seed,
    )  # fmt: skip


def _train(net: Any, sets: tuple[np.ndarray, ...], errors: list[float], step: int) -> None:
    """So that ``errors`` has ``step`` entries."""
    x, held, y, answers = sets
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflow, where the rate is too large
        while len(errors) < step:
            net.partial_fit(x, y, classes=np.unique(y))
            errors.append(float(np.mean(net.predict(held) != answers)))


def _trained(config: dict[str, Any], sets: tuple[np.ndarray, ...], seed: int) -> list[float]:
    errors: list[float] = []
    _train(_net(config, seed), sets, errors, EPOCHS)
    return errors
