"""METIS and KaHIP as further starting points, where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.partition.starts import repaired

__all__ = ["list_outside"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

_HEAVIEST = 10_000  # their weights are whole numbers


def list_outside(weight: Matrix, capacity: Labels) -> Iterator[Labels]:
    """What METIS and KaHIP find, repaired to the capacities; nothing where they are absent.

    They know equal domains only, so they are not asked about others.
    """
    if len(set(capacity.tolist())) != 1 or len(capacity) < 2 or not weight.any():
        return
    whole = np.rint(weight * (_HEAVIEST / weight.max())).astype(np.int64)
    rows, columns = np.nonzero(whole)
    first = np.searchsorted(rows, np.arange(len(weight) + 1))
    for name, ask in (("pymetis", _metis), ("kahip", _kahip)):
        if find_spec(name) is not None:
            part = ask(first, columns, whole[rows, columns], len(capacity))
            yield repaired(weight, np.asarray(part, dtype=np.int64), capacity)


def _metis(first: Labels, columns: Labels, weights: Labels, k: int) -> Any:
    pymetis: Any = import_module("pymetis")
    graph = pymetis.CSRAdjacency(first.tolist(), columns.tolist())
    return pymetis.part_graph(k, adjacency=graph, eweights=weights.tolist())[1]


def _kahip(first: Labels, columns: Labels, weights: Labels, k: int) -> Any:
    kahip: Any = import_module("kahip")
    ones = [1] * (len(first) - 1)
    strong, quiet, seed = 2, True, 0
    return kahip.kaffpa(
        ones, first.tolist(), weights.tolist(), columns.tolist(), k, 0.0, quiet, seed, strong
    )[1]
