"""Rank mapping: gaps on QAPLIB, against SciPy.

Seconds are this process's own CPU time, so that they mean the same on a machine that others use
too. Every instance is kept under a hash of its data, its budget and the search's source: a run that
was cut off goes on where it stopped.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from harness import DATA, cached, table

import qcluster.q_nvlink.mapping
from qcluster.q_nvlink import place_ranks

BEST_QAP = {
    "nug12": 578, "nug15": 1150, "nug20": 2570, "nug30": 6124, "had20": 6922, "kra30a": 88900,
    "tho30": 149936, "tai20b": 122455319, "tai30b": 637117113, "tai35b": 283315445,
    "chr25a": 3796, "bur26a": 5426670, "ste36a": 9526, "esc32a": 130, "esc64a": 116,
    "sko49": 23386, "wil50": 48816, "tai64c": 1855928, "tai60b": 608215054, "sko100a": 152002,
}  # fmt: skip


@contextmanager
def own_seconds() -> Iterator[None]:
    """Deadlines count this process's CPU time instead of the machine's clock."""
    with patch("qcluster.deadline.time.monotonic", time.process_time):
        yield


def source_of(package: Any) -> str:
    """The text of a package's own modules: what a stored result depends on."""
    folder = Path(package.__file__).parent
    return "".join(path.read_text() for path in sorted(folder.glob("*.py")))


def bench_mapping(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    place_ranks(np.ones((12, 12)), np.ones((12, 12)), deadline_s=0.01)
    source = source_of(qcluster.q_nvlink.mapping)
    rows = [_row(name, best, source, quick, fresh) for name, best in BEST_QAP.items()]
    table(
        "Rank mapping (QAPLIB): gap to the best known value, percent (SciPy: better of FAQ, 2-opt)",
        ["instance", "best known", "ours", "gap %", "SciPy gap %", "CPU seconds given", "seed"],
        [list(r.values()) for r in rows],
    )
    mine = statistics.mean(r["gap_percent"] for r in rows)
    other = statistics.mean(r["scipy_gap_percent"] for r in rows)
    print(f"mean gap {mine:.4f} % against {other:.3f} %")
    return rows


def _row(name: str, best: int, source: str, quick: bool, fresh: bool) -> dict[str, Any]:
    text = (DATA / "nvlink" / "qaplib" / f"{name}.dat").read_text()
    values = np.array(text.split(), dtype=float)
    n = int(values[0])
    flow, dist = values[1 : 1 + n * n].reshape(n, n), values[1 + n * n :].reshape(n, n)
    budget, seed = (3.0 if quick else 10.0) if n <= 64 else (15.0 if quick else 60.0), 0

    def theirs() -> float:
        from scipy.optimize import quadratic_assignment

        rng = {"rng": np.random.default_rng(0)}
        ways = (
            quadratic_assignment(flow, dist, method=method, options=rng)
            for method in ("faq", "2opt")
        )
        return float(min(way.fun for way in ways))

    def ours() -> float:
        with own_seconds():
            return place_ranks(flow, dist, deadline_s=budget, seed=seed).objective

    opponent = cached("nvlink", ["scipy-qap", text], theirs, fresh=fresh)
    found = cached("nvlink", ["qap", text, budget, seed, source], ours, fresh=fresh)
    return {
        "name": name,
        "best": best,
        "ours": found,
        "gap_percent": 100 * (found - best) / best,
        "scipy_gap_percent": 100 * (opponent - best) / best,
        "seconds": budget,
        "seed": seed,
    }
