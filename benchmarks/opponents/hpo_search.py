"""Other searchers and the BBOB functions, in an environment that has them.

Reads one JSON object a line and answers each with one line; imports nothing of qcluster.

- ``{"values": [function, dimension, instance], "x": [[...], ...]}``: noise-free values at points of
  the unit cube, which stands for [-5, 5]^d; ``"x": null`` asks for the value at the optimum.
- ``{"search": NAME, "bbob": [f, d, i], "seed": s, "budget": n}``: the values that a searcher found,
  in order, and its CPU seconds a suggestion.
- ``{"search": NAME, "rows": {...}, "seed": s, "budget": n}``: the same on a listed table.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@cache
def suite(dimension: int) -> Any:
    import cocoex

    return cocoex.Suite("bbob", "instances: 1-40", f"dimensions: {dimension}")


@cache
def problem(function: int, dimension: int, instance: int) -> Any:
    return suite(dimension).get_problem_by_function_dimension_instance(
        function, dimension, instance
    )


@cache
def optimum(function: int, dimension: int, instance: int) -> float:
    """The best value; cocoex tells the point only through a file in the working directory."""
    import os

    found = problem(function, dimension, instance)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        found._best_parameter("print")  # noqa: SLF001
        point = np.loadtxt("._bbob_problem_best_parameter.txt")
        os.chdir(before)
    return float(found(point))


def values(task: dict[str, Any]) -> Any:
    found = problem(*task["values"])
    if task["x"] is None:
        return optimum(*task["values"])
    return [float(found(10.0 * np.asarray(x) - 5.0)) for x in task["x"]]


class Bbob:
    """Values of one function on the unit cube."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.found, self.d = problem(*task["bbob"]), task["bbob"][1]

    def optuna(self, trial: Any) -> float:
        return self.found(np.array([trial.suggest_float(f"x{i}", -5, 5) for i in range(self.d)]))

    def unit(self, x: Any) -> float:
        return self.found(10.0 * np.asarray(x) - 5.0)


class Table:
    """A listed table: an unlisted configuration has the value of the nearest row.

    Distance: share of differing categories plus absolute differences of numbers over their range.
    ``values`` has null where the trial failed.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        rows = task["rows"]
        self.names, self.kinds, self.levels = rows["names"], rows["kinds"], rows["levels"]
        self.codes, self.y = np.array(rows["codes"], float), rows["values"]
        self.d = len(self.names)

    def optuna(self, trial: Any) -> float:
        import optuna

        code = []
        for name, kind, levels in zip(self.names, self.kinds, self.levels, strict=True):
            if kind == "choice":
                code.append(levels.index(trial.suggest_categorical(name, levels)))
            elif kind == "log":
                code.append(trial.suggest_float(name, levels[0], levels[-1], log=True))
            elif all(float(v).is_integer() for v in levels):
                code.append(trial.suggest_int(name, int(levels[0]), int(levels[-1])))
            else:
                code.append(trial.suggest_float(name, levels[0], levels[-1]))
        value = self.y[self.nearest(code)]
        if value is None:
            raise optuna.TrialPruned
        return value

    def nearest(self, code: list[Any]) -> int:
        far = np.zeros(len(self.codes))
        for i, (kind, levels) in enumerate(zip(self.kinds, self.levels, strict=True)):
            if kind == "choice":
                far += self.codes[:, i] != code[i]
            else:
                turn = np.log if kind == "log" else float
                scale = turn(levels[-1]) - turn(levels[0]) or 1.0
                listed = np.array([turn(v) for v in levels])
                far += np.abs(listed[self.codes[:, i].astype(int)] - turn(code[i])) / scale
        return int(np.argmin(far))


def sampler(name: str, seed: int) -> Any:
    import optuna

    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "gpsampler":
        return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
    return optuna.samplers.RandomSampler(seed=seed)


def search(task: dict[str, Any]) -> dict[str, Any]:
    """Values in order (null: failed) and median CPU seconds a model-based suggestion."""
    world = Bbob(task) if "bbob" in task else Table(task)
    if task["search"] in ("botorch", "botorch-warped"):
        return botorch_search(
            world, task["seed"], task["budget"], warped=task["search"] == "botorch-warped"
        )
    if task["search"] == "smac":
        return smac_search(world, task["seed"], task["budget"])
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler(task["search"], task["seed"]))
    seen, seconds = [], []
    for _ in range(task["budget"]):
        start = time.process_time()
        trial = study.ask()
        if "bbob" in task:
            point = [trial.suggest_float(f"x{i}", -5, 5) for i in range(world.d)]
            seconds.append(time.process_time() - start)
            seen.append(float(world.found(np.array(point))))
            study.tell(trial, seen[-1])
            continue
        try:
            seen.append(world.optuna(trial))
            seconds.append(time.process_time() - start)
            study.tell(trial, seen[-1])
        except optuna.TrialPruned:
            seen.append(None)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return {"values": seen, "seconds": float(np.median(seconds[10:] or [0]))}


def botorch_search(world: Bbob, seed: int, budget: int, *, warped: bool) -> dict[str, Any]:
    """SingleTaskGP with its defaults and LogEI after 10 Sobol points; ``warped``: Yeo-Johnson."""
    import torch
    from botorch.acquisition import LogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from scipy.stats import qmc, yeojohnson

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x = list(qmc.Sobol(world.d, seed=seed).random(10))
    y, seconds = [float(world.unit(p)) for p in x], []
    box = torch.tensor([[0.0] * world.d, [1.0] * world.d], dtype=torch.double)
    while len(y) < budget:
        start = time.process_time()
        z = np.asarray(y)
        z = (np.median(z) - z) / (np.std(z) or 1.0)
        if warped:
            z = -yeojohnson(-z)[0]
        z = (z - z.mean()) / (z.std() or 1.0)
        inputs, target = torch.tensor(np.array(x)), torch.tensor(z)[:, None]
        model = SingleTaskGP(inputs, target)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        rule = LogExpectedImprovement(model, best_f=target.max())
        point, _ = optimize_acqf(rule, box, q=1, num_restarts=5, raw_samples=256)
        x.append(point[0].numpy())
        seconds.append(time.process_time() - start)
        y.append(float(world.unit(x[-1])))
    return {"values": y, "seconds": float(np.median(seconds))}


def never_called(config: Any, seed: int = 0) -> float:
    """SMAC wants a target function even if it is only asked and told."""
    raise NotImplementedError


def smac_search(world: Bbob, seed: int, budget: int) -> dict[str, Any]:
    """SMAC's facade for hyperparameters (random forest, log expected improvement), its defaults."""
    import logging

    from ConfigSpace import ConfigurationSpace, Float
    from smac import HyperparameterOptimizationFacade as Facade
    from smac import Scenario
    from smac.runhistory.dataclasses import TrialValue

    logging.disable(logging.CRITICAL)
    space = ConfigurationSpace(seed=seed)
    names = [f"x{i}" for i in range(world.d)]
    space.add([Float(name, (0.0, 1.0)) for name in names])
    y, seconds = [], []
    with tempfile.TemporaryDirectory() as directory:
        scenario = Scenario(space, n_trials=budget, deterministic=True, seed=seed,
                            output_directory=Path(directory))  # fmt: skip
        facade = Facade(scenario, never_called, overwrite=True, logging_level=False)
        for _ in range(budget):
            start = time.process_time()
            info = facade.ask()
            seconds.append(time.process_time() - start)
            y.append(float(world.unit([info.config[name] for name in names])))
            facade.tell(info, TrialValue(cost=y[-1]))
    return {"values": y, "seconds": float(np.median(seconds[10:] or [0]))}


def main() -> None:
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(values(task) if "values" in task else search(task)), flush=True)


if __name__ == "__main__":
    main()
