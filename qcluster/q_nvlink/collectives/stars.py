"""Collectives over equal racks: stars of GPUs that a network joins, at any number of GPUs.

Every rack has the same number of GPUs behind switch planes that reach all of them alike, and every
GPU the same uplink into a network. Then one tree, moved over all racks and positions, makes
everybody's trees, and all GPUs are equally busy: a GPU sends and receives as many copies over its
uplink, and as many over its planes, as the tree has edges of either kind. So the two are balanced
by choosing how many edges of the tree go over uplinks: a mix of two trees whose mean number is the
ratio of the widths. Parallel planes are written as one switch, over which traffic is striped by
width, as the hardware does.

Whether the network carries it is not argued here: the schedule is simulated and compared with the
min-cut bound, and where it falls short the general way (edge splitting, tree packing) is taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Racks", "find_racks", "rack_trees"]

Ints = NDArray[np.int64]
Hop = tuple[int, int, list[int]]


@dataclass(frozen=True)
class Racks:
    """``gpus`` (racks, each) are positions; ``plane`` (racks,) the node that stands for a rack's
    planes in ``cap`` (m, m), where it replaces them; ``kept`` are the old positions of all nodes.
    ``inside`` and ``uplink`` are a GPU's widths; ``planes`` are the old positions behind each.
    """

    gpus: Ints
    plane: list[int]
    cap: Ints
    kept: list[int]
    inside: int
    uplink: int
    planes: list[list[int]]


def find_racks(cap: Ints, count: int) -> Racks | None:
    """The racks of a fabric ``cap`` (m, m) whose first ``count`` nodes are GPUs, or None.

    None unless links work both ways alike, no two GPUs are joined directly, all racks have the
    same number (at least 2) of GPUs and widths, and there are at least two racks.
    """
    if (cap != cap.T).any() or cap[:count, :count].any() or len(cap) == count:
        return None
    links = cap[:count, count:]
    apart = ~cap[count:, count:].any(axis=1)
    groups: dict[bytes, list[int]] = {}
    planes = np.flatnonzero(apart)
    for u in range(count):
        groups.setdefault((links[u][planes] > 0).tobytes(), []).append(u)
    if len(groups) < 2 or len({len(g) for g in groups.values()}) > 1 or not links[0, planes].any():
        return None
    members = [sorted(g, key=lambda u: np.flatnonzero(links[u] * ~apart).tolist()) for g in
               groups.values()]  # fmt: skip
    racks = np.array(members, dtype=np.int64)
    mine = [np.flatnonzero(links[g[0]] * apart) for g in members]
    inside = links[:, apart].sum(axis=1)
    uplink = links[:, ~apart].sum(axis=1)
    one_way_out = ((links[:, ~apart] > 0).sum(axis=1) == 1).all()
    alike = all(
        (links[np.ix_(np.array(g), w)] == links[g[0], w]).all()
        for g, w in zip(members, mine, strict=True)
    )
    if racks.shape[1] < 2 or not alike or not one_way_out or len({*inside.tolist()}) > 1:
        return None
    if len({*uplink.tolist()}) > 1:
        return None
    network = [count + int(w) for w in np.flatnonzero(~apart)]
    kept = [*range(count), *(count + int(w[0]) for w in mine), *network]
    small = cap[np.ix_(kept, kept)].copy()
    plane = list(range(count, count + len(members)))
    for r, group in enumerate(members):
        small[group, plane[r]] = small[plane[r], group] = inside[0]
    behind = [[count + int(x) for x in w] for w in mine]
    return Racks(racks, plane, small, kept, int(inside[0]), int(uplink[0]), behind)


def rack_trees(racks: Racks) -> list[tuple[int, float, list[Hop]]]:
    """Trees (root, share of its data, hops) for everybody; hops are (from, to, path), parents
    first, over positions in ``racks.cap``. Empty where the network leaves some racks apart.
    """
    count, each = racks.gpus.shape
    total = count * each
    # As many edges over uplinks as their share of a GPU's width; at least one into every rack.
    wanted = (total - 1) * racks.uplink / (racks.inside + racks.uplink)
    wanted = min(max(wanted, count - 1.0), (count - 1.0) * each)
    low = int(np.floor(wanted + 1e-12))
    mixes = [(low, 1.0 - (wanted - low)), (low + 1, wanted - low)]
    ways = _Ways(racks)
    found = []
    for edges, share in mixes:
        if share <= 1e-12:
            continue
        for rack in range(count):
            for place in range(each):
                hops = _tree(racks, ways, rack, place, edges)
                if hops is None:
                    return []
                found.append((int(racks.gpus[rack, place]), share, hops))
    return found


def _tree(racks: Racks, ways: _Ways, rack: int, place: int, edges: int) -> list[Hop] | None:
    """The tree of one root with ``edges`` hops over uplinks, all from the root itself."""
    count, each = racks.gpus.shape
    root = int(racks.gpus[rack, place])
    hops: list[Hop] = []
    for k in range(1, each):
        there = int(racks.gpus[rack, (place + k) % each])
        hops.append((root, there, [root, racks.plane[rack], there]))
    far = count - 1
    for step in range(1, count):
        other = (rack + step) % count
        doors = edges // far + (1 if step <= edges % far else 0)
        row = [int(racks.gpus[other, (place + k) % each]) for k in range(each)]
        for door in row[:doors]:
            way = ways.between(root, door)
            if way is None:
                return None
            hops.append((root, door, way))
        for k, there in enumerate(row[doors:]):
            door = row[k % doors]
            hops.append((door, there, [door, racks.plane[other], there]))
    return hops


class _Ways:
    """Shortest paths between GPUs over the network, not over planes, GPUs or back."""

    def __init__(self, racks: Racks) -> None:
        m, first = len(racks.cap), racks.gpus.size + len(racks.plane)
        self._near = {w: [v for v in range(first, m) if racks.cap[w, v]] for w in range(first, m)}
        self._leaf = {
            int(u): int(first + np.flatnonzero(racks.cap[u, first:])[0])
            for u in racks.gpus.ravel().tolist()
        }
        self._known: dict[tuple[int, int], list[int] | None] = {}

    def between(self, a: int, b: int) -> list[int] | None:
        """From GPU ``a`` to GPU ``b``; None when nothing joins them."""
        key = (self._leaf[a], self._leaf[b])
        if key not in self._known:
            self._known[key] = self._search(*key)
        way = self._known[key]
        return None if way is None else [a, *way, b]

    def _search(self, source: int, target: int) -> list[int] | None:
        before = {source: source}
        queue = deque([source])
        while queue and target not in before:
            here = queue.popleft()
            for there in self._near[here]:
                if there not in before:
                    before[there] = here
                    queue.append(there)
        if target not in before:
            return None
        way = [target]
        while way[-1] != source:
            way.append(before[way[-1]])
        return way[::-1]
