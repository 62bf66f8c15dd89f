"""Training of the learned parts from files: sweeps of power limits, stored plans.

A sweep is a CSV with one row a job and limit: ``job``, ``power_limit_w``, ``power_w`` (mean draw)
and ``seconds`` (of the same work); ``group`` (optional) joins jobs that resemble each other, such
as one model at several batch sizes. The sweeps that Zeus published are read as they are. Stored
plans come from a server's state directory or are JSON lines, one energy plan each.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from qcluster.config import Config
from qcluster.csv_table import separator
from qcluster.errors import FormatError
from qcluster.packed import unpack
from qcluster.q_energy.curve_training import Sweep, fit_curve_net, generated
from qcluster.q_energy.meta_training import fit_meta, generated_history, stored_histories
from qcluster.q_energy.nets import CURVES, META
from qcluster.q_energy.task_graph import TaskGraph
from qcluster.text_file import read_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainGnn", "TrainMeta", "read_sweep", "train_gnn", "train_meta"]

_COLUMNS = ("job", "power_limit_w", "power_w", "seconds")
_FEWEST_LIMITS = 3
_STORE, _SQLITE = "plans.sqlite", b"SQLite format 3\x00"
# Columns of the sweeps that Zeus (You et al. 2023) published, and ours.
_ZEUS = {"power_limit": "power_limit_w", "average_power": "power_w", "time_per_epoch": "seconds"}
_ZEUS_JOB = ("dataset", "network", "batch_size", "optimizer")


class TrainGnn(Config):
    """What to fit the curve network to."""

    data: str
    """CSV file with the sweeps."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 400
    """Passes over the sweeps."""
    generated: Annotated[int, Field(ge=0, le=1000)] = 3
    """Generated task graphs that are added."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""


class TrainMeta(Config):
    """What to fit the controller to."""

    data: str | None = None
    """A server's state directory, its store of plans, or JSON lines with energy plans, oldest
    first; None takes generated histories alone."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 300
    """Passes over the histories."""
    generated: Annotated[int, Field(ge=0, le=10_000)] = 200
    """Generated histories that are added."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything random."""


def train_gnn(config: Mapping[str, Any] | TrainGnn, *, out: str | Path, **_: Any) -> dict[str, Any]:
    """Fit the curve network and write it to the directory ``out``; what was fitted, and its mean
    error as a share of full speed. It takes seconds, so there is nothing to resume.

    Raises FormatError naming file, row and field for a bad sweep.
    """
    config = TrainGnn.read(config)
    sweep = read_sweep(config.data)
    extra = [generated(config.seed + k) for k in range(config.generated)]
    net = fit_curve_net([sweep, *extra], seed=config.seed, epochs=config.epochs)
    path = _into(out) / CURVES
    net.save(path)
    found = net.predict(sweep.graph)
    rows = [np.interp(c, found.caps, found.speed[n]) for c, n in zip(sweep.cap, sweep.node)]  # noqa: B905
    return {
        "kind": "energy-gnn",
        "weights": str(path),
        "jobs": sweep.graph.n,
        "readings": len(sweep.cap),
        "speed_error": float(np.abs(np.array(rows) - sweep.speed).mean()),
    }


def train_meta(
    config: Mapping[str, Any] | TrainMeta, *, out: str | Path, **_: Any
) -> dict[str, Any]:
    """Fit the controller and write it to the directory ``out``; what was fitted.

    Raises FormatError naming file and line for a bad plan.
    """
    config = TrainMeta.read(config)
    stored = [] if config.data is None else stored_histories(_plans(Path(config.data)))
    made = [generated_history(config.seed + k) for k in range(config.generated)]
    path = _into(out) / META
    fit_meta([*stored, *made], seed=config.seed, epochs=config.epochs).save(path)
    windows = int(sum(len(history) for history in stored))
    return {
        "kind": "energy-meta",
        "weights": str(path),
        "categories": len(stored),
        "windows": windows,
        "generated": len(made),
    }


def _stored(path: Path) -> list[dict[str, Any]]:
    """What a server has kept of its energy plans, oldest first; a running one is not disturbed."""
    import sqlite3

    asked = "SELECT body FROM plans WHERE planner = 'energy' ORDER BY seq"
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as db:
            plans = (unpack(body) for (body,) in db.execute(asked))
            return [{name: plan.get(name) for name in ("choice", "costs")} for plan in plans]
    except sqlite3.Error as error:
        raise FormatError(f"is no store of plans: {error}", file=path) from None


def _into(out: str | Path) -> Path:
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


def read_sweep(path: str | Path) -> Sweep:
    """The sweep in a CSV file; shares are of each job's highest limit and shortest time.

    Raises FormatError naming file, row and field: a missing column, a value that is no positive
    number, a job with fewer than three limits.
    """
    import pandas as pd

    path = Path(path)
    text = read_text(path)
    mark = separator(text.partition("\n")[0])
    try:
        frame = pd.read_csv(io.StringIO(text), sep=mark, decimal="," if mark == ";" else ".")
    except ValueError as error:
        raise FormatError(f"is not CSV: {error}", file=path) from None
    frame = _named(frame)
    if missing := [name for name in _COLUMNS if name not in frame.columns]:
        raise FormatError("the file lacks this column", file=path, field=missing[0])
    for name in _COLUMNS[1:]:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            row, got = int(bad[0]), frame[name].iloc[int(bad[0])]
            message = f"wants a number above 0, got '{got}'"
            raise FormatError(message, file=path, row=row + 2, field=name)
    if frame["job"].isna().any():
        row = int(np.argmax(frame["job"].isna().to_numpy()))
        raise FormatError("is empty", file=path, row=row + 2, field="job")
    jobs = [str(job) for job in dict.fromkeys(frame["job"])]
    groups: dict[str, list[int]] = {}
    features = np.zeros((len(jobs), 4))
    node, cap, fast, power = [], [], [], []
    for k, (job, part) in enumerate(frame.groupby("job", sort=False)):
        rows = part.sort_values("power_limit_w")
        if part["power_limit_w"].nunique() < _FEWEST_LIMITS:
            raise FormatError(f"wants at least {_FEWEST_LIMITS} limits", file=path, field=str(job))
        top = float(rows["power_limit_w"].iloc[-1])
        drawn = np.clip(rows["power_w"].to_numpy(float) / top, 0.0, 1.5)
        limits = rows["power_limit_w"].to_numpy(float) / top
        features[k, :2] = drawn[-1], limits[0]
        node.append(np.full(len(rows), k))
        cap.append(limits)
        fast.append(rows["seconds"].min() / rows["seconds"].to_numpy(float))
        power.append(drawn)
        name = str(rows["group"].iloc[0]) if "group" in rows else str(job)
        groups.setdefault(name, []).append(k)
    pairs = [(a, b) for members in groups.values() for a in members for b in members if a != b]
    edges = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return Sweep(TaskGraph(features, edges), *(np.concatenate(x) for x in (node, cap, fast, power)))


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """The sweep's columns by our names where they have those of Zeus' published sweeps."""
    frame = frame.rename(columns=_ZEUS)
    parts = [frame[name].astype(str) for name in _ZEUS_JOB if name in frame]
    if "job" in frame or len(parts) < len(_ZEUS_JOB):
        return frame
    work = parts[0] + " " + parts[1]
    return frame.assign(job=work + " " + parts[2] + " " + parts[3], group=work)


def _plans(path: Path) -> list[dict[str, Any]]:
    path = path / _STORE if path.is_dir() else path
    try:
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) == _SQLITE:
                return _stored(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"cannot be read: {error}", file=path) from None
    plans = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            plan = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise FormatError(f"is not JSON: {error}", file=path, row=number) from None
        if not isinstance(plan, dict):
            raise FormatError("wants a plan", file=path, row=number)
        plans.append(plan)
    return plans
