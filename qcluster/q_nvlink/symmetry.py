"""Which GPUs of a fabric look alike: classes under exchanges that leave every link as it is.

Candidates come from the usual build of a cluster: GPUs behind a group of switches (a host's
NVSwitches, a rail's leaf). Two such groups of one size are exchanged member by member, and the
exchange counts only when the capacities are the same afterwards, number by number. So a class is
proved, and a degraded link splits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["exchanges", "orbits", "twins"]


def twins(cap: NDArray[np.int64], free: Sequence[int], others: Sequence[int]) -> list[list[int]]:
    """Classes of interchangeable GPUs: swapping two of a class changes nothing.

    cap (n, n); ``free`` are the GPUs that are compared, over links among them and to ``others``.
    """
    nodes = np.array([*free, *others], dtype=np.int64)
    rest = np.array(others, dtype=np.int64)
    classes: list[list[int]] = []
    alike: dict[bytes, list[list[int]]] = {}
    total_out, total_in = cap[:, nodes].sum(axis=1), cap[nodes].sum(axis=0)
    for v in free:
        # Twins agree on every switch and in what they send and receive in all.
        key = cap[v, rest].tobytes() + cap[rest, v].tobytes()
        key += int(total_out[v]).to_bytes(8, "big") + int(total_in[v]).to_bytes(8, "big")
        bucket = alike.setdefault(key, [])
        for members in bucket:
            if _twin(cap, nodes, members, v):
                members.append(v)
                break
        else:
            classes.append([v])
            bucket.append(classes[-1])
    return classes


def _twin(cap: NDArray[np.int64], nodes: NDArray[np.int64], members: list[int], v: int) -> bool:
    u = members[0]
    other = nodes[(nodes != u) & (nodes != v)]
    return bool(
        cap[u, v] == cap[v, u]
        and (cap[u, other] == cap[v, other]).all()
        and (cap[other, u] == cap[other, v]).all()
        # With a third member the links inside the class must be alike as well.
        and (len(members) < 2 or cap[u, v] == cap[members[0], members[1]])
    )


def exchanges(cap: NDArray[np.int64], gpus: int) -> Iterator[NDArray[np.int64]]:
    """Permutations (n,) of the nodes that leave ``cap`` (n, n) as it is; GPUs come first."""
    n = len(cap)
    linked = (cap[:gpus, gpus:] > 0) | (cap[gpus:, :gpus] > 0).T
    groups: dict[tuple[int, ...], list[int]] = {}
    for w in range(n - gpus):
        members = tuple(np.flatnonzero(linked[:, w]).tolist())
        if members:
            groups.setdefault(members, []).append(gpus + w)
    behind: dict[int, list[int]] = {}
    for hub, members in enumerate(groups):
        for u in members:
            behind.setdefault(u, []).append(hub)
    alike: dict[tuple[int, ...], list[int]] = {}
    listed = list(groups.items())
    for hub, (members, switches) in enumerate(listed):
        there = int(cap[np.ix_(members, switches)].sum())
        back = int(cap[np.ix_(switches, members)].sum())
        alike.setdefault((len(members), len(switches), there, back), []).append(hub)
    for same in alike.values():
        for a, b in pairwise(same):
            if not set(listed[a][0]).isdisjoint(listed[b][0]):
                continue  # no exchange: a GPU cannot change places with itself and another
            swap = _exchange(n, listed[a], listed[b], behind, (a, b))
            # Links between nodes that stay are as they were.
            moved = np.flatnonzero(swap != np.arange(n))
            after = swap[moved]
            if (cap[after][:, swap] == cap[moved]).all() and (
                cap[:, after][swap] == cap[:, moved]
            ).all():
                yield swap


def _exchange(
    n: int,
    one: tuple[tuple[int, ...], list[int]],
    other: tuple[tuple[int, ...], list[int]],
    behind: dict[int, list[int]],
    hubs: tuple[int, int],
) -> NDArray[np.int64]:
    """Two groups of switches change places, and so do their GPUs, matched by their other groups."""

    def ordered(members: tuple[int, ...]) -> list[int]:
        return sorted(members, key=lambda u: ([h for h in behind[u] if h not in hubs], u))

    swap = np.arange(n)
    pairs = [
        *zip(ordered(one[0]), ordered(other[0]), strict=True),
        *zip(one[1], other[1], strict=True),
    ]
    for u, v in pairs:
        swap[u], swap[v] = v, u
    return swap


def orbits(cap: NDArray[np.int64], gpus: int, *, fixed: int | None = None) -> list[list[int]]:
    """The first ``gpus`` nodes in classes of those that some exchange maps onto each other.

    ``fixed``: only exchanges that leave this GPU in its place; it is a class of its own.
    """
    parent = list(range(gpus))

    def root(u: int) -> int:
        while parent[u] != u:
            parent[u] = parent[parent[u]]
            u = parent[u]
        return u

    for members in twins(cap, range(gpus), range(gpus, len(cap))):
        kept = [u for u in members if u != fixed]
        for u in kept[1:]:
            parent[root(u)] = root(kept[0])
    for swap in exchanges(cap, gpus):
        if fixed is None or swap[fixed] == fixed:
            for u in range(gpus):
                parent[root(int(swap[u]))] = root(u)
    classes: dict[int, list[int]] = {}
    for u in range(gpus):
        classes.setdefault(root(u), []).append(u)
    return sorted(classes.values())
