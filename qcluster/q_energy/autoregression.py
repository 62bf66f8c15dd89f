"""A linear forecast from minutes of history: what repeats in a job, whatever its period.

Training repeats itself every iteration. A least-squares predictor with lags over many periods
continues any sum of tones that it has seen (Prony 1795; Makhoul 1975), which trees on a few lags
cannot. Shrunk by ridge regression (Hoerl and Kennard 1970) as far as held-out blocks ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Autoregression"]

Floats = NDArray[np.float64]

_LAGS = 96  # steps of history; about three minutes of two-second readings
_SHRINK = (0.01, 0.1, 1.0)
_BLOCKS = 4
_ROWS = 30_000


@dataclass(frozen=True)
class Autoregression:
    """``weight`` (2 lags,) of the standardised lags of node and cluster mean, ``centre`` and
    ``spread`` (2 lags,) of those, ``level`` added, and ``range`` (2,) of all values seen.
    """

    weight: Floats
    centre: Floats
    spread: Floats
    level: float
    range: Floats

    @classmethod
    def fit(
        cls, runs: Sequence[Floats], rows: Sequence[NDArray[np.int64]], step: int, seed: int = 0
    ) -> Autoregression:
        """``step`` steps ahead from times ``rows`` of ``runs`` (times, nodes); at least one row."""
        x = np.concatenate([_lagged(run, at) for run, at in zip(runs, rows, strict=True)])
        y = np.concatenate([run[at + step].ravel() for run, at in zip(runs, rows, strict=True)])
        if len(y) > _ROWS:
            some = np.sort(np.random.default_rng(seed).permutation(len(y))[:_ROWS])
            x, y = x[some], y[some]
        centre, spread, level = x.mean(axis=0), x.std(axis=0) + 1e-9, float(y.mean())
        scaled, target = (x - centre) / spread, y - level
        shrink = _shrink(scaled, target)
        limits = np.array([y.min(), y.max()])
        return cls(_solve(scaled, target, shrink), centre, spread, level, limits)

    def predict(self, run: Floats) -> Floats:
        """(times, nodes) forecasts of a run, within the range of the values fitted to."""
        at = np.arange(len(run))
        value = ((_lagged(run, at) - self.centre) / self.spread) @ self.weight + self.level
        return np.asarray(np.clip(value, *self.range).reshape(run.shape))

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a safetensors file, under ``name``."""
        table = np.stack([self.weight, self.centre, self.spread])
        return {f"{name}.table": table, f"{name}.values": np.array([self.level, *self.range])}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], name: str) -> Autoregression:
        """Back from ``arrays``."""
        table, values = arrays[f"{name}.table"], arrays[f"{name}.values"]
        return cls(table[0], table[1], table[2], float(values[0]), values[1:])


def _lagged(run: Floats, at: NDArray[np.int64]) -> Floats:
    """(rows x nodes, 2 lags): the node's last values at times ``at`` and the mean's."""
    back = np.maximum(at[:, None] - np.arange(_LAGS), 0)
    own = np.moveaxis(run[back], 1, 2)
    mean = np.broadcast_to(run.mean(axis=1)[back][:, None, :], own.shape)
    return np.concatenate([own, mean], axis=2).reshape(-1, 2 * _LAGS)


def _solve(x: Floats, y: Floats, shrink: float) -> Floats:
    return np.asarray(
        np.linalg.solve(x.T @ x + shrink * len(x) * np.eye(x.shape[1]), x.T @ y), dtype=float
    )


def _shrink(x: Floats, y: Floats) -> float:
    """The ridge parameter with the least absolute error on held-out blocks."""
    block = np.arange(len(y)) * _BLOCKS // len(y)
    wrong = np.zeros(len(_SHRINK))
    for held in range(min(_BLOCKS, len(y))):
        out = block == held
        for k, shrink in enumerate(_SHRINK):
            if (~out).any():
                wrong[k] += np.abs(x[out] @ _solve(x[~out], y[~out], shrink) - y[out]).sum()
    return _SHRINK[int(np.argmin(wrong))]
