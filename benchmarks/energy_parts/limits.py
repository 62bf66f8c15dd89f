"""Energy saved within 5 % slowdown on the Zeus power-limit sweeps, few limits measured.

Each job type (V100 and A40, one batch size) has 4 to 9 measured limits. The oracle, as Zeus'
selector does, measures them all and takes the least energy at no more than 1.05 of the time at the
highest limit. Ours measures few; the bar is at four.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
import pandas as pd

from qcluster.q_energy import choose_limit

_SLOWDOWN = 0.05


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """Mean savings over all job types; nothing is cached, it takes a second."""
    del quick, fresh
    sweeps = _sweeps()
    results = []
    for most in (2, 3, 4, 5):
        ours, oracle, slow = [], [], []
        for sweep in sweeps:
            found = choose_limit(list(sweep), sweep.__getitem__, max_slowdown=_SLOWDOWN, most=most)
            ours.append(found.saved)
            slow.append(found.slowdown)
            oracle.append(_oracle(sweep))
        share = float(np.sum(ours) / np.sum(oracle))
        results.append({"most": most, "ours": float(np.mean(ours)),
                        "oracle": float(np.mean(oracle)), "share": share,
                        "worst_slowdown": float(np.max(slow))})  # fmt: skip
    harness.table(
        f"Energy saved within 5 % slowdown, {len(sweeps)} job types",
        ("limits measured", "ours", "oracle, all limits", "ours / oracle", "largest slowdown"),
        [[r[k] for k in ("most", "ours", "oracle", "share", "worst_slowdown")] for r in results],
    )
    return {"rows": results, "jobs": len(sweeps)}


def _sweeps() -> list[dict[float, tuple[float, float]]]:
    """For each job type, limit to (seconds, joules) an epoch."""
    out = []
    for gpu in ("v100", "a40"):
        frame = pd.read_csv(harness.DATA / "energy" / "zeus" / f"summary_power_{gpu}.csv")
        for _, rows in frame.groupby(["dataset", "network", "batch_size", "optimizer"]):
            mean = rows.groupby("power_limit").mean(numeric_only=True)
            if len(mean) >= 5:
                out.append({
                    float(limit): (float(t), float(t * p))
                    for limit, t, p in zip(mean.index, mean["time_per_epoch"],
                                           mean["average_power"], strict=True)
                })  # fmt: skip
    return out


def _oracle(sweep: dict[float, tuple[float, float]]) -> float:
    seconds, joules = sweep[max(sweep)]
    return 1 - min(e for t, e in sweep.values() if t <= seconds * (1 + _SLOWDOWN)) / joules
