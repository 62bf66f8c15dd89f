"""Tasks or GPUs as a graph: what the curve network sees.

A node is a piece of work on one GPU; an edge says that one hands data to another or runs in step
with it. Features are shares, so that they mean the same on every GPU. It knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_energy.units import Units
from qcluster.telemetry import Job

__all__ = ["FEATURES", "TaskGraph", "job_graph", "unit_graph"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FEATURES = ("power", "floor", "cost", "send")
# Seconds at which the cost feature is 1: a day.
_LONG_S = 86_400.0


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """``features`` (n, 4) and ``edges`` (2, e): from, to.

    The columns of ``features``: ``power``, draw at the highest limit as a share of that limit;
    ``floor``, the lowest limit as a share of the highest; ``cost``, log(1 + seconds at full speed)
    over that of a day, 0 where unknown; ``send``, the share of its time that the node sends data,
    0 where unknown.

    Raises InputError naming the field for wrong shapes, values outside 0 to 1 (``power`` may
    reach 1.5: boards overshoot) and edges to nodes that are not there.
    """

    features: Floats
    edges: Ints

    def __post_init__(self) -> None:
        features = np.array(self.features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(FEATURES):
            shape = f"(n, {len(FEATURES)})"
            raise InputError(f"wants shape {shape}, got {features.shape}", field="features")
        top = np.array([1.5, 1.0, 1.5, 1.0])
        bad = ~((features >= 0) & (features <= top))
        if bad.any():
            row, column = (int(k) for k in np.argwhere(bad)[0])
            message = f"wants 0 to {top[column]:g}, got {features[row, column]:g}"
            raise InputError(message, field=f"features[{row}].{FEATURES[column]}")
        edges = np.array(self.edges, dtype=np.int64).reshape(2, -1)
        if edges.size and not (edges.min() >= 0 and edges.max() < len(features)):
            worst = int(np.argmax((edges < 0) | (edges >= len(features))))
            raise InputError("names a node that is not there", field=f"edges[{worst}]")
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "edges", edges)

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.features)

    def neighbour_mean(self, x: Floats) -> Floats:
        """(n, k) mean of ``x`` (n, k) over the nodes with an edge to each; zeros without any."""
        return np.asarray(self._mean @ x)

    @cached_property
    def _mean(self) -> Any:
        """(n, n) sparse: what takes the mean over the nodes with an edge to each."""
        from scipy.sparse import csr_array

        source, target = self.edges
        part = 1.0 / np.maximum(np.bincount(target, minlength=self.n), 1)
        return csr_array((part[target], (target, source)), shape=(self.n, self.n))


def unit_graph(units: Units) -> TaskGraph:
    """GPUs (or nodes) as they are planned for; those of one node are joined both ways."""
    features = np.zeros((units.n, len(FEATURES)))
    features[:, 0] = np.clip(units.demand_w / units.max_w, 0.0, 1.5)
    features[:, 1] = np.clip(units.min_w / units.max_w, 0.0, 1.0)
    return TaskGraph(features, _cliques(units.node))


def job_graph(
    jobs: Sequence[Job], *, min_w: float, max_w: float, link_gb_s: float = 450.0
) -> TaskGraph:
    """Jobs as nodes, an edge from each to those that wait for it.

    Parameters
    ----------
    min_w, max_w: lowest and highest power limit of the GPUs they run on, watts.
    link_gb_s: what a GPU sends at, gigabytes a second; its bytes a step take their share of it.

    Raises InputError for a job without duration or power, naming it.
    """
    row = {job.id: k for k, job in enumerate(jobs)}
    features = np.zeros((len(jobs), len(FEATURES)))
    for k, job in enumerate(jobs):
        if job.duration_s <= 0 or job.power_w <= 0:
            raise InputError("wants duration_s and power_w above 0", field=f"jobs.{job.id}")
        sent = float(job.traffic().sum()) / max(job.gpus, 1)
        features[k] = (
            min(job.power_w / job.gpus / max_w, 1.5),
            min(max(min_w / max_w, 0.0), 1.0),
            cost_feature(job.duration_s),
            min(sent / (link_gb_s * 1e9) / job.duration_s, 1.0),
        )
    pairs = [(row[a], k) for k, job in enumerate(jobs) for a in job.after if a in row]
    return TaskGraph(features, np.array(pairs, dtype=np.int64).reshape(-1, 2).T)


def cost_feature(seconds: ArrayLike) -> Floats:
    """Seconds of work as the graph's ``cost``."""
    return np.asarray(np.clip(np.log1p(seconds) / np.log1p(_LONG_S), 0.0, 1.5))


def _cliques(group: Ints) -> Ints:
    """(2, e) both directions between all members of each group."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.diff(np.append(starts, len(order)))
    # One row a member, as long as its group: where the row begins, and where the group does.
    length = np.repeat(size, size)
    row = np.repeat(np.cumsum(length) - length, length)
    first = np.repeat(np.repeat(starts, size), length)
    a, b = np.repeat(order, length), order[first + np.arange(len(row)) - row]
    off = a != b
    return np.stack([a[off], b[off]])
