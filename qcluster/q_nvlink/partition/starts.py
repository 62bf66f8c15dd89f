"""Feasible partitions to begin with: domains grown, clusters packed, ranks halved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.partition._kernels import cluster, contract
from qcluster.q_nvlink.partition.cycle import Draws, improved
from qcluster.q_nvlink.partition.reference import crossing

__all__ = ["list_starts", "repaired"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


def list_starts(weight: Matrix, capacity: Labels, count: int, draws: Draws) -> Iterator[Labels]:
    """``count`` partitions of n ranks: packed, halved and grown by turns; random ones are worse."""
    for turn in range(count):
        if turn % 3 == 1:
            yield _halved(weight, capacity, draws)
        else:
            make = _packed if turn % 3 == 0 else _grown
            yield make(weight, capacity, draws.rng)


def _halved(weight: Matrix, capacity: Labels, draws: Draws) -> Labels:
    """Ranks in two, each half in two again, until a part is one domain (Simon and Teng, 1997).

    Where a few long boundaries decide, as on grids, halves find them and domains one by one do not.
    """
    part = np.empty(len(weight), dtype=np.int64)
    left = [(np.arange(len(weight)), draws.rng.permutation(len(capacity)))]
    while left:
        ranks, domains = left.pop()
        if len(domains) == 1 or not len(ranks):
            part[ranks] = domains[0]
            continue
        middle = len(domains) // 2
        room = np.array([capacity[d].sum() for d in (domains[:middle], domains[middle:])])
        if draws.deadline.expired:
            second = np.arange(len(ranks)) >= room[0]
        else:
            second = _bisected(weight[np.ix_(ranks, ranks)], room, draws)
        left += [(ranks[~second], domains[:middle]), (ranks[second], domains[middle:])]
    return part


def _bisected(weight: Matrix, room: Labels, draws: Draws) -> NDArray[np.bool_]:
    """The better of two improved halves, (n,) who is in the second."""
    tries = [improved(weight, room, _grown(weight, room, draws.rng), draws) for _ in range(2)]
    second: NDArray[np.bool_] = min(tries, key=lambda part: crossing(weight, part)) == 1
    return second


def _grown(weight: Matrix, capacity: Labels, rng: np.random.Generator) -> Labels:
    """Domain after domain: a free rank, then again and again who talks to the domain most."""
    n = len(weight)
    part = np.full(n, -1, dtype=np.int64)
    for d in rng.permutation(len(capacity)):
        free = np.flatnonzero(part < 0)
        take = min(int(capacity[d]), len(free))
        if not take:
            continue
        ties = np.zeros(n)
        rank = int(rng.choice(free))
        for _ in range(take):
            part[rank] = d
            ties += weight[rank]
            rank = int(np.argmax(np.where(part < 0, ties, -1.0)))
    return part


def _packed(weight: Matrix, capacity: Labels, rng: np.random.Generator) -> Labels:
    """Merge who talks most into clusters, then put the largest first where it talks to most.

    A cluster that no domain holds any more is divided.
    """
    n = len(weight)
    member, size = np.arange(n), np.ones(n, dtype=np.int64)
    coarse, most = weight, int(capacity.max())
    while True:
        everyone = np.zeros(len(size), dtype=np.int64)
        label, count = cluster(coarse, size, everyone, rng.permutation(len(size)), most)
        if count == len(size):
            break
        member = label[member]
        coarse = contract(coarse, label, count)
        size = np.bincount(member, minlength=count).astype(np.int64)
    part = np.full(n, -1, dtype=np.int64)
    room = capacity.copy()
    for c in np.lexsort((rng.random(len(size)), -size)):
        ranks = np.flatnonzero(member == c)
        while len(ranks):
            ties = np.bincount(
                part[part >= 0],
                weights=weight[np.ix_(ranks, part >= 0)].sum(axis=0),
                minlength=len(room),
            )
            fits = room >= len(ranks)
            # The tightest domain among those that it talks to as much; the roomiest if none fits.
            best = int(np.lexsort((room, -ties, ~fits))[0])
            d = best if fits[best] else int(np.argmax(room))
            here = ranks[: room[d]]
            part[here] = d
            room[d] -= len(here)
            ranks = ranks[len(here) :]
    return part


def repaired(weight: Matrix, part: Labels, capacity: Labels) -> Labels:
    """A partition within the capacities: from domains too full, who loses least moves."""
    part = part.copy()
    k = len(capacity)
    ties = weight @ np.eye(k)[part]
    held = np.bincount(part, minlength=k)
    while (held > capacity).any():
        over = np.isin(part, np.flatnonzero(held > capacity))
        loss = ties[np.arange(len(part)), part][:, None] - ties
        loss[~over] = np.inf
        loss[:, held >= capacity] = np.inf
        i, d = np.unravel_index(int(np.argmin(loss)), loss.shape)
        a = part[i]
        held[a] -= 1
        held[d] += 1
        ties[:, a] -= weight[:, i]
        ties[:, d] += weight[:, i]
        part[i] = d
    return part
