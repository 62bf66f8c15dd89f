"""One head's keys and values as decoding reads them: clusters' means, and rows in 8 bits.

Keys come in blocks. A block is clustered by itself and put behind what is there; the steps of the
8-bit rows stay while new rows are in their range, so that a block costs what it brings and one copy
of the codes, not the clustering of everything again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qcluster.q_attention.clusters import cluster_keys

__all__ = ["Eight", "GrowingHead", "Head"]

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

PER_CLUSTER = 16
APART = 32
"""One key in so many stands alone."""
ROOM = 1.25
"""How much wider than the rows that came first the range of 8 bits is made when it has to widen."""


@dataclass(frozen=True, eq=False)
class Eight:
    """Rows in 8 bits: code * step + middle, per channel."""

    codes: Codes
    step: Floats
    middle: Floats


@dataclass(frozen=True, eq=False)
class Head:
    """What the kernel reads of a head's clustered keys (see ``_kernels.decode_head``)."""

    mean_k: Eight
    mean_v: Eight
    log_size: Floats
    spread: Floats
    spread_v: Floats
    within: Floats
    along: Floats
    start: NDArray[np.int64]
    row_k: Eight
    row_v: Eight


@dataclass(frozen=True, eq=False)
class _Block:
    """Clusters of a block: their rows in order, means, sizes, mean squared distances to the mean,
    and sums of products of what is left of keys with themselves, and of values with keys.
    """

    rows_k: Floats
    rows_v: Floats
    mean_k: Floats
    mean_v: Floats
    size: NDArray[np.int64]
    far_k: Floats
    far_v: Floats
    within: Floats
    along: Floats


class GrowingHead:
    """Clusters keys as they come.

    ``metric`` (d, d) or None: keys are grouped by their distance after it. ``head`` is what there
    is to read, None before the first block.
    """

    def __init__(self, metric: torch.Tensor | None = None) -> None:
        self.metric = metric
        self.head: Head | None = None
        self._size = np.zeros(0, np.int64)
        self._far = np.zeros(0)
        self._within: Floats | float = 0.0
        self._along: Floats | float = 0.0
        self._means: tuple[Floats, Floats] | None = None

    def add(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Cluster the next keys and values, (new, d) and (new, dv), float32 on the CPU."""
        block = _clustered(k, v, self.metric)
        old = self.head
        means = (block.mean_k, block.mean_v)
        if self._means is not None:
            means = (
                np.concatenate([self._means[0], block.mean_k]),
                np.concatenate([self._means[1], block.mean_v]),
            )
        self._means = means
        self._size = np.concatenate([self._size, block.size])
        self._far = np.concatenate([self._far, block.far_k])
        self._within = self._within + block.within
        self._along = self._along + block.along
        keys = int(self._size.sum())
        usual = max(float(self._far @ self._size) / keys, 1e-30)
        spread_v = block.far_v + (block.mean_v**2).sum(1)
        self.head = Head(
            _eight(means[0]),
            _eight(means[1]),
            np.log(self._size).astype(np.float32),
            (self._far / usual).astype(np.float32),
            spread_v if old is None else np.concatenate([old.spread_v, spread_v]),
            np.asarray(self._within / keys, np.float32),
            np.asarray(self._along / keys, np.float32),
            np.concatenate([[0], np.cumsum(self._size)]).astype(np.int64),
            _grown(None if old is None else old.row_k, block.rows_k),
            _grown(None if old is None else old.row_v, block.rows_v),
        )


def _eight(x: Floats, room: float = 1.0) -> Eight:
    low, high = x.min(0), x.max(0)
    middle = ((low + high) / 2).astype(np.float32)
    step = np.maximum(room * (high - low) / 254, np.finfo(np.float32).tiny).astype(np.float32)
    return Eight(_codes(x, step, middle), step, middle)


def _codes(x: Floats, step: Floats, middle: Floats) -> Codes:
    codes = np.clip(np.rint((x - middle) / step), -127, 127).astype(np.int8)
    return np.ascontiguousarray(codes)


def _grown(old: Eight | None, rows: Floats) -> Eight:
    """``old`` with ``rows`` behind it, in its steps where they are in its range."""
    if old is None:
        return _eight(rows)
    reach = 127.5 * old.step
    if bool((np.abs(rows - old.middle) <= reach).all()):
        codes = _codes(rows, old.step, old.middle)
        return Eight(np.concatenate([old.codes, codes]), old.step, old.middle)
    # Seldom: every widening makes room, so the codes are written anew only a few times.
    before = old.codes * old.step + old.middle
    return _eight(np.concatenate([before, rows]).astype(np.float32), ROOM)


def _clustered(k: torch.Tensor, v: torch.Tensor, metric: torch.Tensor | None) -> _Block:
    seen = k if metric is None else k @ metric
    of_key = _set_apart(seen.numpy(), cluster_keys(seen[None], PER_CLUSTER)[0].numpy())
    order = np.argsort(of_key, kind="stable")
    keys, values = k.numpy()[order], v.numpy()[order]
    size = np.bincount(of_key)
    first = (np.cumsum(size) - size)[size > 0]
    # Empty clusters are left out.
    size = size[size > 0]
    mean_k, mean_v = (
        (np.add.reduceat(x.astype(np.float64), first) / size[:, None]).astype(np.float32)
        for x in (keys, values)
    )
    rest_k, rest_v = (
        x - np.repeat(mean, size, 0) for x, mean in ((keys, mean_k), (values, mean_v))
    )
    far_k, far_v = (
        (np.add.reduceat((x**2).sum(1), first) / size).astype(np.float32) for x in (rest_k, rest_v)
    )
    return _Block(
        keys, values, mean_k, mean_v, size, far_k, far_v, rest_k.T @ rest_k, rest_v.T @ rest_k
    )


def _set_apart(k: Floats, of_key: NDArray[np.int64]) -> NDArray[np.int64]:
    """The keys furthest from their cluster's mean become clusters of their own.

    A mean hides a single key that a query is after; alone it is read with the means.
    """
    m = int(of_key.max()) + 1
    size = np.bincount(of_key, minlength=m)
    order = np.argsort(of_key, kind="stable")
    first = (np.cumsum(size) - size)[size > 0]
    means = np.zeros((m, k.shape[1]))
    means[size > 0] = np.add.reduceat(k[order].astype(np.float64), first) / size[size > 0][:, None]
    far = ((k - means[of_key]) ** 2).sum(1)
    count = len(k) // APART
    if not count:
        return of_key
    alone = np.argpartition(far, -count)[-count:]
    found = of_key.copy()
    found[alone] = m + np.arange(count)
    return found
