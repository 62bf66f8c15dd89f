"""Early stopping: how many epochs successive halving needs for what full trials find.

Three sources of curves. Networks trained here (``epochs.py``). LCDB's: a task is a data set, a
configuration one of its learners, an epoch's place is taken by training on more rows. And networks
of HPOBench with epochs from a generator, because the table holds final values only:

    error(t) = final + (0.9 - final) (t^-a - 27^-a) / (1 - 27^-a) / 2,
    a = 1 + log10(rate / 1e-3) / 4 in [0.4, 1.6], plus noise of 2 % of the gap to the final value

so that small learning rates are slow, and curves cross. Full trials are compared with successive
halving of one worker: Ray's rule, where at each rung a trial outside the best third stops
for good, and ``Promotions``, where every trial pauses and the best third goes on; also with the
rungs between the second and the last left out, and the best quarter going on.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
from hpo_parts import epochs, regret
from hpo_parts.opponents import Opponents
from hpo_parts.tables import DATA, hpobench_table

from qcluster.q_hpo import Promotions, Study

KEEP = 3
FULL_TRIALS = 40
RUNGS = [1, 3, 9, 27]
RULES = ("full", "stopping", "promotions", "skipping")
Curve = Callable[[dict[str, Any], int], float]
Outcome = dict[str, Any]
"""Normalised regret, epochs and final error, by rule; None where random search has no regret."""


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
    space: dict[str, Any], rows: list[dict[str, Any]] | None, curve: Curve, rungs: list[int],
    *, budget: int, seed: int, halving: bool,
) -> tuple[float, int]:  # fmt: skip
    """The best final value within ``budget`` epochs, and the epochs spent."""
    study = Study(space, seed=seed, pool=rows, max_step=rungs[-1])
    seen: dict[int, list[float]] = {rung: [] for rung in rungs}
    spent = 0
    while spent < budget and (rows is None or len(study.history) < len(rows)):
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


def promoted(
    space: dict[str, Any], rows: list[dict[str, Any]] | None, curve: Curve, rungs: list[int],
    *, budget: int, seed: int, keep: int = KEEP,
) -> tuple[float, int]:  # fmt: skip
    """The same with promotions."""
    study = Study(space, seed=seed, pool=rows, max_step=rungs[-1])
    halving = Promotions(study, rungs, keep=keep, budget=budget)
    while (run := halving.next()) is not None:
        halving.tell(run, curve(run.config, run.stop))
    best = study.best
    return (float(best.value or 0.0) if best else float("inf")), halving.spent


def fidelity_row(_world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """Regret of full trials, and of halving with a fifth of their epochs."""
    found: dict[str, list[Outcome]] = {}
    for name in epochs.NAMES[: 1 if quick else None]:
        found[f"real, {name}"] = _real(name, 2 if quick else 4, fresh)
    for dataset in _datasets()[: 3 if quick else None]:
        one = _measured(dataset, fresh)
        if one is not None:
            found.setdefault("real, LCDB", []).append(one)
    for name in ("credit_g",) if quick else ("credit_g", "segment", "car"):
        for seed in range(2 if quick else 4):
            found.setdefault(f"generated, {name}", []).append(_generated(name, seed, fresh))
    for kind in ("real", "generated"):
        found[f"{kind}, all"] = [one for name in list(found) if name.startswith(kind)
                                 for one in found[name]]  # fmt: skip
    columns = ["regret", "epochs", "points", "ratio", "wins", "losses", "p"]
    rows, result = [], {}
    for name, outcomes in found.items():
        line: dict[str, Any] = {"tasks": len(outcomes)}
        full = [one["full"][0] for one in outcomes]
        for rule in RULES:
            regrets = [one[rule][0] for one in outcomes]
            share = [one[rule][1] / one["full"][1] for one in outcomes]
            line[rule] = {"regret": regret.geometric(regrets), "epochs": float(np.mean(share))}
            worse = [one[rule][2] - one["full"][2] for one in outcomes]
            line[rule]["points"] = 100 * float(np.mean(worse))
            if rule != "full":
                line[rule] |= regret.compare(regrets, full)
        result[name] = line
        rows.append([name, line["tasks"], line["full"]["regret"], *(
            line[rule][what] for rule in RULES[1:]
            for what in columns
        )])  # fmt: skip
    harness.table(
        "Few epochs: regret over that of random full trials, as many as 'full' has; of full "
        "trials, of Ray's rule, of promotions, and of those that skip the rungs after the second; "
        "points: by how many percentage points the final error is above that of 'full', on average",
        ["curves", "tasks", "full", *columns, *columns, *columns], rows,
    )  # fmt: skip
    return result


def _generated(name: str, seed: int, fresh: bool) -> Outcome:
    rows, space, curve, _ = generated(name, seed)
    return _compared(space, rows, curve, RUNGS, FULL_TRIALS, seed, ["generated", name], fresh)


def _real(name: str, seeds: int, fresh: bool) -> list[Outcome]:
    """Networks trained while they are searched; the best known is that of all runs, and of 400
    random networks.
    """
    ends = epochs.curves(name)[:, -1]
    runs = [
        _found(epochs.SPACE, None, lambda: epochs.live(name), RUNGS, FULL_TRIALS, seed,
               ["real", name], fresh)
        for seed in range(seeds)
    ]  # fmt: skip
    best = min([float(ends.min()), *(run[rule][0] for run in runs for rule in run)])
    return [_normalised(run, ends, FULL_TRIALS, best) for run in runs]


def _measured(dataset: int, fresh: bool) -> Outcome | None:
    """Half of the learners in full; None where the median of random search has no regret."""
    task = measured(dataset)
    if task is None:
        return None
    rows, sizes, curve, _ = task
    space = {"learner": {"type": "choice", "values": [row["learner"] for row in rows]}}
    rungs = [s for k, s in enumerate(reversed(sizes)) if k % 4 == 0 and s * 100 >= sizes[-1]][::-1]
    found = _compared(space, rows, curve, rungs, len(rows) // 2, dataset, ["lcdb"], fresh)
    return found if found["full"] is not None else None


def _compared(
    space: dict[str, Any], rows: list[dict[str, Any]], curve: Curve, rungs: list[int],
    trials: int, seed: int, task: list[Any], fresh: bool,
) -> Outcome:  # fmt: skip
    ends = np.array([curve(row, rungs[-1]) for row in rows])
    found = _found(space, rows, lambda: curve, rungs, trials, seed, task, fresh)
    return _normalised(found, ends, trials, float(ends.min()))


def _found(
    space: dict[str, Any], rows: list[dict[str, Any]] | None, make: Callable[[], Curve],
    rungs: list[int], trials: int, seed: int, task: list[Any], fresh: bool,
) -> Outcome:  # fmt: skip
    """The best final value and epochs: of full trials, and of the rules with a fifth of them."""
    last, short = rungs[-1], [*rungs[: min(2, len(rungs) - 1)], rungs[-1]]
    budget = trials * last
    rules: dict[str, Callable[[], tuple[float, int]]] = {
        "full": lambda: search(
            space, rows, make(), [last], budget=budget, seed=seed, halving=False
        ),
        "stopping": lambda: search(
            space, rows, make(), rungs, budget=budget // 5 - last, seed=seed, halving=True
        ),
        "promotions": lambda: promoted(
            space, rows, make(), rungs, budget=budget // 5, seed=seed
        ),
        "skipping": lambda: promoted(
            space, rows, make(), short, budget=budget // 5, seed=seed, keep=KEEP + 1
        ),
    }  # fmt: skip
    return {name: _kept(rule, [*task, seed, name], fresh) for name, rule in rules.items()}


def _normalised(found: Outcome, ends: np.ndarray, trials: int, best: float) -> Outcome:
    """Regrets over the median of ``trials`` random ones of the final values ``ends``."""
    rng = np.random.default_rng(0)
    draws = [ends[rng.permutation(len(ends))[:trials]].min() for _ in range(201)]
    chance = float(np.median(draws)) - best
    return {
        rule: (regret.normalised([value], best, chance), spent, value) if chance > 0 else None
        for rule, (value, spent) in found.items()
    }


def _kept(compute: Callable[[], tuple[float, int]], task: list[Any], fresh: bool) -> Any:
    source = Path(harness.HERE).parent / "qcluster" / "q_hpo"
    more = [zlib.crc32((source / f"{name}.py").read_bytes()) for name in ("promotion", "fidelity")]
    key = ["fidelity", "live", regret.ours_version(), more, *task]
    return harness.cached("hpo", key, compute, fresh=fresh)


def _datasets() -> list[int]:
    import pandas as pd

    frame = pd.read_csv(DATA / "lcdb_accuracy_A.csv", usecols=["openmlid"])
    return sorted(int(v) for v in frame.openmlid.unique())
