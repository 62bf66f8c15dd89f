"""Power of every node over the next seconds to minutes, with bounds.

A fitted forecaster blends two boosted-tree models a horizon: one sees lags alone, one also levels
and analogues (``forecast_features``); the blend's weight and the bounds' scores come from
cross-fitting over runs, so neither saw its own answers. Beside it stands a floor, trees on lags
fitted plainly to all readings, and ``combine`` moves weight to whichever erred less in the run so
far: a run unlike those seen is forecast about as well as by the floor. Without a model the best of
a few running means, chosen by its own past errors, stands in. Bounds follow the errors on line
(``conformal``). It forecasts runs like those it was fitted on; of an unknown job it knows no more
than the running means do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError, InputError
from qcluster.q_energy.combine import follow
from qcluster.q_energy.conformal import quantile_of, scores, track
from qcluster.q_energy.forecast_features import LAGS, features, grid
from qcluster.q_energy.traces import as_trace
from qcluster.q_energy.trees import Trees

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Forecaster", "fit_forecaster", "forecast_power"]

Floats = NDArray[np.float64]

_ROWS = 12_000  # training rows a tree model sees; more gains little and costs time
_FLOOR_ROWS = 30_000
_KEPT_SCORES = 2_000
_BLENDS = np.linspace(0.0, 1.0, 11)
_PARSIMONY = 1.02
_MEANS = (1, 4, 15, 60)
_MOST_STEPS = 100_000


@dataclass(frozen=True)
class Forecaster:
    """A fitted model for runs of one kind.

    ``period_s`` is its time step and ``horizons`` the steps it was fitted at, rising; in between
    it interpolates. ``library`` holds the cluster means of the runs it saw. ``blend`` (horizons,)
    weighs the rich model against the plain one, ``errors`` are cross-fitted scores by horizon.
    ``trust`` is the weight of that blend against ``floor`` before a run shows any error: n runs
    seen give n / (n + 2).
    """

    period_s: float
    horizons: tuple[int, ...]
    library: tuple[Floats, ...]
    plain: tuple[Trees, ...]
    rich: tuple[Trees, ...]
    floor: tuple[Trees, ...]
    blend: Floats
    errors: tuple[Floats, ...]
    trust: float

    def predict(self, run: Floats, at: int) -> Floats:
        """(times, nodes) median forecast of each time's value ``horizons[at]`` steps later."""
        step = self.horizons[at]
        simple = _rows(features(run, step, (), rich=False))
        full = _rows(features(run, step, self.library, rich=True))
        weight = self.blend[at]
        value = weight * self.rich[at].predict(full) + (1 - weight) * self.plain[at].predict(simple)
        members = np.stack([value, self.floor[at].predict(simple)]).reshape(2, *run.shape)
        prior = np.array([self.trust, 1.0 - self.trust])
        return np.clip(follow(members, run, step, prior, LAGS), 0.0, None)

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        from safetensors.numpy import save_file

        arrays: dict[str, NDArray[Any]] = {"blend": self.blend}
        for i in range(len(self.horizons)):
            for name, trees in (("plain", self.plain), ("rich", self.rich), ("floor", self.floor)):
                arrays |= trees[i].arrays(f"{name}{i}")
            arrays[f"errors{i}"] = self.errors[i]
        for i, past in enumerate(self.library):
            arrays[f"library{i}"] = past
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(path))
        about = {
            "kind": "power-forecaster",
            "version": 2,
            "period_s": self.period_s,
            "horizons": self.horizons,
            "runs": len(self.library),
            "trust": self.trust,
        }
        Path(f"{path}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Forecaster:
        """Read what ``save`` wrote. Raises FormatError naming the file."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
            arrays = load_file(str(path))
            count = range(len(about["horizons"]))
            return cls(
                period_s=float(about["period_s"]),
                horizons=tuple(int(h) for h in about["horizons"]),
                library=tuple(arrays[f"library{i}"] for i in range(about["runs"])),
                plain=tuple(Trees.of(arrays, f"plain{i}") for i in count),
                rich=tuple(Trees.of(arrays, f"rich{i}") for i in count),
                floor=tuple(Trees.of(arrays, f"floor{i}") for i in count),
                blend=arrays["blend"],
                errors=tuple(arrays[f"errors{i}"] for i in count),
                trust=float(about["trust"]),
            )
        except OSError as error:
            raise FormatError(error.strerror or "cannot be read", file=path) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"is no saved forecaster: {error}", file=path) from None


def fit_forecaster(
    runs: Sequence[Any],
    *,
    horizons_s: Sequence[float] = (2.0, 10.0, 30.0, 60.0),
    period_s: float | None = None,
    rounds: int = 200,
    seed: int = 0,
) -> Forecaster:
    """A forecaster for runs of one kind of job.

    Parameters
    ----------
    runs: PowerTraces, DataFrames (ts_s, node, power_w) or paths, one a run, at least one; a single
        run is cut in two.
    horizons_s: seconds ahead to fit at; those longer than a fifth of every run are left out.
    period_s: time step; None takes the first run's median.
    rounds: trees a model, at least 1; fewer fit sooner and err more.

    Raises InputError when no run is long enough.
    """
    if not len(runs):
        raise InputError("wants at least one run", field="runs")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"wants a whole number of at least 1, got {rounds!r}", field="rounds")
    traces = [as_trace(run) for run in runs]
    period = period_s or traces[0].period_s
    grids = [_distinct(grid(t, period)[1]) for t in traces]
    return fit_grids(grids, period, horizons_s, rounds, seed)


def fit_grids(
    grids: Sequence[Floats],
    period_s: float,
    horizons_s: Sequence[float],
    rounds: int = 200,
    seed: int = 0,
) -> Forecaster:
    """``fit_forecaster`` on grids (times, nodes) that are already even."""
    whole = grids
    if len(grids) == 1:
        half = len(grids[0]) // 2
        grids = [grids[0][:half], grids[0][half:]]
    library = tuple(run.mean(axis=1) for run in grids)
    steps = sorted({max(1, round(h / period_s)) for h in horizons_s})
    longest = max(len(run) for run in grids)
    steps = [step for step in steps if 5 * step <= longest]
    if not steps:
        raise InputError(
            f"the longest run has {longest} steps of {period_s:g} s, five times the shortest "
            "horizon are needed",
            field="runs",
        )
    fitted = [_fit_step(grids, library, step, rounds, seed) for step in steps]
    plain, rich, blend, errors = zip(*fitted, strict=True)
    floor = tuple(_fit_floor(whole, step, rounds, seed) for step in steps)
    trust = len(whole) / (len(whole) + 2)
    return Forecaster(
        period_s, tuple(steps), library, plain, rich, floor, np.array(blend), errors, trust
    )


def forecast_power(
    history: Any,
    *,
    horizon_s: float,
    quantiles: Sequence[float] = (0.5, 0.95),
    model: Forecaster | None = None,
) -> pd.DataFrame:
    """Each node's power at the coming steps.

    Parameters
    ----------
    history: DataFrame ts_s, node, power_w (or PowerTrace, or path): the run so far.
    horizon_s: how far ahead, seconds, above 0; at most what the model was fitted for.
    quantiles: each between 0 and 1; 0.5 is the forecast itself.
    model: a fitted Forecaster; None uses running means.

    Returns one row a node and future step (the history's median step, or the model's), columns
    node, ts_s and ``q<quantile>`` in watts, never crossing.

    Raises InputError for bad values.
    """
    import pandas as pd

    number = isinstance(horizon_s, (int, float, np.number)) and not isinstance(horizon_s, bool)
    if not number or not np.isfinite(horizon_s) or horizon_s <= 0:
        raise InputError(f"wants seconds above 0, got {horizon_s!r}", field="horizon_s")
    if not isinstance(quantiles, Iterable):
        raise InputError(f"wants shares between 0 and 1, got {quantiles!r}", field="quantiles")
    levels = sorted(set(quantiles))
    if not levels or not all(0 < q < 1 for q in levels):
        raise InputError(f"wants shares between 0 and 1, got {quantiles}", field="quantiles")
    trace = as_trace(history)
    period = trace.period_s if model is None else model.period_s
    times, run = grid(trace, period)
    steps = max(1, int(np.floor(horizon_s / period + 1e-6)))
    if steps > _MOST_STEPS:
        message = f"wants at most {_MOST_STEPS} steps of {period:g} s, got {horizon_s:g} s"
        raise InputError(message, field="horizon_s")
    if model is not None and steps > model.horizons[-1]:
        most = model.horizons[-1] * period
        raise InputError(f"the model was fitted for {most:g} s ahead", field="horizon_s")
    anchors, bands = _bands(run, steps, levels, model)
    ahead = np.arange(1, steps + 1)
    rows = []
    for node, name in enumerate(trace.ids):
        columns = {
            f"q{level:g}": np.interp(ahead, anchors, bands[:, node, k])
            for k, level in enumerate(levels)
        }
        rows.append(pd.DataFrame({"node": name, "ts_s": times[-1] + ahead * period, **columns}))
    return pd.concat(rows, ignore_index=True)


def banded(
    run: Floats, predicted: Floats, step: int, errors: Floats, levels: Sequence[float]
) -> Floats:
    """(times, nodes, levels): forecasts made at each time, with bounds as they stood then.

    ``predicted`` (times, nodes) is the median forecast of ``step`` steps ahead; ``errors`` the
    calibration scores. Level 0.5 is the forecast itself.
    """
    known = scores(run[step:], predicted[:-step]) if len(run) > step else np.empty((0, 1))
    padded = np.full(run.shape, np.nan)
    padded[: len(known)] = known
    out = np.empty((*run.shape, len(levels)))
    for k, level in enumerate(levels):
        if level == 0.5:
            out[:, :, k] = predicted
            continue
        shift = track(np.nan_to_num(padded), level, quantile_of(errors, level), step)
        out[:, :, k] = predicted * (1.0 + shift[:, None])
    return np.clip(np.maximum.accumulate(out, axis=2), 0.0, None)


def _bands(
    run: Floats, steps: int, levels: Sequence[float], model: Forecaster | None
) -> tuple[Floats, Floats]:
    """Anchor steps and the bands of forecasts made now, (anchors, nodes, levels)."""
    if model is None:
        anchors = np.unique(np.round(np.geomspace(1, steps, 6)).astype(int))
        found = [(a, *_running(run, int(a))) for a in anchors]
    else:
        found = [(a, model.predict(run, i), model.errors[i]) for i, a in enumerate(model.horizons)]
    bands = [banded(run, p, int(a), errors, levels)[-1] for a, p, errors in found]
    return np.array([a for a, _, _ in found], float), np.stack(bands)


def _running(run: Floats, step: int) -> tuple[Floats, Floats]:
    """The running mean with the least past error, and its scores; no model."""
    at = np.arange(len(run))
    total = np.vstack([np.zeros((1, run.shape[1])), np.cumsum(run, axis=0)])
    best, least = run, np.inf
    for width in _MEANS:
        low = np.maximum(at + 1 - width, 0)
        mean = (total[at + 1] - total[low]) / (at + 1 - low)[:, None]
        wrong = float(np.abs(mean[:-step] - run[step:]).mean()) if len(run) > step else 0.0
        if wrong < least:
            best, least = mean, wrong
    errors = scores(run[step:], best[:-step]).ravel() if len(run) > step else np.zeros(1)
    return best, errors


def _fit_step(
    grids: Sequence[Floats], library: Sequence[Floats], step: int, rounds: int, seed: int
) -> tuple[Trees, Trees, float, Floats]:
    """Plain and rich trees, blend weight and cross-fitted scores for one horizon."""
    long = [i for i, run in enumerate(grids) if len(run) > step + LAGS]
    simple = {i: _examples(grids[i], step, (), rich=False) for i in long}
    # A run must not find itself among its analogues.
    full = {
        i: _examples(grids[i], step, [p for j, p in enumerate(library) if j != i], rich=True)
        for i in long
    }
    folds = [long[k::2] for k in range(2)] if len(long) > 1 else [long, long]
    parts = []
    for held, used in (folds, folds[::-1]):
        a, b = _fit(simple, used, rounds, seed), _fit(full, used, rounds, seed)
        parts += [[
            np.concatenate([a.predict(simple[i][0]) for i in held]),
            np.concatenate([b.predict(full[i][0]) for i in held]),
            np.concatenate([simple[i][1] for i in held]),
        ]]  # fmt: skip
    weight = _weight(parts)
    first, second, actual = (np.concatenate(column) for column in zip(*parts, strict=True))
    errors = np.sort(scores(actual, weight * second + (1 - weight) * first))
    kept = errors[np.linspace(0, len(errors) - 1, min(len(errors), _KEPT_SCORES)).astype(int)]
    last = _fit(simple, long, rounds, seed), _fit(full, long, rounds, seed)
    return *last, weight, kept


def _weight(parts: Sequence[Sequence[Floats]]) -> float:
    """The blend weight that gains most on the fold where it gains least.

    Each part is (plain, rich, actual) of one held-out fold. Few runs say little about what the
    rich model adds, so it must add on every fold, and the least weight nearly as good is taken.
    """
    worst = np.zeros(len(_BLENDS))
    for plain, rich, actual in parts:
        scale = np.maximum(actual, 1.0)
        wrong = np.array(
            [np.mean(np.abs(w * rich + (1 - w) * plain - actual) / scale) for w in _BLENDS]
        )
        worst = np.maximum(worst, wrong / max(float(wrong[0]), 1e-12))
    return float(_BLENDS[int(np.argmax(worst <= _PARSIMONY * worst.min()))])


def _fit(
    examples: dict[int, tuple[Floats, Floats]], used: Sequence[int], rounds: int, seed: int
) -> Trees:
    x = np.concatenate([examples[i][0] for i in used])
    y = np.concatenate([examples[i][1] for i in used])
    rows = np.random.default_rng(seed).permutation(len(y))[:_ROWS]
    # Weights of 1 / y make the absolute error a relative one.
    return Trees.fit(x[rows], y[rows], 1.0 / np.maximum(y[rows], 1.0), seed=seed, rounds=rounds)


def _fit_floor(grids: Sequence[Floats], step: int, rounds: int, seed: int) -> Trees:
    """Trees on lags, each watt of error alike: what a run unlike the others is left to."""
    parts = [_examples(run, step, (), rich=False) for run in grids if len(run) > step + LAGS]
    x, y = np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])
    rows = np.random.default_rng(seed).permutation(len(y))[:_FLOOR_ROWS]
    return Trees.fit(x[rows], y[rows], seed=seed, rounds=rounds)


def _examples(
    run: Floats, step: int, library: Sequence[Floats], *, rich: bool
) -> tuple[Floats, Floats]:
    table = features(run, step, library, rich=rich)[LAGS:-step]
    return _rows(table), run[LAGS + step :].ravel()


def _rows(table: Floats) -> Floats:
    return table.reshape(-1, table.shape[-1])


def _distinct(run: Floats) -> Floats:
    """Columns that differ: nodes behind one meter would count twice."""
    _, first = np.unique(run.round(3), axis=1, return_index=True)
    return run[:, np.sort(first)]
