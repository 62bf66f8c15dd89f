"""NVLink islands: groups of GPUs that NVLink joins, and sets that must spread over several.

A job too large for any island is described by how many GPUs it takes in each. Spread evenly over
as few islands as hold it, the most crowded way out of an island has the least to carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.fabric import Fabric

__all__ = ["Exits", "Islands", "even_split", "exits", "fewest_groups", "pack"]

_EXTRA = 2  # islands more than needed that a spread may use


class Islands:
    """Groups of GPUs that fast links join, directly or over switches.

    Parameters
    ----------
    cap: (nodes, nodes) int64 capacities; fast: the same, 0 where the link is not NVLink.
    gpus, switches: positions of both.
    """

    def __init__(
        self,
        cap: NDArray[np.int64],
        fast: NDArray[np.int64],
        gpus: NDArray[np.int64],
        switches: NDArray[np.int64],
    ) -> None:
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import connected_components

        self.label: NDArray[np.int64] = connected_components(
            csr_matrix(fast > 0), connection="strong"
        )[1].astype(np.int64)
        slow = np.where(self.label[:, None] == self.label[None, :], 0, cap)
        self._into = slow.sum(axis=0)
        """What enters each node from outside its island."""
        self._hub = np.zeros(len(cap), dtype=np.int64)
        np.add.at(self._hub, self.label[switches], self._into[switches])
        linked = (slow > 0)[:, switches]
        self._rail = {int(u): tuple(np.flatnonzero(linked[u]).tolist()) for u in gpus}

    def joins(self, chosen: Sequence[int]) -> bool:
        """Whether all are in one island."""
        return len({int(self.label[u]) for u in chosen}) <= 1

    def free(self, free: Sequence[int]) -> list[list[int]]:
        """The free GPUs by island, in order."""
        groups: dict[int, list[int]] = {}
        for u in free:
            groups.setdefault(int(self.label[u]), []).append(u)
        return list(groups.values())

    def bound(self, free: Sequence[int], k: int, bound: float) -> float:
        """No set of ``k`` that must spread over islands has more bandwidth, in units of ``cap``.

        At least m islands are needed, so some part has c <= k / m GPUs. What they and their
        island's switches get from outside must bring them what the other k - c have:
        k times that over (k - c), which grows with c. ``bound`` is returned when one island does.
        """
        groups = self.free(free)
        need = fewest_groups([len(g) for g in groups], k)
        if need < 2:
            return bound
        c = k // need
        ways = [
            np.sort(self._into[group])[::-1][:c].sum() + self._hub[self.label[group[0]]]
            for group in groups
        ]
        return min(bound, float(max(ways)) * k / (k - c))

    def spread(self, free: Sequence[int], k: int) -> list[list[int]]:
        """Promising sets that span islands: even over as few as hold it and a few more, and full.

        Empty when one island holds the set, and when no island has two free GPUs.
        """
        groups = self.free(free)
        sizes = [len(group) for group in groups]
        need = fewest_groups(sizes, k)
        if need < 2 or max(sizes) < 2:
            return []
        counts = [even_split(sizes, k, m) for m in range(need, min(need + _EXTRA, len(sizes)) + 1)]
        counts.append(_full(sizes, k))
        return [self._take(groups, list(c)) for c in dict.fromkeys(map(tuple, counts))]

    def _take(self, groups: list[list[int]], counts: list[int]) -> list[int]:
        """The GPUs with the widest ways out, on the same rails in each island."""
        chosen: list[int] = []
        for group, count in zip(groups, counts, strict=True):
            chosen += sorted(group, key=lambda u: (-self._into[u], self._rail[u], u))[:count]
        return chosen


@dataclass(frozen=True)
class Exits:
    """How GPUs leave their islands.

    ``island`` (nodes,): of GPUs and the switches that NVLink joins them to, -1 for other nodes.
    ``sizes``: GPUs of every island, ``largest`` of the largest. ``out_gb_s``, ``in_gb_s`` (gpus,):
    effective bandwidth of each GPU's links out of and into its island. ``own``: every GPU reaches
    every other one over such links and switches outside the islands, and islands have no other way
    out.
    """

    island: NDArray[np.int64]
    sizes: tuple[int, ...]
    largest: int
    out_gb_s: NDArray[np.float64]
    in_gb_s: NDArray[np.float64]
    own: bool


def exits(fabric: Fabric) -> Exits:
    """The ways out of a fabric's islands; remembered with the fabric."""
    found = fabric.scratch.get("exits")
    if not isinstance(found, Exits):
        found = fabric.scratch["exits"] = _exits(fabric)
    return found


def _exits(fabric: Fabric) -> Exits:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    gpus, transit = fabric.gpu_index, fabric.transit_index
    joined = fabric.fast & (fabric.effective > 0)
    label = connected_components(csr_matrix(joined), connection="weak")[1]
    slow = np.where(label[:, None] == label[None, :], 0.0, fabric.effective)
    inside = np.isin(label, label[gpus])
    outer = np.array([w for w in transit if not inside[w]], dtype=np.int64)
    hubs = np.array([w for w in transit if inside[w]], dtype=np.int64)
    own = not slow[hubs].any() and not slow[:, hubs].any()
    if own and len(outer):
        hub = connected_components(csr_matrix(slow[np.ix_(outer, outer)]), connection="strong")[1]
        shared = [
            set(hub[slow[u, outer] > 0].tolist()) & set(hub[slow[outer, u] > 0].tolist())
            for u in gpus
        ]
        own = bool(set.intersection(*shared))
    else:
        own = False
    sizes = tuple(np.unique(label[gpus], return_counts=True)[1].tolist())
    island = np.where(inside, label, -1).astype(np.int64)
    return Exits(island, sizes, max(sizes), slow[gpus].sum(axis=1), slow[:, gpus].sum(axis=0), own)


def fewest_groups(sizes: Sequence[int], k: int) -> int:
    """How many groups it takes at least to hold ``k``."""
    held = np.cumsum(sorted(sizes, reverse=True))
    return int(np.searchsorted(held, k)) + 1


def even_split(sizes: Sequence[int], k: int, m: int) -> list[int]:
    """``k`` over ``m`` groups as evenly as they allow, in the tightest groups that do."""
    # The smallest groups that hold an even share, and for what lacks of them the largest others.
    share = -(-k // m)
    fits = sorted((i for i, s in enumerate(sizes) if s >= share), key=lambda i: sizes[i])[:m]
    rest = sorted((i for i in range(len(sizes)) if i not in fits), key=lambda i: -sizes[i])
    used = (fits + rest)[:m]
    if sum(sizes[i] for i in used) < k:
        used = sorted(range(len(sizes)), key=lambda i: -sizes[i])[:m]
    counts, left = [0] * len(sizes), k
    for position, i in enumerate(sorted(used, key=lambda i: sizes[i])):
        counts[i] = min(sizes[i], left // (len(used) - position))
        left -= counts[i]
    return counts


def _full(sizes: Sequence[int], k: int) -> list[int]:
    """The largest groups whole, the remainder in the smallest that holds it."""
    counts, left = [0] * len(sizes), k
    while left:
        open_now = [i for i in range(len(sizes)) if not counts[i]]
        fits = [i for i in open_now if sizes[i] >= left]
        i = min(fits, key=lambda i: sizes[i]) if fits else max(open_now, key=lambda i: sizes[i])
        counts[i] = min(sizes[i], left)
        left -= counts[i]
    return counts


def pack(members: list[int], take: int, hosts: list[str]) -> list[int]:
    """``take`` of interchangeable GPUs from few hosts, keeping others whole: best fit.

    The fullest host that holds all the rest, else the host with most free, until done.
    """
    by_host: dict[str, list[int]] = {}
    for u in members:
        by_host.setdefault(hosts[u], []).append(u)
    chosen: list[int] = []
    while len(chosen) < take:
        rest = take - len(chosen)
        fits = [name for name, free in by_host.items() if len(free) >= rest]
        if fits:
            name = min(fits, key=lambda name: len(by_host[name]))
        else:
            name = max(by_host, key=lambda name: len(by_host[name]))
        chosen += by_host.pop(name)[:rest]
    return chosen
