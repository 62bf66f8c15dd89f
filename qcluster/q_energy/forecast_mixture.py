"""Several models of power some steps ahead, and how far held-out runs say to trust them.

Members differ in what they see (lags; phases; analogues and the linear forecast too), in how much
they smooth, and in whose error counts: watts or percent. Each is the mean of a few boosted-tree
models on random halves of the features (Breiman 1996), as one tree model's noise costs more than
it tells on steady jobs. The first member is the floor: one such model on lags, fitted plainly.
Cross-fitting over runs (or over parts of a single one) gives forecasts by models that had not seen
what they forecast. The on-line rule (``combine``) is replayed on these, run after run. What the
members saved there is where a new run starts from, and how sure it is that the replay and the run
so far erred less than the floor says how far from it forecasts may go: from one standard deviation
of the gain on, and all the way at two. What does not help stays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.autoregression import Autoregression
from qcluster.q_energy.combine import Savings, follow
from qcluster.q_energy.forecast_features import LAGS, PHASES, features
from qcluster.q_energy.trees import Trees

__all__ = ["PRIOR", "Mixture", "fit_mixture", "replay"]

Floats = NDArray[np.float64]

_FOLDS = 3
_ROWS, _FLOOR_ROWS = 12_000, 30_000  # training rows a tree model sees
_FINE: dict[str, Any] = {"max_features": 0.5, "early_stopping": False}
_CALM: dict[str, Any] = {
    **_FINE, "learning_rate": 0.05, "max_leaf_nodes": 12, "min_samples_leaf": 30,
    "l2_regularization": 1.0,
}  # fmt: skip
# What an average held-out run counts for at the start of a new one, which soon knows better.
_PAST = 0.1
_LEAST_NOISE = 1e-12


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
PRIOR: Floats = np.array([0.5, *[0.5 / (len(_KINDS) - 1)] * (len(_KINDS) - 1)])
"""Half for the floor, half for the other members together, while nothing is known of any."""


@dataclass(frozen=True)
class Mixture:
    """``members`` in the order of their kinds, the floor first.

    ``start`` is what members saved in held-out runs, as far as it counts in a new one; ``gain``
    how much less than the floor's the relative error of what ``combine`` made of them was, summed
    over horizons, and ``noise`` the variance of that sum; ``horizons`` how many it was fitted to:
    readings within one horizon are of one event, so that is what counts as evidence.
    """

    linear: Autoregression
    members: tuple[tuple[Trees, ...], ...]
    start: Savings
    gain: float
    noise: float
    horizons: float

    def predict(self, run: Floats, step: int, library: Sequence[Floats]) -> Floats:
        """(members, times, nodes) forecasts ``step`` steps ahead, the floor's first."""
        table = _rows(_table(run, step, library, self.linear.predict(run)))
        return _answers(self.members, table).reshape(-1, *run.shape)

    def lead(self, members: Floats, run: Floats, step: int) -> Floats:
        """(times, nodes) what the on-line rule makes of ``predict``'s ``members``."""
        led, _ = follow(members, run, step, PRIOR, self.start, LAGS)
        known = np.zeros(len(run))
        late = LAGS + step
        known[late:] = _gains(members[0, LAGS:-step], led[LAGS:-step], run[late:], step)
        gain = self.gain + np.cumsum(known)
        noise = self.noise + step * np.cumsum(known**2)
        sure = np.clip(gain / np.sqrt(np.maximum(noise, _LEAST_NOISE)) - 1.0, 0.0, 1.0)
        return np.asarray(members[0] + sure[:, None] * (led - members[0]))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a safetensors file, under ``name``."""
        out: dict[str, NDArray[Any]] = {
            f"{name}.seen": np.array([self.gain, self.noise, self.horizons]),
            **self.start.arrays(f"{name}.start"),
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
        linear = Autoregression.of(arrays, f"{name}.linear")
        start = Savings.of(arrays, f"{name}.start")
        return cls(linear, members, start, *arrays[f"{name}.seen"].tolist())


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
    led, start, gain, noise = replay(runs, step, held)
    members = _fit_members(x, y, rounds, seed)
    every = Autoregression.fit(runs, [_times(run, step) for run in runs], step, seed)
    horizons = sum(len(_times(run, step)) for run in runs) / step
    sure = np.clip(gain / np.sqrt(max(noise, _LEAST_NOISE)) - 1.0, 0.0, 1.0)
    mixture = Mixture(every, members, start, gain, noise, horizons)
    return mixture, held[0] + sure * (led - held[0]), y


def replay(runs: Sequence[Floats], step: int, held: Floats) -> tuple[Floats, Savings, float, float]:
    """What the on-line rule would have made of held-out forecasts, had the runs come in turn.

    ``held`` (members, rows) forecasts, the floor's first, of ``step`` steps after every time of
    the runs that has its lags, rows in the order of runs, times and nodes.

    Returns the mixture (rows,), the savings that a new run starts from, by how much less than the
    floor the mixture erred and the variance of that, from sums over blocks of as many horizons as
    there are blocks in a run (batch means, Law and Carson 1979): gains of one spell come together.
    """
    past = start = Savings.none(len(held))
    mixed, gain, noise, low, count = [], 0.0, 0.0, 0, 0
    for run in runs:
        at = _times(run, step)
        if not len(at):
            continue
        rows = slice(low, low + len(at) * run.shape[1])
        members = np.zeros((len(held), *run.shape))
        members[:, at] = held[:, rows].reshape(len(held), len(at), -1)
        led, end = follow(members, run, step, PRIOR, start, LAGS)
        low, count = rows.stop, count + 1
        past = past.plus(end.less(start))
        start = past.times(_PAST / count)
        found = _gains(members[0, at], led[at], run[at + step], step)
        blocks = np.array_split(found, max(1, round(np.sqrt(len(at) / step))))
        gain, noise = gain + float(found.sum()), noise + sum(float(b.sum()) ** 2 for b in blocks)
        mixed.append(led[at].ravel())
    return np.concatenate(mixed), start, gain, noise


def _gains(floor: Floats, led: Floats, actual: Floats, step: int) -> Floats:
    """(times,) by how much less than the floor's forecasts those ``led`` err, in horizons."""
    better = np.abs(floor - actual) - np.abs(led - actual)
    return np.asarray(np.clip(better / np.maximum(actual, 1.0), -1.0, 1.0).mean(axis=1) / step)


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
