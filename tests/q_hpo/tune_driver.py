"""Ray Tune sweeps in processes of their own, to be killed: run by ``test_hpo_tune.py``.

``python tune_driver.py ray`` starts a Ray, prints its address, and ends with its standard input.
``python tune_driver.py sweep JSON`` runs or restores one sweep there and prints what became of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

from qcluster.q_hpo import GPSearch, Study


def keep_ray(cpus: int) -> None:
    with tempfile.TemporaryDirectory(prefix="qh-", dir="/tmp") as directory:
        found = ray.init(
            "local", num_cpus=cpus, include_dashboard=False, log_to_driver=False,
            _temp_dir=directory,
        )  # fmt: skip
        print(found.address_info["address"], flush=True)
        sys.stdin.read()
        ray.shutdown()


SPACE: dict[str, Any] = {
    "x": tune.uniform(-5, 5),
    "lr": tune.loguniform(1e-5, 1e-1),
    "kind": tune.choice(["a", "b"]),
}


def loss(config: dict[str, Any]) -> float:
    return float((config["x"] - 1) ** 2 + abs(math.log10(config["lr"]) + 3))


def draw(config: dict[str, Any]) -> float:
    """A number in [0, 1) that depends on the configuration alone."""
    text = json.dumps(config, sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") / 2**32


def trainable(config: dict[str, Any]) -> dict[str, Any]:
    """A smooth loss; with ``faults``, 30 % NaN, 20 % exceptions, 10 % killed workers."""
    options = config["options"]
    tried = {name: config[name] for name in ("x", "lr", "kind")}
    time.sleep(options["seconds"])
    with Path(options["directory"], "ran.jsonl").open("a") as file:
        file.write(json.dumps(tried) + "\n")
    share = draw(tried) if options["faults"] else 1.0
    if share < 0.1:
        os.kill(os.getpid(), signal.SIGKILL)
    if share < 0.3:
        raise RuntimeError("injected")
    if share < 0.6:
        return {"loss": math.nan}
    return {"loss": loss(tried)}


def sweep(options: dict[str, Any]) -> None:
    directory = Path(options["directory"])
    ray.init(options["address"], log_to_driver=False, logging_level=logging.ERROR)
    space = {**SPACE, "options": {k: options[k] for k in ("directory", "seconds", "faults")}}
    path = directory / "results" / "sweep"
    if options["restore"]:
        tuner = tune.Tuner.restore(str(path), trainable, param_space=space)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=GPSearch(metric="loss", mode="min", seed=3),
                num_samples=options["samples"],
                max_concurrent_trials=options["concurrency"],
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=str(directory / "results"), verbose=0,
                failure_config=tune.FailureConfig(max_failures=options["retries"]),
            ),
        )  # fmt: skip
    results = tuner.fit()
    searcher = max(path.glob("searcher-state-*.pkl"))
    records = json.loads(searcher.read_text())["study"]
    study = Study.from_records(records)
    print(json.dumps({
        "trials": len(results), "errors": results.num_errors,
        "study": [{**t.to_dict(), "id": ""} for t in study.history],
    }))  # fmt: skip


SPACES: dict[str, dict[str, Any]] = {
    "floats": {"a": tune.uniform(-5, 5), "b": tune.loguniform(1e-5, 1e-1),
               "c": tune.quniform(-5, 5, 0.5), "d": tune.qloguniform(1e-3, 1.0, 1e-3)},
    "integers": {"a": tune.randint(0, 10), "b": tune.qrandint(0, 10, 2),
                 "c": tune.lograndint(1, 1000), "d": tune.qlograndint(4, 64, 4)},
    "choices": {"a": tune.choice(["relu", None, (1, 2), True]), "b": tune.choice([0.5]),
                "c": tune.choice([dict, list])},
    "normal": {"a": tune.randn(0, 1), "b": tune.qrandn(0, 2, 0.5)},
    "nested": {"model": {"depth": tune.randint(1, 5), "width": 64,
                         "head": {"p": tune.uniform(0, 1)}}, "seed": 1},
    "constants": {"x": tune.uniform(0, 1), "build": len, "layers": [64, 64], "name": "run"},
    "function": {},
}  # fmt: skip


def define(trial: Any) -> dict[str, Any]:
    """A define-by-run space, as OptunaSearch takes it."""
    trial.suggest_float("x", -5, 5)
    if trial.suggest_categorical("kind", ["flat", "deep"]) == "deep":
        trial.suggest_int("depth", 1, 6)
    return {"epochs": 3}


def measure(config: dict[str, Any]) -> None:
    """Every value is of its domain; two reports, the last one counts."""
    text = json.dumps(config, sort_keys=True, default=repr).encode()
    expected = config.get("model", config)
    if "depth" in expected:
        assert 1 <= expected["depth"] <= 6
    for epoch in range(2):
        tune.report({"loss": len(text) + epoch})


def spaces(options: dict[str, Any]) -> None:
    ray.init(options["address"], log_to_driver=False, logging_level=logging.ERROR)
    found = {}
    for name, space in SPACES.items():
        search = GPSearch(define if name == "function" else None, metric="loss", mode="min")
        tuner = tune.Tuner(
            measure,
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=search, num_samples=3, metric=None, max_concurrent_trials=2,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name=name, storage_path=options["directory"], verbose=0),
        )  # fmt: skip
        results = tuner.fit()
        assert search.study is not None
        told = sum(t.status == "ok" and t.step == 2 for t in search.study.history)
        found[name] = {"trials": len(results), "errors": results.num_errors, "told": told}
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "ray":
        keep_ray(int(sys.argv[2]))
    elif sys.argv[1] == "spaces":
        spaces(json.loads(sys.argv[2]))
    else:
        sweep(json.loads(sys.argv[2]))
