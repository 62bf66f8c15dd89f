"""Tune a scikit-learn classifier in a Ray Tune sweep.

    python examples/hpo_sklearn.py [--trials 24] [--workers 2]

The kernel decides which of the other parameters exist, so the space is written as a function of the
trial; a script with ``OptunaSearch`` would write the same one.
"""

from __future__ import annotations

import argparse
from typing import Any

from ray import tune

from qcluster.q_hpo import GPSearch


def space(trial: Any) -> None:
    trial.suggest_float("C", 1e-3, 1e3, log=True)
    kernel = trial.suggest_categorical("kernel", ["rbf", "poly", "linear"])
    if kernel != "linear":
        trial.suggest_float("gamma", 1e-5, 1e-1, log=True)
    if kernel == "poly":
        trial.suggest_int("degree", 2, 4)


def error(config: dict[str, Any]) -> dict[str, float]:
    """Misclassified share of the bundled digits, three-fold."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    pixels, digits = load_digits(return_X_y=True)
    model = SVC(**config, cache_size=50)
    return {"error": 1.0 - float(cross_val_score(model, pixels[::2], digits[::2], cv=3).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    search = GPSearch(space, metric="error", mode="min", seed=0)
    tuner = tune.Tuner(
        error,
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=options.trials,
            max_concurrent_trials=options.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(verbose=0),
    )
    best = tuner.fit().get_best_result("error", "min")
    assert best.metrics is not None
    print(f"best of {options.trials}: {best.metrics['error']:.4f} with {best.config}")


if __name__ == "__main__":
    main()
