"""The tasks' own metrics, from predicted and true labels or scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError

__all__ = ["METRICS", "accuracy", "f1", "macro_f1", "matthews", "pearson_spearman"]

Labels = NDArray[np.int64]


def accuracy(predicted: ArrayLike, true: ArrayLike) -> float:
    """Share of equal labels."""
    p, t = _pair(predicted, true)
    return float((p == t).mean())


def matthews(predicted: ArrayLike, true: ArrayLike) -> float:
    """Matthews correlation (1975) for any number of classes; 0 where it is undefined."""
    p, t = _pair(predicted, true)
    classes = np.union1d(p, t)
    guesses = (p[:, None] == classes).astype(np.float64)
    truths = (t[:, None] == classes).astype(np.float64)

    def covariance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(((a - a.mean(0)) * (b - b.mean(0))).sum())

    scale = covariance(guesses, guesses) * covariance(truths, truths)
    return covariance(guesses, truths) / float(np.sqrt(scale)) if scale > 0 else 0.0


def f1(predicted: ArrayLike, true: ArrayLike, positive: int = 1) -> float:
    """Harmonic mean of precision and recall of one class; 0 where both are 0."""
    p, t = _pair(predicted, true)
    hits = int(((p == positive) & (t == positive)).sum())
    named = int((p == positive).sum()) + int((t == positive).sum())
    return 2 * hits / named if named else 0.0


def macro_f1(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean of the classes' F1, over the classes that occur."""
    p, t = _pair(predicted, true)
    return float(np.mean([f1(p, t, int(c)) for c in np.union1d(p, t)]))


def pearson_spearman(predicted: ArrayLike, true: ArrayLike) -> float:
    """Mean of both correlations (STS-B); 0 where a side is constant."""
    p, t = (np.asarray(x, dtype=np.float64) for x in (predicted, true))
    if p.shape != t.shape or not len(p):
        raise InputError("wanted two rows of the same length", field="predicted")
    if np.ptp(p) == 0 or np.ptp(t) == 0:
        return 0.0
    from scipy.stats import rankdata

    plain = np.corrcoef(p, t)[0, 1]
    ranked = np.corrcoef(rankdata(p), rankdata(t))[0, 1]
    return float((plain + ranked) / 2)


METRICS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "accuracy": accuracy,
    "matthews": matthews,
    "f1": f1,
    "macro_f1": macro_f1,
    "pearson_spearman": pearson_spearman,
}


def _pair(predicted: ArrayLike, true: ArrayLike) -> tuple[Labels, Labels]:
    p, t = np.asarray(predicted), np.asarray(true)
    if p.shape != t.shape or p.ndim != 1 or not len(p):
        raise InputError(
            f"wanted two rows of the same length, came {p.shape} and {t.shape}", field="predicted"
        )
    return p.astype(np.int64), t.astype(np.int64)
