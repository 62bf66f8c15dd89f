"""Listed tables: sweeps of serving and retrieval (many crash), grids of networks; our searcher is
given the rows.

A number column becomes an interval of the listed values (logarithmic from a ratio of 20 up), a
text or true/false column a choice; constant columns are dropped. Random search draws rows without
replacement; Optuna's samplers see the same parameters and get the value of the nearest row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import harness
import numpy as np
from hpo_parts import regret
from hpo_parts.opponents import Opponents

from qcluster.q_hpo import Study

DATA = harness.DATA / "hpo"


@dataclass(frozen=True)
class Table:
    """Rows of a sweep. ``values`` are minimised, None where the trial failed."""

    name: str
    space: dict[str, Any]
    rows: list[dict[str, Any]]
    values: list[float | None]

    @property
    def best(self) -> float:
        """The lowest value."""
        return min(v for v in self.values if v is not None)


def sweep_table(file: str, objective: str, *, maximise: bool) -> Table:
    """A table of LLMSYS: parameters ``cfg-*``, one of its objectives."""
    import pandas as pd

    frame = pd.read_csv(DATA / file)
    names = [n for n in frame if n.startswith("cfg-") and n != "cfg-config_id"]
    values = [
        None if math.isnan(v) else (-v if maximise else v) for v in frame[objective].to_numpy(float)
    ]
    return _table(file, frame[names], values)


def hpobench_table(name: str) -> Table:
    """Validation error of a grid of networks, mean of five seeds."""
    return _grid(f"hpobench_{name}", "val_acc_s", (-1.0, 1.0))


def _grid(name: str, column: str, turn: tuple[float, float]) -> Table:
    """A full grid: mean of the columns that begin with ``column`` times turn[0] plus turn[1]."""
    import pandas as pd

    frame = pd.read_csv(DATA / f"{name}.csv.gz")
    measured = frame[[n for n in frame if n.startswith(column)]].mean(axis=1)
    names = [n for n in frame if not n.startswith("val_") and not n.endswith("_mean")]
    return _table(name, frame[names], [turn[1] + turn[0] * float(v) for v in measured])


def _table(name: str, frame: Any, values: list[float | None]) -> Table:
    space: dict[str, Any] = {}
    frame = frame.copy()
    for column in frame:
        if frame[column].isna().any():
            text = frame[column].dtype.kind not in "if"
            known = frame[column].astype(object)
            frame[column] = known.fillna("missing" if text else frame[column].min())
    columns = [c for c in frame if frame[c].nunique() > 1]
    for column in columns:
        levels = sorted(frame[column].unique().tolist(), key=lambda v: (isinstance(v, str), v))
        number = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in levels)
        if not number:
            space[column] = {"type": "choice", "values": levels}
        else:
            low, high = float(levels[0]), float(levels[-1])
            log = low > 0 and high / low >= 20
            space[column] = {"type": "loguniform" if log else "uniform", "low": low, "high": high}
    rows = frame[columns].to_dict("records")
    return Table(name, space, rows, values)


def our_run(table: Table, strategy: str, seed: int, budget: int) -> list[float | None]:
    """Values in order; the rows are the study's pool."""
    study = Study(table.space, strategy=strategy, seed=seed, pool=table.rows)
    keys = study.space.points(table.rows)
    found: list[float | None] = []
    for _ in range(budget):
        trial = study.ask()
        row = int(np.argmin(np.abs(keys - study.space.point(trial.config)).sum(axis=1)))
        found.append(table.values[row])
        study.tell(trial.id, found[-1], "ok" if found[-1] is not None else "failed")
    return found


def random_run(table: Table, seed: int, budget: int) -> list[float | None]:
    """Rows without replacement."""
    order = np.random.default_rng([seed, 77]).permutation(len(table.rows))[:budget]
    return [table.values[i] for i in order]


def cached_run(table: Table, strategy: str, seed: int, budget: int, *, fresh: bool) -> Any:
    """``our_run`` from the cache."""
    key = ["table", regret.ours_version(), table.name, strategy, seed, budget]
    return harness.cached("hpo", key, lambda: our_run(table, strategy, seed, budget), fresh=fresh)


def crash_row(_world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """SGLang: share of seeds that come within 5 % of the best in 25 trials; 88 % of rows crash."""
    table = sweep_table("llmsys_sglang_odd.csv", "obj-output_throughput+", maximise=True)
    seeds = range(6 if quick else 20)
    target = 0.95 * table.best
    rows = []
    result: dict[str, Any] = {}
    for name in ("gp", "random"):
        runs = [
            cached_run(table, name, s, 25, fresh=fresh)
            if name == "gp"
            else random_run(table, s, 25)
            for s in seeds
        ]
        hits = [any(v is not None and v <= target for v in run) for run in runs]
        result[name] = sum(hits) / len(hits)
        rows.append([name, f"{sum(hits)} of {len(hits)}", result[name]])
    harness.table(
        "SGLang: within 5 % of the best in 25 trials", ["searcher", "seeds", "share"], rows
    )
    return result


def sampled(table: Table, rows: int = 3000) -> Table:
    """So many random rows of a long table, the same for everybody."""
    if len(table.rows) <= rows:
        return table
    pick = np.random.default_rng(2).permutation(len(table.rows))[:rows]
    return Table(
        f"{table.name}, {rows} rows", table.space,
        [table.rows[i] for i in pick], [table.values[i] for i in pick],
    )  # fmt: skip


def opponents_task(table: Table, seed: int, budget: int) -> dict[str, Any]:
    """The table as the opponents' environment reads it: levels of each column, and their codes."""
    kinds, levels, codes = [], [], []
    for name, spec in table.space.items():
        column = [row[name] for row in table.rows]
        known = spec["values"] if spec["type"] == "choice" else sorted({float(v) for v in column})
        at = {value: i for i, value in enumerate(known)}
        kinds.append({"choice": "choice", "loguniform": "log", "uniform": "number"}[spec["type"]])
        levels.append(known)
        codes.append([at[value] for value in column])
    rows = {"names": list(table.space), "kinds": kinds, "levels": levels,
            "codes": np.array(codes).T.tolist(), "values": table.values}  # fmt: skip
    return {"rows": rows, "seed": seed, "budget": budget}


def table_row(
    world: Opponents, *, quick: bool, fresh: bool, seeds: int = 20, budget: int = 30
) -> dict[str, Any]:
    """All tables against random search of the same rows and Optuna's samplers."""
    tables = [
        sweep_table("llmsys_vllm_5.0-0.5-4-50-r1.csv", "obj-output_throughput+", maximise=True),
        sweep_table("llmsys_sglang_odd.csv", "obj-output_throughput+", maximise=True),
    ]
    if not quick:
        tables += [sampled(hpobench_table(name)) for name in ("credit_g", "segment", "car")]
        tables += [
            sampled(_grid("hpolib_protein_structure", "val_loss_s", (1.0, 0.0))),
            sampled(_grid("nasbench201_cifar10", "val_acc_s", (-1.0, 100.0))),
            sweep_table("llmsys_html_rag_1-01-05.csv", "obj-Answer_F1+", maximise=True),
        ]
    runs = range(4 if quick else seeds)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in runs:
        for table in tables:
            one = found.setdefault(table.name, {})
            for name, value in _one_seed(world, table, seed, budget, fresh=fresh).items():
                one.setdefault(name, []).append(value)
    rows, result = [], {}
    found["all"] = {
        name: [value for one in found.values() for value in one[name]] for name in METHODS
        if all(name in one for one in found.values())
    }  # fmt: skip
    for name, one in found.items():
        against = {k: regret.compare(one["gp"], v) for k, v in one.items() if k != "gp"}
        result[name] = {"gp": regret.geometric(one["gp"]), **against}
        rows.append([name, len(one["gp"]), *(
            regret.geometric(one[k]) if k in one else "" for k in METHODS
        ), *(f"{against[k]['ratio']:.2f} ({against[k]['p']:.2g})" if k in against else ""
             for k in METHODS[1:])])  # fmt: skip
    harness.table(
        f"Tables, {budget} trials: regret over random's, and ours over each (p)",
        ["table", "seeds", *METHODS, *METHODS[1:]], rows,
    )  # fmt: skip
    return result


METHODS = ("gp", "random", "gpsampler", "tpe")


def _one_seed(
    world: Opponents, table: Table, seed: int, budget: int, *, fresh: bool
) -> dict[str, float]:
    """Normalised regret of each method that can run here."""
    draws = [random_run(table, 1000 + s, budget) for s in range(51)]
    ends = [min((v for v in run if v is not None), default=math.inf) for run in draws]
    chance = float(np.median(ends)) - table.best
    runs = {
        "gp": cached_run(table, "gp", seed, budget, fresh=fresh),
        "random": random_run(table, seed, budget),
    }
    for name in METHODS[2:]:
        answer = world.search(name, opponents_task(table, seed, budget))
        if answer is not None:
            runs[name] = answer["values"]
    return {name: regret.normalised(run, table.best, chance) for name, run in runs.items()}
