"""Several models of power some steps ahead, mixed by how they did on runs they had not seen.

Members differ in what they see (lags; phases; analogues and the linear forecast too), in how much
they smooth, and in whose error counts: watts or percent. Each is the mean of a few boosted-tree
models on random halves of the features (Breiman 1996), as one tree model's noise costs more than
it tells on steady jobs. The first member is the floor: one such model on lags, fitted plainly.
Weights come from cross-fitting over runs (or over parts of a single one): the convex mixture
(Wolpert 1992) with the least relative error in the mean fold and the worst one together, found by
exponentiated gradient from the floor's side (Kivinen and Warmuth 1997), so that what does not help
stays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.autoregression import Autoregression
from qcluster.q_energy.combine import RATE
from qcluster.q_energy.forecast_features import LAGS, PHASES, features
from qcluster.q_energy.trees import Trees

__all__ = ["Mixture", "convex_weights", "fit_mixture"]

Floats = NDArray[np.float64]

_FOLDS = 3
_ROWS, _FLOOR_ROWS = 12_000, 30_000  # training rows a tree model sees
_FINE: dict[str, Any] = {"max_features": 0.5, "early_stopping": False}
_CALM: dict[str, Any] = {
    **_FINE, "learning_rate": 0.05, "max_leaf_nodes": 12, "min_samples_leaf": 30,
    "l2_regularization": 1.0,
}  # fmt: skip
_FLOOR_WEIGHT = 0.5
_LEAST_RATIO = 0.1
_EVIDENCE, _GAIN = 150.0, 0.1  # horizons times runs; share of the floor's error
_STEPS, _SPEED, _WEIGHED_ROWS = 150, 0.5, 20_000


@dataclass(frozen=True)
class _Kind:
    """``columns`` it sees (None: all), ``relative`` whether errors count in percent, models."""

    columns: int | None
    relative: bool
    options: dict[str, Any]
    bag: int = 3
    rows: int = _ROWS


_KINDS = (
    _Kind(2 * LAGS, False, {}, bag=1, rows=_FLOOR_ROWS),
    _Kind(2 * LAGS, False, _FINE),
    _Kind(2 * LAGS, False, _CALM),
    _Kind(PHASES, True, _FINE),
    _Kind(None, True, _FINE),
    _Kind(None, True, _CALM),
)


@dataclass(frozen=True)
class Mixture:
    """``members`` in the order of their kinds, the floor first, with ``weight`` (members,).

    ``worst`` is the mixture's error over the floor's on the fold where that was largest, ``runs``
    and ``horizons`` how many of each it was fitted to: readings within one horizon are of one
    event, so that is what counts as evidence.
    """

    linear: Autoregression
    members: tuple[tuple[Trees, ...], ...]
    weight: Floats
    worst: float
    runs: int
    horizons: float

    def predict(self, run: Floats, step: int, library: Sequence[Floats]) -> Floats:
        """(1 + members, times, nodes) forecasts ``step`` steps ahead, the mixture's first."""
        found = _answers(self.members, _rows(_table(run, step, library, self.linear.predict(run))))
        return np.vstack([self.weight @ found, found]).reshape(-1, *run.shape)

    @property
    def prior(self) -> Floats:
        """(1 + members,) how much each of those counts before a run shows any error.

        One share is the floor's. The mixture has one for each of the runs it was fitted to, times
        what one horizon of gains like the worst fold's earns; the other members together a third
        for each run, one at most.
        """
        gained = 1.0 / max(self.worst, _LEAST_RATIO) - 1.0
        others = len(self.members) - 1
        each = min(self.runs / 3.0, 1.0) / others
        share = np.array([self.runs * np.exp(RATE * gained), 1.0, *[each] * others])
        return np.asarray(share / share.sum())

    @property
    def reach(self) -> float:
        """How far from the floor's forecast, 0 to 1, others may lead: all the way once the worst
        fold gained a tenth or there is much evidence, which counts by horizons and runs.
        """
        gained = max(0.0, 1.0 - self.worst)
        return float(min(1.0, self.horizons * self.runs / _EVIDENCE + gained / _GAIN))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a safetensors file, under ``name``."""
        out: dict[str, NDArray[Any]] = {f"{name}.weight": self.weight}
        out |= {
            f"{name}.seen": np.array([self.worst, self.runs, self.horizons]),
            **self.linear.arrays(f"{name}.linear"),
        }
        for m, bag in enumerate(self.members):
            for k, trees in enumerate(bag):
                out |= trees.arrays(f"{name}.{m}.{k}")
        return out

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], name: str) -> Mixture:
        """Back from ``arrays``. Raises KeyError where a part is missing."""
        members = tuple(
            tuple(Trees.of(arrays, f"{name}.{m}.{k}") for k in range(kind.bag))
            for m, kind in enumerate(_KINDS)
        )
        linear, weight = Autoregression.of(arrays, f"{name}.linear"), arrays[f"{name}.weight"]
        worst, runs, horizons = arrays[f"{name}.seen"].tolist()
        return cls(linear, members, weight, worst, int(runs), horizons)


def fit_mixture(
    runs: Sequence[Floats], step: int, rounds: int, seed: int
) -> tuple[Mixture, Floats, Floats]:
    """The mixture for ``step`` steps ahead, and held-out forecasts with what came, both (rows,).

    ``runs`` (times, nodes) each; at least one is longer than the lags and ``step`` together.
    """
    means = [run.mean(axis=1) for run in runs]
    folds = _folds(runs, step)
    tables, actual, fold = [], [], []
    linear = _crossed(runs, folds, step, seed)
    for i, run in enumerate(runs):
        at = _times(run, step)
        # A run must not find itself among its analogues.
        others = [mean for j, mean in enumerate(means) if j != i]
        tables.append(_rows(_table(run, step, others, linear[i])[at]))
        actual.append(run[at + step].ravel())
        fold.append(np.repeat(folds[i], run.shape[1]))
    x, y, part = np.concatenate(tables), np.concatenate(actual), np.concatenate(fold)
    held = np.empty((len(_KINDS), len(y)))
    used = np.unique(part)
    for one in used:
        out = part == one
        rest = ~out if len(used) > 1 else out
        held[:, out] = _answers(_fit_members(x[rest], y[rest], rounds, seed, bag=1), x[out])
    weight = convex_weights(held, y, part, seed)
    worst = max(_ratio(weight @ held, held[0], y, part == one) for one in used)
    members = _fit_members(x, y, rounds, seed)
    every = Autoregression.fit(runs, [_times(run, step) for run in runs], step, seed)
    horizons = sum(len(_times(run, step)) for run in runs) / step
    mixture = Mixture(every, members, weight, worst, len(runs), horizons)
    return mixture, held[0] + mixture.reach * (weight @ held - held[0]), y


def convex_weights(held: Floats, actual: Floats, fold: NDArray[np.int64], seed: int = 0) -> Floats:
    """(members,) weights that sum to 1, from forecasts ``held`` (members, rows) of ``actual``.

    The relative error against the first member's, mean over folds plus the worst fold's, is made
    small; weights below 0.01 become 0.
    """
    if len(actual) > _WEIGHED_ROWS:
        some = np.random.default_rng(seed).permutation(len(actual))[:_WEIGHED_ROWS]
        held, actual, fold = held[:, some], actual[some], fold[some]
    scale = np.maximum(actual, 1.0)
    groups = [np.flatnonzero(fold == one) for one in np.unique(fold)]
    floor = [max(float(np.mean(np.abs(held[0] - actual)[g] / scale[g])), 1e-9) for g in groups]
    count = len(held)
    weight = np.full(count, (1.0 - _FLOOR_WEIGHT) / (count - 1))
    weight[0] = _FLOOR_WEIGHT
    best, least = weight, np.inf
    for turn in range(_STEPS):
        apart = weight @ held - actual
        ratio = np.array(
            [np.mean(np.abs(apart[g]) / scale[g]) / f for g, f in zip(groups, floor, strict=True)]
        )
        cost = float(ratio.mean() + ratio.max())
        if cost < least - 1e-9:
            best, least = weight, cost
        slope = np.array(
            [held[:, g] @ (np.sign(apart[g]) / scale[g]) / (len(g) * f)
             for g, f in zip(groups, floor, strict=True)]
        )  # fmt: skip
        slope = slope.mean(axis=0) + slope[int(np.argmax(ratio))]
        slope -= weight @ slope
        grown = weight * np.exp(-_SPEED / np.sqrt(turn + 1.0) * slope / max(np.abs(slope).max(), 1))
        weight = grown / grown.sum()
    kept = np.where(best < 0.01, 0.0, best)
    return np.asarray(kept / kept.sum())


def _ratio(mixed: Floats, floor: Floats, actual: Floats, rows: NDArray[np.bool_]) -> float:
    """Mean relative error over the floor's."""
    scale = np.maximum(actual, 1.0)[rows]
    mine, theirs = (float(np.mean(np.abs(f - actual)[rows] / scale)) for f in (mixed, floor))
    return mine / max(theirs, 1e-9)


def _folds(runs: Sequence[Floats], step: int) -> list[NDArray[np.int64]]:
    """The fold of each run's times that can be learned from: whole runs, or parts of one."""
    times = [len(_times(run, step)) for run in runs]
    long = [i for i, n in enumerate(times) if n]
    if len(long) == 1:
        cut = [np.arange(n) * _FOLDS // max(n, 1) for n in times]
    else:
        order = {i: k % _FOLDS for k, i in enumerate(long)}
        cut = [np.full(n, order.get(i, 0)) for i, n in enumerate(times)]
    return [one.astype(np.int64) for one in cut]


def _crossed(
    runs: Sequence[Floats], folds: Sequence[NDArray[np.int64]], step: int, seed: int
) -> list[Floats]:
    """Linear forecasts (times, nodes) of each run by a fit to the other folds."""
    out = [np.zeros(run.shape) for run in runs]
    used = np.unique(np.concatenate(folds))
    for one in used:
        rows = [
            _times(run, step)[f != one] if len(used) > 1 else _times(run, step)
            for run, f in zip(runs, folds, strict=True)
        ]
        fitted = Autoregression.fit(runs, rows, step, seed)
        for run, f, found in zip(runs, folds, out, strict=True):
            if (f == one).any():
                at = _times(run, step)[f == one]
                found[at] = fitted.predict(run)[at]
    return out


def _times(run: Floats, step: int) -> NDArray[np.int64]:
    """Times of a run whose lags and whose value ``step`` steps later are known."""
    return np.arange(LAGS, max(len(run) - step, LAGS))


def _fit_members(
    x: Floats, y: Floats, rounds: int, seed: int, bag: int | None = None
) -> tuple[tuple[Trees, ...], ...]:
    members = []
    for kind in _KINDS:
        models = []
        for k in range(bag or kind.bag):
            some = np.random.default_rng(seed + k).permutation(len(y))[: kind.rows]
            # Weights of 1 / y make the absolute error a relative one.
            weight = 1.0 / np.maximum(y[some], 1.0) if kind.relative else None
            models.append(
                Trees.fit(
                    x[some, : kind.columns], y[some], weight, seed=seed + k, rounds=rounds,
                    **kind.options,
                )
            )  # fmt: skip
        members.append(tuple(models))
    return tuple(members)


def _answers(members: Sequence[Sequence[Trees]], x: Floats) -> Floats:
    """(members, rows)."""
    out = np.empty((len(members), len(x)))
    for m, (kind, models) in enumerate(zip(_KINDS, members, strict=True)):
        seen = np.ascontiguousarray(x[:, : kind.columns])
        out[m] = np.mean([model.predict(seen) for model in models], axis=0)
    return out


def _table(run: Floats, step: int, library: Sequence[Floats], linear: Floats) -> Floats:
    return np.concatenate([features(run, step, library, rich=True), linear[..., None]], axis=-1)


def _rows(table: Floats) -> Floats:
    return table.reshape(-1, table.shape[-1])
