"""Tune a torch network with ASHA: poor trials stop early, and the searcher knows that they did.

    python examples/hpo_torch_asha.py [--trials 24] [--epochs 16] [--workers 2]

A stopped trial's error is no final loss. ``max_step`` tells the searcher which epoch is the last,
so stopped trials only hint at the order of configurations.
"""

from __future__ import annotations

import argparse
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from qcluster.q_hpo import GPSearch

SPACE = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "width": tune.lograndint(8, 129),
    "depth": tune.randint(1, 4),
    "dropout": tune.quniform(0.0, 0.5, 0.05),
    "batch": tune.choice([32, 64, 128]),
    "activation": tune.choice(["relu", "tanh"]),
}


def train(config: dict[str, Any]) -> None:
    """Report the error on held-out digits after every epoch."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x))
    train_on, test_on = order[400:], order[:400]
    layers: list[nn.Module] = []
    size = x.shape[1]
    for _ in range(config["depth"]):
        layers += [
            nn.Linear(size, config["width"]),
            nn.ReLU() if config["activation"] == "relu" else nn.Tanh(),
            nn.Dropout(config["dropout"]),
        ]
        size = config["width"]
    model = nn.Sequential(*layers, nn.Linear(size, 10))
    step = torch.optim.SGD(model.parameters(), config["lr"], momentum=0.9)
    for _ in range(config["epochs"]):
        model.train()
        for part in train_on[torch.randperm(len(train_on))].split(config["batch"]):
            step.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            step.step()
        model.eval()
        with torch.no_grad():
            wrong = (model(x[test_on]).argmax(dim=1) != y[test_on]).float().mean()
        tune.report({"error": float(wrong)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    search = GPSearch(metric="error", mode="min", seed=0, max_step=options.epochs)
    tuner = tune.Tuner(
        train,
        param_space={**SPACE, "epochs": options.epochs},
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=ASHAScheduler(
                metric="error", mode="min", max_t=options.epochs, grace_period=1,
                reduction_factor=4,
            ),
            num_samples=options.trials,
            max_concurrent_trials=options.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(verbose=0),
    )  # fmt: skip
    tuner.fit()
    study = search.study
    assert study is not None
    spent = sum(trial.step or 0 for trial in study.history)
    stopped = sum((trial.step or 0) < options.epochs for trial in study.history)
    assert study.best is not None
    print(f"{stopped} of {options.trials} trials were stopped: {spent} epochs instead of "
          f"{options.trials * options.epochs}")  # fmt: skip
    print(f"best: {study.best.value:.4f} with {study.best.config}")


if __name__ == "__main__":
    main()
