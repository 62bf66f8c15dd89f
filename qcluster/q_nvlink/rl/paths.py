"""The ways that traffic may take: for every pair of nodes its shortest paths and some detours."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink._kernels import hops_to, neighbours

__all__ = ["Paths", "find_paths"]

DETOUR = 3
"""Hops that a path may have more than the shortest one."""
MOST = 16
"""Paths of a pair."""
_LOOKED_AT = 256  # paths of one length
_STEPS = 400_000  # of all searches for detours together
_ENOUGH = 16  # shortest paths that leave no need for detours


@dataclass(frozen=True)
class Paths:
    """Candidate paths of ``pairs`` (P, 2) with ``demand`` (P,), in any unit.

    ``links`` (L, 2) are the directed links with ``capacity`` (L,) and ``latency`` (L,);
    ``steps`` (R, longest) the links of each path, padded with L; ``owner`` (R,) its pair.
    A pair's paths stand together, shortest first.
    """

    pairs: NDArray[np.int64]
    demand: NDArray[np.float64]
    links: NDArray[np.int64]
    capacity: NDArray[np.float64]
    latency: NDArray[np.float64]
    steps: NDArray[np.int64]
    owner: NDArray[np.int64]

    @functools.cached_property
    def first(self) -> NDArray[np.int64]:
        """(P,) where each pair's paths begin."""
        return np.searchsorted(self.owner, np.arange(len(self.pairs)))

    @functools.cached_property
    def hops(self) -> NDArray[np.float64]:
        """(R,) links of each path."""
        return np.asarray((self.steps < len(self.links)).sum(axis=1), dtype=np.float64)

    @functools.cached_property
    def width(self) -> NDArray[np.float64]:
        """(R,) capacity of each path's narrowest link."""
        return np.asarray(np.append(self.capacity, np.inf)[self.steps].min(axis=1))

    @functools.cached_property
    def delay(self) -> NDArray[np.float64]:
        """(R,) sum of each path's latencies, before queues."""
        return np.asarray(np.append(self.latency, 0.0)[self.steps].sum(axis=1))

    def loads(self, split: NDArray[np.float64]) -> NDArray[np.float64]:
        """(L,) what every link carries when paths take the shares ``split`` (R,) of their pairs."""
        carried = np.repeat((split * self.demand[self.owner])[:, None], self.steps.shape[1], axis=1)
        count = len(self.links) + 1
        total: NDArray[np.float64] = np.bincount(
            self.steps.ravel(), carried.ravel(), minlength=count
        ).astype(np.float64)
        return total[:-1]

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """All pairs of ``parts`` (one or more, over the same links) as one problem."""
        longest = max(part.steps.shape[1] for part in parts)
        pad = len(parts[0].links)
        before = np.cumsum([0] + [len(part.pairs) for part in parts])
        return cls(
            pairs=np.concatenate([part.pairs for part in parts]),
            demand=np.concatenate([part.demand for part in parts]),
            links=parts[0].links,
            capacity=parts[0].capacity,
            latency=parts[0].latency,
            steps=np.concatenate(
                [
                    np.pad(
                        part.steps,
                        ((0, 0), (0, longest - part.steps.shape[1])),
                        constant_values=pad,
                    )
                    for part in parts
                ]
            ),
            owner=np.concatenate(
                [part.owner + shift for part, shift in zip(parts, before, strict=False)]
            ),
        )

    def shortest(self) -> NDArray[np.float64]:
        """(R,) every pair alike over its shortest paths (equal-cost multi-path)."""
        least = np.minimum.reduceat(self.hops, self.first)
        equal = (self.hops == least[self.owner]).astype(np.float64)
        return np.asarray(equal / np.add.reduceat(equal, self.first)[self.owner], dtype=np.float64)

    def single(self) -> NDArray[np.float64]:
        """(R,) every pair over the first of its shortest paths."""
        split = np.zeros(len(self.owner))
        split[self.first] = 1.0
        return split


def find_paths(
    capacity: NDArray[np.float64],
    demand: NDArray[np.float64],
    *,
    transit: NDArray[np.bool_] | None = None,
    latency: NDArray[np.float64] | None = None,
    island: NDArray[np.int64] | None = None,
    detour: int = DETOUR,
    most: int = MOST,
    deadline: Deadline | None = None,
) -> Paths:
    """Paths for every positive entry of ``demand`` (n, n) over links ``capacity`` (n, n).

    Parameters
    ----------
    transit: (n,) nodes that pass traffic on; all by default.
    latency: (n, n) of each link, 1 by default.
    island: (n,) of each node, -1 for switches between them; third islands then pass nothing on for
        a pair unless nothing else joins it: their network cards would carry it twice.
    detour: how many hops longer than the shortest a path may be.
    deadline: when to stop looking for detours.

    Raises InputError for shapes that do not fit, Infeasible naming a pair that nothing joins.
    """
    n = len(capacity)
    if not capacity.shape == demand.shape == (n, n):
        raise InputError(f"wants shape ({n}, {n}), got {demand.shape}", field="demand")
    passing = np.ones(n, dtype=np.bool_) if transit is None else transit
    links = np.argwhere(capacity > 0)
    number = {(int(u), int(v)): i for i, (u, v) in enumerate(links)}
    near = [np.flatnonzero(capacity[u] > 0).tolist() for u in range(n)]
    back = neighbours(np.ascontiguousarray(capacity.T > 0))
    pairs = np.argwhere((demand > 0) & ~np.eye(n, dtype=np.bool_))
    known: dict[tuple[int, int], _Way] = {}
    steps = max(_LOOKED_AT, _STEPS // max(1, len(pairs)))
    rows, owner = list[list[int]](), list[int]()
    for p, (a, b) in enumerate(pairs.tolist()):
        key = (b, -1 if island is None else int(island[a]))
        if key not in known:
            known[key] = _way(back, passing, island, a, b)
        way = known[key]
        if way.left[a] < 0:
            raise Infeasible(f"nothing joins nodes {a} and {b}", field="demand")
        late = deadline is not None and deadline.expired
        longest = way.left[a] + (0 if late else detour)
        found = list(_walks(near, way.passing, way.left, a, b, longest, steps))
        found.sort(key=lambda path: (len(path), -_narrowest(capacity, path)))
        for path in _unlike(capacity, found, most):
            rows.append([number[u, v] for u, v in pairwise(path)])
            owner.append(p)
    at = (links[:, 0], links[:, 1])
    return Paths(
        pairs=pairs,
        demand=demand[pairs[:, 0], pairs[:, 1]].astype(np.float64),
        links=links,
        capacity=capacity[at].astype(np.float64),
        latency=np.ones(len(links)) if latency is None else latency[at].astype(np.float64),
        steps=_padded(rows, len(links)),
        owner=np.array(owner, dtype=np.int64),
    )


def _padded(rows: list[list[int]], pad: int) -> NDArray[np.int64]:
    table = np.full((len(rows), max(map(len, rows), default=1)), pad, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


@dataclass(frozen=True)
class _Way:
    """Who passes on what goes to a node, and how many hops are left from each; -1: none lead."""

    passing: list[bool]
    left: list[int]


def _way(
    back: tuple[NDArray[np.int64], NDArray[np.int64]],
    passing: NDArray[np.bool_],
    island: NDArray[np.int64] | None,
    a: int,
    b: int,
) -> _Way:
    """From the island of a to b over these two; over all where these do not join them."""
    if island is not None:
        near = passing & np.isin(island, (-1, island[a], island[b]))
        left = hops_to(*back, near, b)
        if left[a] >= 0:
            return _Way(near.tolist(), left.tolist())
    return _Way(passing.tolist(), hops_to(*back, passing, b).tolist())


def _unlike(capacity: NDArray[np.float64], paths: list[list[int]], most: int) -> list[list[int]]:
    """At most ``most`` of the paths, in their order: by turns over which links are narrowest.

    Parallel switches inside hosts make many paths that share their network cards; of such a crowd
    a few do, and the other cards must not be crowded out.
    """
    if len(paths) <= most:
        return paths
    seen: dict[tuple[tuple[int, int], ...], int] = {}
    turns = []
    for path in paths:
        width = _narrowest(capacity, path) * (1 + 1e-9)
        narrow = tuple(hop for hop in pairwise(path) if capacity[hop] <= width)
        turns.append(seen.get(narrow, 0))
        seen[narrow] = turns[-1] + 1
    chosen = sorted(range(len(paths)), key=lambda i: (turns[i], i))[:most]
    return [paths[i] for i in sorted(chosen)]


def _narrowest(capacity: NDArray[np.float64], path: Sequence[int]) -> float:
    return float(min(capacity[u, v] for u, v in pairwise(path)))


def _walks(
    near: list[list[int]],
    passing: list[bool],
    left: list[int],
    a: int,
    b: int,
    longest: int,
    steps: int,
) -> Iterator[list[int]]:
    """Simple paths from a to b of at most ``longest`` hops, shortest first, not all of many."""
    onward: dict[int, list[int]] = {}
    for length in range(left[a], longest + 1):
        count, looked, stack = 0, 0, [[a]]
        # The shortest level is always walked through: it has no dead ends.
        while stack and count < _LOOKED_AT and (looked < steps or length == left[a]):
            path = stack.pop()
            looked += 1
            here, hops = path[-1], len(path) - 1
            if here == b:
                if hops == length:
                    count += 1
                    yield path
                continue
            if here not in onward:
                onward[here] = [v for v in near[here] if left[v] >= 0 and (passing[v] or v == b)]
            stack += [
                [*path, there]
                for there in onward[here]
                if hops + 1 + left[there] <= length and there not in path
            ]
        if length == left[a] and count >= _ENOUGH:
            return
