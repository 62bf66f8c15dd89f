"""Warm starts between the three data sets of HPOBench, and between the two of ``epochs.py``.

The prior is 200 random rows of another table, as a random search would leave them, 200 rows of each
of the two others, or those of one with all signs flipped. The study searches 3,000 random rows of
its own table (of ``epochs.py`` all 400), the same for all kinds of start. Regrets are over the
median of random search at 30 trials.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import harness
import numpy as np
from hpo_parts import epochs, regret
from hpo_parts.opponents import Opponents
from hpo_parts.tables import Table, hpobench_table

from qcluster.q_hpo import Prior, Study

FAMILIES = {"HPOBench": ("car", "credit_g", "segment"), "perceptrons": epochs.NAMES}
PRIOR_ROWS, POOL_ROWS, TRIALS = 200, 3000, 40
MARKS = (5, 10, 15, 20, 30, 40)


@cache
def _table(name: str) -> Table:
    """The table of a data set; of ``epochs.py`` the errors after the last epoch."""
    if name in FAMILIES["HPOBench"]:
        return hpobench_table(name)
    last = epochs.curves(name)[:, -1].tolist()
    return Table(name, epochs.SPACE, epochs.configurations(name), last)


def warm_row(_world: Opponents, *, quick: bool, fresh: bool, seeds: int = 20) -> dict[str, Any]:
    """Cold, warm and misled starts on every table."""
    runs = range(1 if quick else min(seeds, 10))
    found = {
        family: _family(family, names, runs, fresh=fresh) for family, names in FAMILIES.items()
    }
    return {**found, "what the tables hold": _held(FAMILIES["HPOBench"])}


def _held(names: tuple[str, ...]) -> dict[str, float]:
    """Regret after ten trials, over ten seeds and all pairs, of those who know all 30,000 values of
    another table and go by them alone: in their order, and told which hundredth of the other table
    holds the best of this one.
    """
    found: dict[str, list[float]] = {"in their order": [], "best hundredth known": []}
    for target in names:
        values = np.array(_table(target).values, float)
        for other in (name for name in names if name != target):
            theirs = np.array(_table(other).values, float)
            share = np.argsort(np.argsort(theirs, kind="stable")) * 100 // len(theirs)
            good = np.array([np.quantile(values[share == k], 0.1) for k in range(100)])
            tie = np.random.default_rng(1).random(len(theirs))
            for seed in range(10):
                pick, own, chance = _pool(target, seed)
                for name, order in (
                    ("in their order", np.argsort(theirs[pick], kind="stable")),
                    ("best hundredth known", np.lexsort((tie[pick], good[share[pick]]))),
                ):
                    tried = own[order[:10]].tolist()
                    found[name].append(regret.normalised(tried, float(own.min()), chance))
    line = {name: regret.geometric(one) for name, one in found.items()}
    harness.table("Ten trials by another table's values alone", list(line), [list(line.values())])
    return line


def _pool(target: str, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows searched, their values, and the median regret of 30 random ones."""
    table = _table(target)
    pick = np.random.default_rng([seed, 4]).permutation(len(table.rows))[:POOL_ROWS]
    values = np.array([float(table.values[i] or 0.0) for i in pick])
    rng = np.random.default_rng(0)
    ends = [values[rng.permutation(len(values))[:30]].min() for _ in range(201)]
    return pick, values, float(np.median(ends) - values.min())


def _family(family: str, names: tuple[str, ...], runs: range, *, fresh: bool) -> dict[str, Any]:
    curves: dict[str, dict[int, list[float]]] = {}
    rows = []
    for target in names:
        others = [name for name in names if name != target]
        starts = [("cold", ()), ("both", tuple(others))]
        starts += [(kind, (other,)) for kind in ("warm", "flipped") for other in others]
        for kind, sources in starts:
            found = [_regrets(target, kind, sources, seed, fresh) for seed in runs]
            means = {at: regret.geometric([one[at] for one in found]) for at in MARKS}
            for at in MARKS:
                curves.setdefault(kind, {}).setdefault(at, []).append(means[at])
            rows.append([target, kind, " ".join(sources), *means.values()])
    means = {kind: {at: regret.geometric(v) for at, v in line.items()}
             for kind, line in curves.items()}  # fmt: skip
    rows += [["all", kind, "", *line.values()] for kind, line in means.items()]
    harness.table(f"Warm start on {family}: regret over random's at 30 trials",
                  ["table", "start", "prior", *(f"at {at}" for at in MARKS)], rows)  # fmt: skip
    cold = means["cold"]
    return {
        "means": means,
        "warm at 10 over cold at 30": means["warm"][10] / cold[30],
        "two tables at 10 over cold at 30": means["both"][10] / cold[30],
        "warm at 10 over cold at 10": means["warm"][10] / cold[10],
        "flipped at 40 over cold at 40": means["flipped"][40] / cold[40],
    }


def _regrets(
    target: str, kind: str, sources: tuple[str, ...], seed: int, fresh: bool
) -> dict[int, float]:
    """Normalised regret after some numbers of trials."""
    table = _table(target)
    pick, values, chance = _pool(target, seed)
    key = ["warm", regret.ours_version(), target, kind, sources, seed]
    run = harness.cached(
        "hpo", key, lambda: _run(table, pick, values, kind, sources, seed), fresh=fresh
    )
    return {at: regret.normalised(run[:at], float(values.min()), chance) for at in MARKS}


def _run(
    table: Table, pick: np.ndarray, values: np.ndarray, kind: str, sources: tuple[str, ...],
    seed: int,
) -> list[float]:  # fmt: skip
    sign = -1.0 if kind == "flipped" else 1.0
    picked = np.random.default_rng([seed, 5]).permutation(len(table.rows))[:PRIOR_ROWS]
    told = [(source, _table(source), int(i)) for source in sources for i in picked]
    prior = Prior(
        configs=[other.rows[i] for _, other, i in told],
        values=[sign * float(other.values[i] or 0.0) for _, other, i in told],
        names=[source for source, _, _ in told],
    )  # fmt: skip
    pool = [table.rows[i] for i in pick]
    study = Study(table.space, seed=seed, prior=prior if told else None, pool=pool)
    keys = study.space.points(pool)
    found: list[float] = []
    for _ in range(TRIALS):
        trial = study.ask()
        row = int(np.argmin(np.abs(keys - study.space.point(trial.config)).sum(axis=1)))
        found.append(float(values[row]))
        study.tell(trial.id, found[-1])
    return found
