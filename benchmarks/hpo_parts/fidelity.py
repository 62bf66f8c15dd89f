"""Early stopping: how many epochs successive halving needs for what full trials find.

Two sources of curves. LCDB's measured ones: a task is a data set, a configuration one of its
learners, an epoch's place is taken by training on more rows. And networks of HPOBench with epochs
from a generator, because the table holds final values only:

    error(t) = final + (0.9 - final) (t^-a - 27^-a) / (1 - 27^-a) / 2,
    a = 1 + log10(rate / 1e-3) / 4 in [0.4, 1.6], plus noise of 2 % of the gap to the final value

so that small learning rates are slow, and curves cross. The scheduler is asynchronous successive
halving of one worker with Ray's rule: at each rung a trial outside the best third stops.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
from hpo_parts import regret
from hpo_parts.opponents import Opponents
from hpo_parts.tables import DATA, hpobench_table

from qcluster.q_hpo import Study

KEEP = 3
FULL_TRIALS = 40
Curve = Callable[[dict[str, Any], int], float]


def generated(name: str, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any], Curve, float]:
    """2,000 random rows of an HPOBench table, their space, the curve, and the best final value."""
    table = hpobench_table(name)
    pick = np.random.default_rng([seed, 3]).permutation(len(table.rows))[:2000]
    rows = [table.rows[i] for i in pick]
    final = {_key(row): float(table.values[i] or 0.0) for row, i in zip(rows, pick, strict=True)}

    def curve(config: dict[str, Any], step: int) -> float:
        key = _key(config)
        end = final[key]
        a = min(max(1.0 + 0.25 * math.log10(config["learning_rate_init"] / 1e-3), 0.4), 1.6)
        gap = 0.5 * (0.9 - end) * (step**-a - 27**-a) / (1 - 27**-a)
        noise = np.random.default_rng([zlib.crc32(key.encode()), step]).normal()
        return float(end + gap * (1 + 0.02 * noise))

    return rows, table.space, curve, min(final.values())


def _key(config: dict[str, Any]) -> str:
    return " ".join(f"{value:.6g}" for value in config.values())


def measured(dataset: int) -> tuple[list[dict[str, Any]], list[int], Curve, float] | None:
    """Learners of an LCDB data set that have values at all its sizes, the sizes, and the curve."""
    import pandas as pd

    frame = pd.read_csv(DATA / "lcdb_accuracy_A.csv")
    frame = frame[frame.openmlid == dataset]
    wide = frame.pivot_table(index="learner", columns="size_train", values="score_valid")
    sizes = [s for s in wide.columns if wide[s].notna().mean() > 0.7]
    wide = wide[sizes].dropna()
    if len(wide) < 10 or len(sizes) < 8:
        return None
    errors = {name: 1.0 - row.to_numpy() for name, row in wide.iterrows()}

    def curve(config: dict[str, Any], step: int) -> float:
        return float(errors[config["learner"]][sizes.index(step)])

    rows = [{"learner": name} for name in errors]
    return rows, sizes, curve, min(float(e[-1]) for e in errors.values())


def search(
    space: dict[str, Any], rows: list[dict[str, Any]], curve: Curve, rungs: list[int],
    *, budget: int, seed: int, halving: bool,
) -> tuple[float, int]:  # fmt: skip
    """The best final value within ``budget`` epochs, and the epochs spent."""
    study = Study(space, seed=seed, pool=rows, max_step=rungs[-1])
    seen: dict[int, list[float]] = {rung: [] for rung in rungs}
    spent = 0
    while spent < budget and len(study.history) < len(rows):
        trial, before = study.ask(), 0
        for rung in rungs if halving else rungs[-1:]:
            spent += rung - before
            before, value = rung, curve(trial.config, rung)
            seen[rung].append(value)
            if rung == rungs[-1] or value > np.quantile(seen[rung], 1 / KEEP):
                study.tell(trial.id, value, step=rung)
                break
            study.report(trial.id, value, rung)
    best = study.best
    return (float(best.value or 0.0) if best else float("inf")), spent


def fidelity_row(_world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """Regret of full trials, and of halving with a fifth of their epochs."""
    names = ("credit_g",) if quick else ("credit_g", "segment", "car")
    pairs: dict[str, list[tuple[float, float, float]]] = {}
    for name in names:
        for seed in range(2 if quick else 4):
            pairs.setdefault(f"generated, {name}", []).append(_generated_pair(name, seed, fresh))
    for dataset in _datasets()[: 3 if quick else None]:
        found = _measured_pair(dataset, fresh)
        if found is not None:
            pairs.setdefault("measured, LCDB", []).append(found)
    rows, result = [], {}
    for name, values in pairs.items():
        full, stopped, share = np.array(values).T
        floor = 1e-3
        line = {
            "tasks": len(values), "full": float(full.mean()), "halving": float(stopped.mean()),
            "epochs": float(share.mean()),
            **regret.compare(np.maximum(stopped, floor).tolist(), np.maximum(full, floor).tolist()),
        }  # fmt: skip
        result[name] = line
        rows.append([name, line["tasks"], line["full"], line["halving"], line["epochs"],
                     line["ratio"], line["wins"], line["losses"]])  # fmt: skip
    harness.table(
        "Early stopping: error above the best, full trials and halving (share of epochs)",
        ["curves", "tasks", "full", "halving", "epochs", "ratio", "wins", "losses"], rows,
    )  # fmt: skip
    return result


def _generated_pair(name: str, seed: int, fresh: bool) -> tuple[float, float, float]:
    def compute() -> list[float]:
        rows, space, curve, best = generated(name, seed)
        full, cost = search(
            space, rows, curve, [1, 3, 9, 27], budget=27 * FULL_TRIALS, seed=seed, halving=False
        )
        stopped, less = search(
            space, rows, curve, [1, 3, 9, 27], budget=27 * FULL_TRIALS // 5 - 27, seed=seed,
            halving=True,
        )  # fmt: skip
        return [full - best, stopped - best, less / cost]

    key = ["fidelity", regret.ours_version(), name, seed]
    a, b, c = harness.cached("hpo", key, compute, fresh=fresh)
    return a, b, c


def _measured_pair(dataset: int, fresh: bool) -> tuple[float, float, float] | None:
    task = measured(dataset)
    if task is None:
        return None
    rows, sizes, curve, best = task
    space = {"learner": {"type": "choice", "values": [row["learner"] for row in rows]}}
    trials = 2 * len(rows) // 3

    def compute() -> list[float]:
        last = sizes[-1]
        rungs = [s for k, s in enumerate(reversed(sizes)) if k % 4 == 0 and s * 100 >= last][::-1]
        full, cost = search(
            space, rows, curve, [last], budget=trials * last, seed=dataset, halving=False
        )
        stopped, less = search(
            space, rows, curve, rungs, budget=trials * last // 5 - last, seed=dataset, halving=True
        )
        return [full - best, stopped - best, less / cost]

    key = ["fidelity", regret.ours_version(), "lcdb", dataset]
    a, b, c = harness.cached("hpo", key, compute, fresh=fresh)
    return a, b, c


def _datasets() -> list[int]:
    import pandas as pd

    frame = pd.read_csv(DATA / "lcdb_accuracy_A.csv", usecols=["openmlid"])
    return sorted(int(v) for v in frame.openmlid.unique())
