"""The process against every other searcher that installs, on one BBOB instance of each function."""

from __future__ import annotations

from typing import Any

import harness
from hpo_parts import bbob, regret
from hpo_parts.opponents import Opponents

RIVALS = ("gpsampler", "tpe", "botorch-warped", "botorch", "smac", "random")


def rivals_row(world: Opponents, *, quick: bool, fresh: bool) -> dict[str, Any]:
    """Plain BoTorch, BoTorch with output warping, Optuna's two, SMAC and random search, d = 5."""
    tasks = bbob.problems((5,), (1,))[: 6 if quick else None]
    methods: dict[str, Any] = {"gp": {"name": "gp"}, **dict.fromkeys(RIVALS)}
    found = bbob.measure(world, tasks, methods, fresh=fresh)
    rows, result = [], {}
    for name in ("gp", *RIVALS):
        if len(found[name]) < len(tasks):
            continue
        line = regret.compare(found["gp"], found[name])
        seconds = found[f"{name} seconds"][0]
        mean = regret.geometric(found[name])
        result[name] = {**line, "regret": mean, "seconds": seconds}
        rows.append([name, mean, line["ratio"], f"{line['wins']}-{line['losses']}", line["p"],
                     seconds])  # fmt: skip
    harness.table(
        f"Searchers on BBOB d=5, 50 evaluations, {len(tasks)} functions: regret over random's",
        ["searcher", "regret", "gp over it", "wins-losses", "p", "CPU s a suggestion"], rows,
    )  # fmt: skip
    return result
