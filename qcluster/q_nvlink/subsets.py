"""Sets of GPUs to try: one of each kind, where some GPUs are interchangeable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from qcluster.q_nvlink.islands import pack

__all__ = ["count_sets", "list_sets"]


def count_sets(sizes: Sequence[int], k: int) -> int:
    """How many ways there are to take ``k`` out of classes of these sizes."""
    ways = [1] + [0] * k
    for size in sizes:
        ways = [sum(ways[t - take] for take in range(min(size, t) + 1)) for t in range(k + 1)]
    return ways[k]


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
