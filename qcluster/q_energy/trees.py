"""Boosted trees as plain arrays: fitted by scikit-learn, kept and evaluated without it.

A fitted ``HistGradientBoostingRegressor`` (Ke et al. 2017's histograms) becomes one table of nodes,
so a forecaster is saved as safetensors instead of a pickle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trees"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trees:
    """``split`` (m, 2): threshold, leaf value. ``link`` (m, 5): feature, left, right, is leaf,
    missing goes left. ``root`` (trees,) first nodes. ``base`` is added to the sum of leaves.
    """

    split: Floats
    link: NDArray[np.int64]
    root: NDArray[np.int64]
    base: float

    @classmethod
    def fit(
        cls,
        x: Floats,
        y: Floats,
        weight: Floats | None = None,
        *,
        seed: int = 0,
        rounds: int = 200,
        **options: Any,
    ) -> Trees:
        """Least absolute error over rows x (n, features), or as ``options`` say."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        options = {"loss": "absolute_error", **options}
        model = HistGradientBoostingRegressor(max_iter=rounds, random_state=seed, **options)
        _quicken(model)
        # On small tables threads that wait for each other cost more than they bring, and beside
        # busy neighbours many times more.
        with threadpool_limits(1, "openmp"):
            model.fit(x, y, sample_weight=weight)
        split, link, root, total = [], [], [], 0
        for (tree,) in model._predictors:  # noqa: SLF001 - the only place that trees live
            nodes = tree.nodes
            split.append(np.stack([nodes["num_threshold"], nodes["value"]], axis=1))
            names = ("feature_idx", "left", "right", "is_leaf", "missing_go_to_left")
            table = np.stack([nodes[name].astype(np.int64) for name in names], axis=1)
            table[:, 1:3] += total
            link.append(table)
            root.append(total)
            total += len(nodes)
        base = float(np.ravel(model._baseline_prediction)[0])  # noqa: SLF001
        return cls(np.concatenate(split), np.concatenate(link), np.array(root), base)

    def predict(self, x: Floats) -> Floats:
        """(n,) values for rows (n, features); NaN goes where it went in training."""
        from qcluster.q_energy import _kernels

        out = np.full(len(x), self.base)
        _kernels.add_trees(np.ascontiguousarray(x), self.split, self.link, self.root, out)
        return out

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a safetensors file, under ``name``."""
        return {
            f"{name}.split": self.split,
            f"{name}.link": self.link,
            f"{name}.root": self.root,
            f"{name}.base": np.array([self.base]),
        }

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], name: str) -> Trees:
        """Back from ``arrays``."""
        parts = [arrays[f"{name}.{part}"] for part in ("split", "link", "root", "base")]
        return cls(parts[0], parts[1], parts[2], float(parts[3][0]))


def _quicken(model: Any) -> None:
    """Weighted fits in a quarter of the time: the library's weighted quantiles, one sort for each
    of 255 bins of every feature and slow ones in every leaf, take the rest.

    Leaves get the same medians to the bit. Bins hold equal counts of rows, not equal weights.
    """
    loss_of, bins = model._get_loss, model._bin_data  # noqa: SLF001

    def loss(sample_weight: Floats | None) -> Any:
        made = loss_of(sample_weight=sample_weight)
        if model.loss == "absolute_error":
            made.fit_intercept_only = _median
        return made

    def binned(x: Floats, *weight: Floats | None, is_training_data: bool) -> Any:
        return bins(x, *[None] * len(weight), is_training_data=is_training_data)

    model._get_loss, model._bin_data = loss, binned  # noqa: SLF001


def _median(y_true: Floats, sample_weight: Floats | None = None) -> Any:
    """The median of values (n,); where weighted, the least with half of the weight up to it."""
    if sample_weight is None:
        middle = len(y_true) // 2
        if len(y_true) % 2:
            return np.partition(y_true, middle)[middle]
        return np.partition(y_true, (middle - 1, middle))[middle - 1 : middle + 1].mean()
    order = np.argsort(y_true)
    below = np.cumsum(sample_weight[order])
    return y_true[order[min(np.searchsorted(below, 0.5 * below[-1]), len(order) - 1)]]
