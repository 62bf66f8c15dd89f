"""Learned parts: curves by GraphSAGE against gradient boosting, and the choice of pipeline.

Curves: the networks of the Zeus sweeps are left out one at a time, and then a whole GPU type; the
opponents are gradient boosting on the same features, with and without the mean of the neighbours',
and the physical model. Choice: windows of jobs drawn from the measured sweeps, whose mix drifts;
each pipeline's caps come from its own predictions, what it costs from the measured speeds.

``python -m energy_parts.learned`` in ``benchmarks/`` writes the default weights of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

from qcluster.q_energy import Curve, allocate_budget
from qcluster.q_energy.curve_net import CAPS, MEMORY, CurveNet, default_net
from qcluster.q_energy.curve_training import Sweep, fit_curve_net, generated
from qcluster.q_energy.curves import IDLE_SHARE, speed
from qcluster.q_energy.meta import MetaState, choose, default_meta, observe
from qcluster.q_energy.meta_training import fit_meta, generated_history
from qcluster.q_energy.task_graph import TaskGraph

DEFAULTS = Path(__file__).parents[2] / "qcluster" / "q_energy" / "defaults"
GENERATED = 3


def run(quick: bool, fresh: bool) -> dict[str, Any]:
    """Both tables."""
    del fresh
    curves = unseen(measured())
    harness.table(
        "Curves of jobs not seen in training: mean error of speed, of power",
        ("left out", "network", "boosting", "boosting + neighbours", "physical"),
        [
            [name, *(f"{row[k][0]:.4f} {row[k][1]:.4f}" for k in row)]
            for name, row in curves.items()
        ],
    )
    regrets = [regret(seed, 150 if quick else 400) for seed in range(5 if quick else 20)]
    rows = [
        [k, f"{np.median([r[k] for r in regrets]):.3%}", f"{max(r[k] for r in regrets):.3%}"]
        for k in regrets[0]
    ]
    harness.table("Loss against the best single pipeline", ("who", "median", "worst seed"), rows)
    return {"curves": curves, "regret": regrets}


def measured() -> pd.DataFrame:
    """One row a job type and limit: gpu, network, batch, cap, speed, power (shares), job."""
    frames = []
    for gpu in ("v100", "a40"):
        frame = pd.read_csv(harness.DATA / "energy" / "zeus" / f"summary_power_{gpu}.csv")
        keys = ["dataset", "network", "batch_size", "optimizer"]
        for key, rows in frame.groupby(keys):
            mean = rows.groupby("power_limit", as_index=False).mean(numeric_only=True)
            if len(mean) < 5:
                continue
            top = mean["power_limit"].max()
            frames.append(
                pd.DataFrame({
                    "gpu": gpu, "dataset": key[0], "network": key[1], "batch": key[2],
                    "job": f"{gpu} {key}", "cap": mean["power_limit"] / top,
                    "speed": mean["time_per_epoch"].min() / mean["time_per_epoch"],
                    "power": mean["average_power"] / top,
                })
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def sweep_of(rows: pd.DataFrame) -> Sweep:
    """A graph of job types, those of one network on one data set and GPU joined."""
    jobs = list(dict.fromkeys(rows["job"]))
    index = {job: k for k, job in enumerate(jobs)}
    group = rows.groupby("job")
    features = np.zeros((len(jobs), 4))
    kind: list[tuple[str, ...]] = [()] * len(jobs)
    for job, part in group:
        k = index[str(job)]
        features[k, :2] = part["power"].iloc[-1], part["cap"].min()
        first = part.iloc[0]
        kind[k] = (first["gpu"], first["dataset"], first["network"])
    pairs = [(a, b) for a in range(len(jobs)) for b in range(len(jobs)) if a != b]
    edges = np.array([(a, b) for a, b in pairs if kind[a] == kind[b]]).reshape(-1, 2).T
    node = np.array([index[job] for job in rows["job"]])
    graph = TaskGraph(features, edges)
    return Sweep(graph, node, *(rows[name].to_numpy(float) for name in ("cap", "speed", "power")))


def fit(rows: pd.DataFrame) -> CurveNet:
    """The network as it is shipped, on these rows."""
    return fit_curve_net([sweep_of(rows), *(generated(seed) for seed in range(GENERATED))])


def unseen(rows: pd.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    """Left out to method to (mean error of speed, mean relative error of power)."""
    out: dict[str, dict[str, tuple[float, float]]] = {}
    for column in ("network", "gpu"):
        for name in sorted(rows[column].unique()):
            seen, test = rows[rows[column] != name], rows[rows[column] == name]
            out[name] = _errors(seen, test)
    nets = [out[name] for name in sorted(rows["network"].unique())]
    out["mean over networks"] = {
        k: (float(np.mean([n[k][0] for n in nets])), float(np.mean([n[k][1] for n in nets])))
        for k in nets[0]
    }
    return out


def _errors(seen: pd.DataFrame, test: pd.DataFrame) -> dict[str, tuple[float, float]]:
    there, here = sweep_of(seen), sweep_of(test)
    found = fit(seen).predict(here.graph)
    at = [np.interp(here.cap, CAPS, np.arange(len(CAPS)))]
    low = np.minimum(at[0].astype(int), len(CAPS) - 2)
    part = at[0] - low

    def along(values: np.ndarray) -> np.ndarray:
        return values[here.node, low] * (1 - part) + values[here.node, low + 1] * part

    share = here.graph.features[here.node, 0]
    plain = speed(here.cap, share, np.minimum(IDLE_SHARE, 0.9 * share), MEMORY)
    return {
        "network": _score(here, along(found.speed), along(found.power)),
        "boosting": _boosted(there, here, neighbours=False),
        "neighbours": _boosted(there, here, neighbours=True),
        "physical": _score(here, plain, np.minimum(here.cap, share)),
    }


def _boosted(there: Sweep, here: Sweep, *, neighbours: bool) -> tuple[float, float]:
    from sklearn.ensemble import HistGradientBoostingRegressor

    def table(sweep: Sweep) -> np.ndarray:
        x = sweep.graph.features
        if neighbours:
            x = np.concatenate([x, sweep.graph.neighbour_mean(x)], axis=1)
        return np.column_stack([x[sweep.node], sweep.cap])

    def fitted(target: np.ndarray) -> np.ndarray:
        model = HistGradientBoostingRegressor(loss="absolute_error", max_iter=200, random_state=0)
        return model.fit(table(there), target).predict(table(here))

    return _score(here, fitted(there.speed), fitted(there.power))


def _score(here: Sweep, fast: np.ndarray, power: np.ndarray) -> tuple[float, float]:
    speeds = float(np.abs(fast - here.speed).mean())
    return speeds, float((np.abs(power - here.power) / here.power).mean())


def regret(seed: int, windows: int) -> dict[str, float]:
    """Throughput lost against the best single pipeline in hindsight, by who chooses."""
    rng = np.random.default_rng(seed)
    rows = measured()
    jobs = [part for _, part in rows.groupby("job")]
    kinds = {gpu: [p for p in jobs if p["gpu"].iloc[0] == gpu] for gpu in ("v100", "a40")}
    state, allowed = MetaState(), ("independent", "classical", "gnn")
    won: dict[str, list[float]] = {name: [] for name in (*allowed, "meta")}
    mix = 0.5
    for _ in range(windows):
        mix = float(np.clip(mix + rng.normal(0, 0.08), 0.0, 1.0))
        gpu = "v100" if rng.random() < mix else "a40"
        pool = kinds[gpu]
        drawn = [pool[int(k)] for k in rng.integers(0, len(pool), 24)]
        got = _throughput(drawn, rng.uniform(0.65, 0.9))
        pick = choose(state, gpu, allowed).pipeline
        state = observe(state, gpu, {name: 1.0 / got[name] for name in allowed})
        won["meta"].append(got[pick])
        for name in allowed:
            won[name].append(got[name])
    total = {name: float(np.sum(values)) for name, values in won.items()}
    best = max(total[name] for name in allowed)
    return {name: 1.0 - value / best for name, value in total.items()}


def _throughput(drawn: Sequence[pd.DataFrame], share: float) -> dict[str, float]:
    """Measured mean speed under each pipeline's caps, budget a share of the uncapped draw."""
    grid = [part["cap"].to_numpy() for part in drawn]
    truth = [part["speed"].to_numpy() for part in drawn]
    watts = [np.minimum(part["cap"], part["power"].iloc[-1]).to_numpy() for part in drawn]
    budget = share * sum(w[-1] for w in watts)
    budget = max(budget, sum(w[0] for w in watts))
    features = np.array([[p["power"].iloc[-1], p["cap"].min(), 0.0, 0.0] for p in drawn])
    learned = default_net().predict(TaskGraph(features, np.empty((2, 0), np.int64))).speed
    predicted = {
        "classical": [
            speed(g, f[0], min(IDLE_SHARE, 0.9 * f[0]), MEMORY)
            for g, f in zip(grid, features, strict=True)
        ],
        "gnn": [np.interp(g, CAPS, row) for g, row in zip(grid, learned, strict=True)],
    }
    out = {}
    for name, curves in predicted.items():
        made = [Curve(w, v) for w, v in zip(watts, curves, strict=True)]
        chosen = allocate_budget(made, budget_w=budget).choice
        out[name] = float(np.mean([t[c] for t, c in zip(truth, chosen, strict=True)]))
    alone = budget / len(drawn)
    fits = [int(np.searchsorted(w, alone + 1e-9, side="right")) - 1 for w in watts]
    out["independent"] = float(np.mean([t[max(c, 0)] for t, c in zip(truth, fits, strict=True)]))
    return out


def write_defaults() -> None:
    """The weights of the package: curves from all sweeps, choice from generated histories."""
    DEFAULTS.mkdir(exist_ok=True)
    fit(measured()).save(DEFAULTS / "curve_net.safetensors")
    histories = [generated_history(seed) for seed in range(200)]
    fit_meta(histories).save(DEFAULTS / "meta_net.safetensors")
    print(f"wrote {DEFAULTS}; {default_meta.__name__} and {default_net.__name__} read it")


if __name__ == "__main__":
    write_defaults()
