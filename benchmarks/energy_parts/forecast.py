"""Forecast error on unseen runs of the MLPerf power traces, against gradient boosting.

The first half of a job's runs train, the others test; nodes behind one meter count once. The
opponent is scikit-learn's histogram gradient boosting with absolute loss on 8 lags of the node and
of the cluster mean, with more rows than ours sees. A cell is (job, horizon) with at least five
independent horizons in every test run; ``strict`` marks those with as many among the forecasts
made, after the first lags and before the last horizon. The bound is the 95 % quantile, followed on
line. ``noise`` is what no forecast of a steady job can go below: the error of the mean of the
readings before and after, less what those two err by themselves (the nugget of the variogram).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np
import pandas as pd

from energy_parts.kept import kept
from qcluster.q_energy.forecast import banded, fit_grids
from qcluster.q_energy.forecast_features import LAGS, features
from qcluster.q_energy.trees import Trees

HORIZONS = (2.0, 10.0, 30.0, 60.0)
PERIOD_S = 2.0
JOBS = {
    "single_unet3d": ["single_unet3d"],
    "single_llama2_70b_lora": ["single_llama2_70b_lora"],
    "llama2lora_64node": ["llama2lora_64node"],
    "llama2lora_8node": ["llama2lora_8node"],
    "b200_stable_diffusion": ["b200_stable_diffusion"],
    "unet3d_9node": ["unet3d_9node"],
    "single_bert": ["single_bert"],
    "single_dlrm_dcnv2": ["single_dlrm_dcnv2"],
    "b200_bert": ["b200_bert"],
    "b200_llama2_70b_lora": ["b200_llama2_70b_lora"],
    "b200_retinanet": ["b200_retinanet"],
    "gpt3_64node": ["gpt3_64node_run0", "gpt3_64node_run1"],
}
_OPPONENT_ROWS = 30_000
_QUICK = 4
_SOURCES = tuple(
    f"qcluster/q_energy/{name}.py"
    for name in ("autoregression", "combine", "conformal", "forecast", "forecast_features",
                 "forecast_mixture", "trees")
)  # fmt: skip


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """One row a cell; finished jobs are kept, so a run that was cut goes on."""
    names = list(JOBS)[:_QUICK] if quick else list(JOBS)
    cells: list[dict[str, Any]] = []
    for name in names:
        cell = {"part": "forecast", "job": name, "version": 9}
        cells += kept(cell, _SOURCES, functools.partial(_job, name), fresh=fresh)
    harness.table(
        "Forecast on unseen runs, MAPE %",
        ("job", "horizon s", "runs", "boosting", "ours", "noise", "ratio",
         "95 % bound covers"),
        [
            (c["job"], c["horizon_s"], c["runs"], 100 * c["theirs"], 100 * c["ours"],
             100 * c["noise"], c["ours"] / c["theirs"], f"{c['covered']:.1%}")
            for c in cells
        ],
    )  # fmt: skip
    ratios = [c["ours"] / c["theirs"] for c in cells]
    strict = [c["ours"] / c["theirs"] for c in cells if c["strict"]]
    summary = {
        "cells": len(cells),
        "strict_cells": len(strict),
        "strict_mean_ratio": float(np.mean(strict)),
        "strict_worst_ratio": float(np.max(strict)),
        "mean_ratio": float(np.mean(ratios)),
        "worst_ratio": float(np.max(ratios)),
        "covered_pooled": float(
            np.average([c["covered"] for c in cells], weights=[c["forecasts"] for c in cells])
        ),
        "covered_mean_cell": float(np.mean([c["covered"] for c in cells])),
        "covered_least": float(np.min([c["covered"] for c in cells])),
    }
    print(summary)
    return {"summary": summary, "cells": cells}


def load_runs(files: Sequence[str]) -> list[np.ndarray]:
    """Grids (times, nodes) of all runs in the files."""
    out = []
    for name in files:
        frame = pd.read_csv(harness.DATA / "energy" / "mlperf_power" / f"{name}.csv.gz")
        if "node" not in frame:
            frame["node"] = "n"
        if "run" not in frame:
            frame["run"] = 0
        for _, rows in frame.sort_values("time_ms").groupby("run"):
            first, last = rows["time_ms"].min(), rows["time_ms"].max()
            at = np.arange(int((last - first) / 1e3 / PERIOD_S)) * PERIOD_S
            columns = {}
            for _, one in rows.groupby("node"):
                watts = one["power_w"].to_numpy(float)
                columns[watts[:50].tobytes()] = np.interp(
                    at, (one["time_ms"].to_numpy() - first) / 1e3, watts
                )
            out.append(np.stack(list(columns.values()), axis=1))
    return out


def _job(name: str) -> list[dict[str, Any]]:
    runs = load_runs(JOBS[name])
    half = (len(runs) + 1) // 2
    train, test = runs[:half], runs[half:]
    model = fit_grids(train, PERIOD_S, HORIZONS)
    cells = []
    for at, step in enumerate(model.horizons):
        if min(len(r) for r in test) < 5 * step:
            continue
        opponent = _boosting(train, step)
        ours, theirs, inside = [], [], []
        for r in test:
            actual, seen = r[LAGS + step :], slice(LAGS, -step)
            plain = features(r, step, (), rich=False)[seen]
            guess = opponent.predict(plain.reshape(-1, plain.shape[-1])).reshape(actual.shape)
            mine = model.predict(r, at)
            upper = banded(r, mine, step, model.errors[at], (0.5, 0.95))[seen, :, 1]
            ours.append((np.abs(mine[seen] - actual) / actual).ravel())
            theirs.append((np.abs(guess - actual) / actual).ravel())
            inside.append((actual <= upper).ravel())
        means = [float(np.concatenate(part).mean()) for part in (ours, theirs, inside)]
        cells.append(
            {"job": name, "horizon_s": step * PERIOD_S, "runs": f"{len(train)}+{len(test)}",
             "forecasts": sum(r[LAGS + step :].size for r in test),
             "strict": min(len(r) for r in test) - LAGS - step >= 5 * step,
             "noise": float(np.mean([_noise(r) for r in test])), "ours": means[0],
             "theirs": means[1], "covered": means[2]}
        )  # fmt: skip
    return cells


def _noise(run: np.ndarray) -> float:
    """Relative nugget: white noise errs by sqrt(1.5) of its size against the mean of two others."""
    apart = run[1:-1] - (run[:-2] + run[2:]) / 2.0
    return float(np.mean(np.abs(apart) / run[1:-1]) / np.sqrt(1.5))


def _boosting(train: Sequence[np.ndarray], step: int) -> Trees:
    x, y = [], []
    for r in train:
        if len(r) > LAGS + step:
            table = features(r, step, (), rich=False)[LAGS:-step]
            x.append(table.reshape(-1, table.shape[-1]))
            y.append(r[LAGS + step :].ravel())
    rows = np.random.default_rng(0).permutation(sum(map(len, y)))[:_OPPONENT_ROWS]
    return Trees.fit(np.concatenate(x)[rows], np.concatenate(y)[rows])
