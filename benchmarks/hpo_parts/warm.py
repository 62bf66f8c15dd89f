"""Warm starts between the three data sets of HPOBench, in both directions.

The prior is 200 random rows of the other table, as a random search would leave them, or the same
with all signs flipped. The study searches 3,000 random rows of its own table, the same for all
kinds of start. Regrets are over the median of random search at 30 trials.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import harness
import numpy as np
from hpo_parts import regret
from hpo_parts.opponents import Opponents
from hpo_parts.tables import Table, hpobench_table

from qcluster.q_hpo import Prior, Study

NAMES = ("car", "credit_g", "segment")
PRIOR_ROWS, POOL_ROWS, TRIALS = 200, 3000, 40
_table = cache(hpobench_table)


def warm_row(_world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """Cold, warm and misled starts on every ordered pair of tables."""
    seeds = range(1 if quick else 3)
    curves: dict[str, dict[int, list[float]]] = {}
    rows = []
    for target in NAMES:
        others = [name for name in NAMES if name != target]
        for kind, source in [("cold", ""), *((k, o) for o in others for k in ("warm", "flipped"))]:
            found = [_regrets(target, kind, source, seed, fresh) for seed in seeds]
            for at in (5, 10, 30, 40):
                # Each pair is compared with the same cold runs, so those count twice.
                copies = 2 if kind == "cold" else 1
                curves.setdefault(kind, {}).setdefault(at, []).extend(
                    [one[at] for one in found] * copies
                )
            rows.append([target, kind, source, *(
                regret.geometric([one[at] for one in found]) for at in (5, 10, 30, 40)
            )])  # fmt: skip
    for kind, line in curves.items():
        rows.append(["all", kind, "", *(regret.geometric(line[at]) for at in (5, 10, 30, 40))])
    harness.table("Warm start on HPOBench: regret over random's at 30 trials",
                  ["table", "start", "prior", "at 5", "at 10", "at 30", "at 40"], rows)  # fmt: skip
    means = {kind: {at: regret.geometric(v) for at, v in line.items()}
             for kind, line in curves.items()}  # fmt: skip
    return {
        "means": means,
        "warm at 10 over cold at 30": means["warm"][10] / means["cold"][30],
        "warm at 10 over cold at 10": means["warm"][10] / means["cold"][10],
        "flipped at 40 over cold at 40": means["flipped"][40] / means["cold"][40],
    }


def _regrets(target: str, kind: str, source: str, seed: int, fresh: bool) -> dict[int, float]:
    """Normalised regret after some numbers of trials."""
    table = _table(target)
    pick = np.random.default_rng([seed, 4]).permutation(len(table.rows))[:POOL_ROWS]
    values = np.array([float(table.values[i] or 0.0) for i in pick])
    rng = np.random.default_rng(0)
    ends = [values[rng.permutation(POOL_ROWS)[:30]].min() for _ in range(201)]
    chance = float(np.median(ends) - values.min())
    key = ["warm", regret.ours_version(), target, kind, source, seed]
    run = harness.cached(
        "hpo", key, lambda: _run(table, pick, values, kind, source, seed), fresh=fresh
    )
    return {at: regret.normalised(run[:at], float(values.min()), chance) for at in (5, 10, 30, 40)}


def _run(
    table: Table, pick: np.ndarray, values: np.ndarray, kind: str, source: str, seed: int
) -> list[float]:
    prior = None
    if kind != "cold":
        other = _table(source)
        rows = np.random.default_rng([seed, 5]).permutation(len(other.rows))[:PRIOR_ROWS]
        sign = -1.0 if kind == "flipped" else 1.0
        prior = Prior(
            configs=[other.rows[i] for i in rows],
            values=[sign * float(other.values[i] or 0.0) for i in rows], names=[source] * len(rows),
        )  # fmt: skip
    pool = [table.rows[i] for i in pick]
    study = Study(table.space, seed=seed, prior=prior, pool=pool)
    keys = study.space.points(pool)
    found: list[float] = []
    for _ in range(TRIALS):
        trial = study.ask()
        row = int(np.argmin(np.abs(keys - study.space.point(trial.config)).sum(axis=1)))
        found.append(float(values[row]))
        study.tell(trial.id, found[-1])
    return found
