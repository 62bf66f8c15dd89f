"""Sets of GPUs to try: one of each kind, where some GPUs are interchangeable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.islands import pack

__all__ = ["count_sets", "leftovers", "list_sets"]

_MANY = 1e15


def count_sets(sizes: Sequence[int], k: int) -> int:
    """How many ways there are to take ``k`` out of classes of these sizes, 10^15 if more."""
    ways = np.zeros(k + 1)
    ways[0] = 1.0
    for size in sizes:
        # Whole numbers below 2^53: exact.
        ways = np.minimum(np.convolve(ways, np.ones(min(size, k) + 1))[: k + 1], _MANY)
    return int(ways[k])


def list_sets(classes: list[list[int]], k: int, hosts: list[str]) -> Iterator[list[int]]:
    """One set for every way to split ``k`` over the classes, whole hosts first."""
    if not classes:
        if k == 0:
            yield []
        return
    if all(len(members) == 1 for members in classes):
        for chosen in combinations([members[0] for members in classes], k):
            yield list(chosen)
        return
    rest = sum(len(members) for members in classes[1:])
    for take in range(min(k, len(classes[0])), max(0, k - rest) - 1, -1):
        head = pack(classes[0], take, hosts)
        for tail in list_sets(classes[1:], k - take, hosts):
            yield head + tail


def leftovers(
    cap: NDArray[np.int64], free: Sequence[int], hosts: Sequence[str], sets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What each set (sets, k) out of the GPUs ``free`` leaves, both (sets,).

    The capacity between GPUs that is lost with it, and the squares of free GPUs a host, summed.
    """
    ends, open_now = np.zeros(len(cap), dtype=np.int64), np.asarray(free)
    between = cap[np.ix_(open_now, open_now)]
    ends[open_now] = between.sum(axis=0) + between.sum(axis=1)
    lost = ends[sets].sum(axis=1)
    if ends.any():  # what runs among the chosen was counted twice
        lost -= np.array([cap[np.ix_(row, row)].sum() for row in sets])
    number = {host: i for i, host in enumerate(sorted({hosts[u] for u in free}))}
    host = np.array([number.get(name, 0) for name in hosts])
    left = np.tile(np.bincount(host[open_now], minlength=len(number)), (len(sets), 1))
    np.subtract.at(left, (np.arange(len(sets))[:, None], host[sets]), 1)
    return lost, (left**2).sum(axis=1)
