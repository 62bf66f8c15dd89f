"""Power of every node over the next seconds to minutes, with bounds.

A fitted forecaster holds a mixture of models a horizon (``forecast_mixture``), among them a floor
of trees on lags fitted plainly to all readings. ``combine`` moves weight to what would have erred
less in the run so far, and forecasts leave the floor as far as runs that the models had not seen,
and this run, make it sure that this helps: a run unlike those is forecast about as the floor does.
Without a model the best of a few running means, chosen by its own past errors, stands in. Bounds
follow the errors on line (``conformal``). It forecasts runs like those it was fitted on; of an
unknown job it knows no more than the running means do.
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
from qcluster.q_energy.conformal import quantile_of, scores, track
from qcluster.q_energy.forecast_features import LAGS, grid
from qcluster.q_energy.forecast_mixture import Mixture, fit_mixture
from qcluster.q_energy.trace import PowerTrace
from qcluster.q_energy.traces import as_trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Forecaster", "fit_forecaster", "forecast_power"]

Floats = NDArray[np.float64]

_KEPT_SCORES = 2_000
_LEAST_STEPS = LAGS + 4  # of a run, beside the horizon: too little else to learn from
_MEANS = (1, 4, 15, 60)
_MOST_STEPS = 100_000


@dataclass(frozen=True)
class Forecaster:
    """A fitted model for runs of one kind.

    ``period_s`` is its time step and ``horizons`` the steps it was fitted at, rising; in between
    it interpolates. ``library`` holds the cluster means of the runs it saw, none where that was a
    single one. ``errors`` are cross-fitted scores by horizon.
    """

    period_s: float
    horizons: tuple[int, ...]
    library: tuple[Floats, ...]
    mixtures: tuple[Mixture, ...]
    errors: tuple[Floats, ...]

    def predict(self, run: Floats, at: int) -> Floats:
        """(times, nodes) median forecast of each time's value ``horizons[at]`` steps later."""
        step = self.horizons[at]
        mixture = self.mixtures[at]
        found = mixture.lead(mixture.predict(run, step, self.library), run, step)
        return np.asarray(np.clip(found, 0.0, None))

    def save(self, path: str | Path) -> None:
        """Write ``path`` (safetensors) and ``path`` with .json beside it."""
        from safetensors.numpy import save_file

        arrays: dict[str, NDArray[Any]] = {}
        for i, (mixture, errors) in enumerate(zip(self.mixtures, self.errors, strict=True)):
            arrays |= mixture.arrays(f"mixture{i}")
            arrays[f"errors{i}"] = errors
        for i, past in enumerate(self.library):
            arrays[f"library{i}"] = past
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(path))
        about = {
            "kind": "power-forecaster",
            "version": 4,
            "period_s": self.period_s,
            "horizons": self.horizons,
            "library": len(self.library),
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
                library=tuple(arrays[f"library{i}"] for i in range(about["library"])),
                mixtures=tuple(Mixture.of(arrays, f"mixture{i}") for i in count),
                errors=tuple(arrays[f"errors{i}"] for i in count),
            )
        except OSError as error:
            raise FormatError(error.strerror or "cannot be read", file=path) from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"is no saved forecaster: {error}", file=path) from None


def fit_forecaster(
    runs: Any,
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
        run, in a list or as it is, is cut in two.
    horizons_s: seconds ahead to fit at; those longer than a fifth of every run are left out.
    period_s: time step; None takes the first run's median.
    rounds: trees a model, at least 1; fewer fit sooner and err more.

    Raises InputError when no run is long enough.
    """
    single = isinstance(runs, (str, Path, PowerTrace)) or hasattr(runs, "columns")
    runs = [runs] if single else runs
    if not isinstance(runs, Sequence) or not len(runs):
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
    steps = sorted({max(1, round(h / period_s)) for h in horizons_s})
    longest = max(len(run) for run in grids)
    steps = [step for step in steps if max(5 * step, _LEAST_STEPS + step) <= longest]
    if not steps:
        raise InputError(
            f"the longest run has {longest} steps of {period_s:g} s, five times the shortest "
            f"horizon are needed, and {_LEAST_STEPS} more than it",
            field="runs",
        )
    mixtures, errors = [], []
    for step in steps:
        mixture, held, actual = fit_mixture(grids, step, rounds, seed)
        found = np.sort(scores(actual, held))
        # As many as there are events, so that few of them give a bound that is wide enough.
        kept = int(np.clip(mixture.horizons, 5, min(len(found), _KEPT_SCORES)))
        some = np.linspace(0, len(found) - 1, kept).astype(int)
        mixtures.append(mixture)
        errors.append(found[some])
    library = tuple(run.mean(axis=1) for run in grids) if len(grids) > 1 else ()
    return Forecaster(period_s, tuple(steps), library, tuple(mixtures), tuple(errors))


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


def _distinct(run: Floats) -> Floats:
    """Columns that differ: nodes behind one meter would count twice."""
    _, first = np.unique(run.round(3), axis=1, return_index=True)
    return run[:, np.sort(first)]
