"""Rank mapping: gaps on QAPLIB, against SciPy."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from harness import DATA, cached, table

from qcluster.q_nvlink import place_ranks

BEST_QAP = {
    "nug12": 578, "nug15": 1150, "nug20": 2570, "nug30": 6124, "had20": 6922, "kra30a": 88900,
    "tho30": 149936, "tai20b": 122455319, "tai30b": 637117113, "tai35b": 283315445,
    "chr25a": 3796, "bur26a": 5426670, "ste36a": 9526, "esc32a": 130, "esc64a": 116,
    "sko49": 23386, "wil50": 48816, "tai64c": 1855928, "tai60b": 608215054, "sko100a": 152002,
}  # fmt: skip


def bench_mapping(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    from scipy.optimize import quadratic_assignment

    rows = []
    for name, best in BEST_QAP.items():
        text = (DATA / "nvlink" / "qaplib" / f"{name}.dat").read_text()
        values = np.array(text.split(), dtype=float)
        n = int(values[0])
        flow, dist = values[1 : 1 + n * n].reshape(n, n), values[1 + n * n :].reshape(n, n)

        def theirs(flow: Any = flow, dist: Any = dist) -> float:
            faq = quadratic_assignment(
                flow, dist, method="faq", options={"rng": np.random.default_rng(0)}
            )
            swap = quadratic_assignment(
                flow, dist, method="2opt", options={"rng": np.random.default_rng(0)}
            )
            return float(min(faq.fun, swap.fun))

        opponent = cached("nvlink", ["scipy-qap", text], theirs, fresh=fresh)
        budget = (3.0 if quick else 10.0) if n <= 40 else (5.0 if quick else 60.0)
        found = place_ranks(flow, dist, deadline_s=budget)
        rows.append(
            {
                "name": name,
                "best": best,
                "ours": found.objective,
                "gap_percent": 100 * (found.objective - best) / best,
                "scipy_gap_percent": 100 * (opponent - best) / best,
                "seconds": budget,
            }
        )
    table(
        "Rank mapping (QAPLIB): gap to the best known value, percent (SciPy: better of FAQ, 2-opt)",
        ["instance", "best known", "ours", "gap %", "SciPy gap %", "seconds given"],
        [list(r.values()) for r in rows],
    )
    mine = statistics.mean(r["gap_percent"] for r in rows)
    other = statistics.mean(r["scipy_gap_percent"] for r in rows)
    print(f"mean gap {mine:.4f} % against {other:.3f} %")
    return rows
