"""Tune serving settings together with qcluster's expert placement, as a Ray Tune sweep.

    python examples/hpo_planner.py [--trials 30] [--workers 2]
    python examples/hpo_planner.py --table FILE.csv [--metric obj-output_throughput+] [--trials 30]

Without a table the objective is a small model of a mixture-of-experts server: ``place_experts``
plans where the replicas go, the fullest GPU sets the pace, and what does not fit in memory crashes.
With a table (a sweep of vLLM or SGLang as CSV: settings ``cfg-*``, results ``obj-*``, empty where
the server crashed) every trial looks its row up, and the searcher may ask for listed rows alone.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from qcluster.q_hpo import GPSearch

SPACE: dict[str, Any] = {
    "replicas": {"type": "qrandint", "low": 0, "high": 64, "q": 8},
    "max_running": {"type": "lograndint", "low": 16, "high": 1024},
    "kv_share": {"type": "uniform", "low": 0.3, "high": 0.95},
    "chunked": {"type": "choice", "values": [True, False]},
    "chunk": {"type": "qlograndint", "low": 256, "high": 8192, "q": 256,
              "when": {"parent": "chunked", "in": [True]}},
}  # fmt: skip


def served(config: dict[str, Any]) -> dict[str, float]:
    """Tokens per second of the model server; raises MemoryError where it does not fit."""
    import numpy as np

    from qcluster.q_routing import place_experts

    load = np.random.default_rng(0).zipf(1.5, (4, 64)).clip(max=200).astype(float)
    plan = place_experts(load, num_slots=64 + config["replicas"], num_gpus=8)
    chunk = config.get("chunk", 8192)
    memory = config["kv_share"] + (64 + config["replicas"]) / 320 + chunk / 65536
    if memory > 1.2:
        raise MemoryError("the experts, their replicas and the cache do not fit")
    batch = min(config["max_running"], 900 * config["kv_share"])
    pace = batch / (batch + 150) * (1 - abs(math.log2(chunk / 2048)) / 20)
    return {"tokens_per_s": 1000 * plan.balancedness * pace}


def listed(path: Path, metric: str) -> tuple[dict[str, Any], list[Any], Callable[..., Any]]:
    """Space, rows and objective of a table."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    levels = {k: sorted({_cell(r[k]) for r in rows}, key=str) for k in rows[0]
              if k.startswith("cfg-") and k != "cfg-config_id"}  # fmt: skip
    space = {k: _parameter(v) for k, v in levels.items() if len(v) > 1}
    pool = [{k: _cell(row[k]) for k in space} for row in rows]
    found = {_key(config): row[metric] for config, row in zip(pool, rows, strict=True)}

    def look_up(config: dict[str, Any]) -> dict[str, float]:
        text = found[_key(config)]
        if not text:
            raise RuntimeError("the server crashed with these settings")
        return {"tokens_per_s": float(text)}

    return space, pool, look_up


def _cell(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _key(config: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(f"{v:.9g}" if isinstance(v, float) else v for _, v in sorted(config.items()))


def _parameter(levels: list[Any]) -> dict[str, Any]:
    if not all(isinstance(v, float) for v in levels):
        return {"type": "choice", "values": levels}
    low, high = min(levels), max(levels)
    kind = "loguniform" if low > 0 and high / low >= 20 else "uniform"
    return {"type": kind, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--metric", default="obj-output_throughput+")
    options = parser.parse_args()
    space, pool, objective = SPACE, None, served
    if options.table is not None:
        space, pool, objective = listed(options.table, options.metric)
    search = GPSearch(space, metric="tokens_per_s", mode="max", seed=0, pool=pool)
    tuner = tune.Tuner(
        objective,
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=options.trials,
            max_concurrent_trials=options.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(verbose=0),
    )
    tuner.fit()
    study = search.study
    assert study is not None
    crashed = sum(trial.status == "failed" for trial in study.history)
    print(f"{crashed} of {len(study.history)} trials crashed")
    for trial in study.top(3):
        settings = ", ".join(f"{name.removeprefix('cfg-')}={_shown(value)}"
                             for name, value in trial.config.items())  # fmt: skip
        print(f"{trial.value:8.1f} tokens/s: {settings}")


if __name__ == "__main__":
    main()
