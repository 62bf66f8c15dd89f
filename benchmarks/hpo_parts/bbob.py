"""BBOB functions (coco-experiment) at 50 evaluations: ours, Optuna's and random search."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import harness
import numpy as np
from hpo_parts import regret
from hpo_parts.opponents import Opponents

from qcluster.q_hpo import Study

FUNCTIONS = (1, 2, 6, 7, 8, 10, 12, 14, 15, 17, 21, 22)
MORE_FUNCTIONS = (3, 13, 19)
"""With the twelve the fifteen tasks of the hybrid."""
BUDGET = 50
RANDOM_RUNS = 25
Problem = tuple[int, int, int]


def problems(
    dimensions: tuple[int, ...], instances: Iterable[int], functions: tuple[int, ...] = FUNCTIONS
) -> list[Problem]:
    """(function, dimension, instance), instances outermost: a part of the list is a fair sample."""
    return [(f, d, i) for i in instances for d in dimensions for f in functions]


def random_regret(world: Opponents, problem: Problem) -> float:
    """Median over 25 runs of random search with the same budget."""

    def compute() -> float:
        rng = np.random.default_rng([7, *problem])
        x = rng.random((RANDOM_RUNS * BUDGET, problem[1]))
        values = world.values(problem, x).reshape(RANDOM_RUNS, BUDGET)
        return float(np.median(values.min(axis=1)) - world.optimum(problem))

    return float(harness.cached("hpo", ["random", problem, BUDGET, RANDOM_RUNS], compute))


def our_run(
    world: Opponents, problem: Problem, strategy: dict[str, Any], seed: int, *, fresh: bool
) -> dict[str, Any]:
    """Our values in order, and median CPU seconds a suggestion after the design."""

    def compute() -> dict[str, Any]:
        space = {f"x{k}": {"type": "uniform", "low": 0, "high": 1} for k in range(problem[1])}
        study = Study(space, strategy=strategy, seed=seed)
        values: list[float] = []
        seconds: list[float] = []
        for _ in range(BUDGET):
            start = time.process_time()
            trial = study.ask()
            seconds.append(time.process_time() - start)
            x = np.array([trial.config[f"x{k}"] for k in range(problem[1])])
            values.append(float(world.values(problem, x)[0]))
            study.tell(trial.id, values[-1])
        arms = [trial.arm for trial in study.history]
        return {"values": values, "seconds": float(np.median(seconds[10:])), "arms": arms}

    key = ["ours", regret.strategy_version(strategy), problem, strategy, seed, BUDGET]
    found: dict[str, Any] = harness.cached("hpo", key, compute, fresh=fresh)
    return found


def measure(
    world: Opponents, tasks: list[Problem], methods: dict[str, Any], *, fresh: bool
) -> dict[str, list[float]]:
    """Normalised regrets of each method on each task (seed = instance).

    ``methods``: name to our strategy settings, or to None for an opponent of that name.
    """
    out: dict[str, list[float]] = {name: [] for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for problem in tasks:
        best, chance = world.optimum(problem), random_regret(world, problem)
        for name, strategy in methods.items():
            if strategy is None:
                task = {"bbob": list(problem), "seed": problem[2], "budget": BUDGET}
                found = world.search(name, task)
            else:
                found = our_run(world, problem, strategy, problem[2], fresh=fresh)
            if found is not None:
                out[name].append(regret.normalised(found["values"], best, chance))
                seconds[name].append(found["seconds"])
    for name, values in seconds.items():
        if values:
            out[f"{name} seconds"] = [float(np.median(values))]
    return out


def gp_row(world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """The Gaussian process against TPE and GPSampler."""
    tasks = problems((5, 10), (1,) if quick else (1, 2, 3, 4, 5))
    found = measure(
        world, tasks, {"gp": {"name": "gp"}, "gpsampler": None, "tpe": None}, fresh=fresh
    )
    rows, result = [], {}
    for d in (5, 10, 0):
        pick = [k for k, task in enumerate(tasks) if d in (0, task[1])]
        ours = [found["gp"][k] for k in pick]
        for name in ("gpsampler", "tpe"):
            if len(found[name]) < len(tasks):
                continue
            theirs = [found[name][k] for k in pick]
            line = regret.compare(ours, theirs)
            result[f"d={d or 'all'} vs {name}"] = line
            rows.append(
                [d or "5, 10", regret.geometric(ours), name, regret.geometric(theirs),
                 line["ratio"], f"{line['wins']}-{line['losses']}", line["p"]]
            )  # fmt: skip
    harness.table(
        f"GP on BBOB, 50 evaluations, {len(tasks)} tasks: geometric mean of regret / random's",
        ["d", "ours", "opponent", "theirs", "ratio", "wins-losses", "p"],
        rows,
    )
    seconds = {name: found[f"{name} seconds"][0] for name in ("gp", "gpsampler", "tpe")
               if f"{name} seconds" in found}  # fmt: skip
    harness.table("CPU seconds a suggestion (median)", list(seconds), [list(seconds.values())])
    return {"comparisons": result, "seconds": seconds}


def arms_row(world: Opponents, *, quick: bool, fresh: bool, seeds: int = 20) -> dict[str, Any]:
    """Circuits against TPE and their classical twin on the twelve functions; the hybrid against
    both of its arms on fifteen. Seed = instance.
    """
    tasks = problems((5,), range(1, 2 if quick else seeds + 1), FUNCTIONS + MORE_FUNCTIONS)
    methods: dict[str, Any] = {
        "gp": {"name": "gp"},
        "vqc": {"name": "vqc"},
        "twin": {"name": "vqc", "twin": True},
        "hybrid": {"name": "hybrid"},
        "tpe": None,
    }
    found = measure(world, tasks, methods, fresh=fresh)
    twelve = [k for k, task in enumerate(tasks) if task[0] in FUNCTIONS]
    harness.table(
        f"Arms on BBOB d=5, 50 evaluations, {len(tasks)} task-seeds of 15 functions",
        ["method", "geometric mean", "CPU s a suggestion"],
        [[name, regret.geometric(found[name]), found[f"{name} seconds"][0]]
         for name in methods if found[name]],
    )  # fmt: skip
    result: dict[str, Any] = {}
    pairs = [("vqc", "tpe", twelve), ("twin", "tpe", twelve), ("vqc", "twin", twelve)]
    pairs += [("hybrid", name, list(range(len(tasks)))) for name in ("gp", "vqc")]
    for ours, theirs, pick in pairs:
        if len(found[theirs]) == len(tasks):
            result[f"{ours} vs {theirs}"] = regret.compare(
                [found[ours][k] for k in pick], [found[theirs][k] for k in pick]
            )
    harness.table(
        "Pairs",
        ["pair", "ratio", "95 % below", "wins", "losses", "pairs", "p"],
        [[name, r["ratio"], r["bound"], r["wins"], r["losses"], r["pairs"], r["p"]]
         for name, r in result.items()],
    )  # fmt: skip
    line = better_arm(tasks, found)
    harness.table(
        "Hybrid over the better of its arms, by function", list(line), [list(line.values())]
    )
    return {**result, "hybrid over better arm": line}


def trained_row(world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """Trained circuits (mode variational), their classical twin, and circuits left random."""
    tasks = problems((5,), (1,) if quick else (1, 2, 3))
    trained = {"name": "vqc", "mode": "variational", "gradient": "adjoint"}
    methods: dict[str, Any] = {
        "variational": trained,
        "its twin": {**trained, "twin": True},
        "features": {"name": "vqc"},
        "tpe": None,
    }
    found = measure(world, tasks, methods, fresh=fresh)
    harness.table(
        f"Trained circuits on BBOB d=5, 50 evaluations, {len(tasks)} task-seeds",
        ["method", "geometric mean", "CPU s a suggestion"],
        [[name, regret.geometric(found[name]), found[f"{name} seconds"][0]]
         for name in methods if found[name]],
    )  # fmt: skip
    return {
        f"variational vs {name}": regret.compare(found["variational"], found[name])
        for name in list(methods)[1:]
        if len(found[name]) == len(tasks)
    }


def better_arm(tasks: list[Problem], found: dict[str, list[float]]) -> dict[str, Any]:
    """The hybrid's geometric mean over the better arm's, function by function."""
    ratios = {}
    for f in sorted({task[0] for task in tasks}):
        pick = [k for k, task in enumerate(tasks) if task[0] == f]
        means = {
            name: regret.geometric([found[name][k] for k in pick])
            for name in ("gp", "vqc", "hybrid")
        }
        ratios[f"f{f}"] = means["hybrid"] / min(means["gp"], means["vqc"])
    return {"geometric mean": regret.geometric(list(ratios.values())), **ratios}
