"""All-to-all over one tier: rounds of matchings whose length equals the busiest port exactly.

A traffic matrix is padded with idle volume until every row and column adds up to the busiest port;
such a matrix is a sum of perfect matchings (Birkhoff, 1946; von Neumann, 1953). Each matching is a
round in which every GPU sends to at most one other and receives from at most one: no incast. All
arithmetic is on integers, so makespan and bound are equal, not just close.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError, SolverFailed
from qcluster.q_nvlink.alltoall._kernels import decompose, pack

__all__ = ["Matchings", "check_traffic", "matchings", "port_bound", "verify_matchings"]


@dataclass(frozen=True)
class Matchings:
    """Rounds: ``target`` (rounds, n) is each source's destination or -1, ``duration`` (rounds,)."""

    target: NDArray[np.int16]
    duration: NDArray[np.int64]

    @property
    def length(self) -> int:
        """Sum of all durations."""
        return int(self.duration.sum())


def check_traffic(traffic: ArrayLike) -> NDArray[np.int64]:
    """The matrix as int64 with the diagonal set to 0: what stays on a GPU needs no fabric.

    Raises InputError naming row and column of what is wrong.
    """
    try:
        array = np.asarray(traffic)
    except ValueError:
        raise InputError("wants a matrix: rows of one length", field="traffic") from None
    if array.ndim != 2 or array.shape[0] != array.shape[1] or array.dtype.kind not in "iuf":
        raise InputError(
            f"wants whole numbers in shape (n, n), got {array.dtype} in {array.shape}",
            field="traffic",
        )
    if array.dtype.kind == "f":
        _refuse(~np.isfinite(array), array, "finite bytes")
        _refuse(array != np.floor(array), array, "whole bytes")
    _refuse(array < 0, array, "bytes of at least 0")
    if len(array) and float(array.max()) * len(array) >= 2.0**62:
        raise InputError("adds up to more than 2^62 bytes", field="traffic")
    result = array.astype(np.int64)
    np.fill_diagonal(result, 0)
    return result


def _refuse(bad: NDArray[np.bool_], array: NDArray[Any], wanted: str) -> None:
    if bad.any():
        i, j = np.argwhere(bad)[0].tolist()
        raise InputError(f"wants {wanted}, got {array[i, j]}", field=f"traffic[{i}][{j}]")


def port_bound(traffic: NDArray[np.int64]) -> int:
    """The busiest port: the largest row or column sum, bytes. No schedule is shorter."""
    if not len(traffic):
        return 0
    return int(max(traffic.sum(axis=1).max(), traffic.sum(axis=0).max()))


def matchings(traffic: NDArray[np.int64], *, few: bool = False) -> Matchings:
    """Rounds that carry ``traffic`` (n, n) and last ``port_bound`` together.

    By default each pair sends for the whole of its rounds, so they carry the traffic exactly; a
    general matrix then needs about one round for each entry. With ``few`` a pair may finish before
    its round ends, which takes a small multiple of n rounds.
    """
    n, length = len(traffic), port_bound(traffic)
    if length == 0:
        return Matchings(np.empty((0, n), dtype=np.int16), np.empty(0, dtype=np.int64))
    most = n * n + 8 * n + 64
    while True:
        rounds = np.empty((most, n), dtype=np.int16)
        durations = np.empty(most, dtype=np.int64)
        if few:
            rows, columns = length - traffic.sum(axis=1), length - traffic.sum(axis=0)
            count = pack(traffic.copy(), rows, columns, rounds, durations)
        else:
            count = decompose(traffic.copy(), _padding(traffic, length), rounds, durations)
        if count >= 0:
            return Matchings(rounds[:count].copy(), durations[:count].copy())
        most *= 4


def _padding(traffic: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Idle volume that fills every row and column up to ``length``: north-west corner rule."""
    idle = np.zeros_like(traffic)
    rows = (length - traffic.sum(axis=1)).tolist()
    columns = (length - traffic.sum(axis=0)).tolist()
    i = j = 0
    while i < len(rows) and j < len(columns):
        fill = min(rows[i], columns[j])
        idle[i, j] += fill
        rows[i] -= fill
        columns[j] -= fill
        if rows[i] == 0:
            i += 1
        else:
            j += 1
    return idle


def verify_matchings(traffic: NDArray[np.int64], found: Matchings, *, few: bool = False) -> None:
    """Raise SolverFailed unless rounds carry the traffic one to one; exactly unless ``few``."""
    sent = np.zeros_like(traffic)
    for target, duration in zip(found.target, found.duration, strict=True):
        sources = np.flatnonzero(target >= 0)
        if len(np.unique(target[sources])) < len(sources):
            raise SolverFailed("two sources send to one destination in a round")
        sent[sources, target[sources]] += duration
    wrong = sent < traffic if few else sent != traffic
    if wrong.any():
        i, j = np.argwhere(wrong)[0].tolist()
        raise SolverFailed(f"{sent[i, j]} bytes go from {i} to {j}, wanted {traffic[i, j]}")
