"""The paths behind link loads, written out for people and for the cluster manager."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import SolverFailed
from qcluster.q_nvlink.fabric import NodeId
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.record import Record

__all__ = ["Route", "list_routes", "routed_loads"]

_LATE = 16  # routes that are searched for even when time is up
_MOST_ROUTES = 1024  # a full all-to-all over a rack has 5112 pairs; the loads hold them all


@dataclass(frozen=True, kw_only=True, eq=False)
class Route(Record):
    """How one rank's GPU sends to another's: ``paths`` are the widest of ``num_paths``.

    ``shares`` are the paths' shares of the bytes, all of them written out; empty for shortest
    paths, which are split by what each can carry.
    """

    job: str
    source: NodeId
    target: NodeId
    bytes: float
    paths: tuple[tuple[NodeId, ...], ...]
    num_paths: int
    shares: tuple[float, ...] = ()


def list_routes(
    problem: PlacementProblem,
    placement: Placement,
    *,
    max_paths: int,
    shares: Mapping[tuple[str, int, int], Sequence[tuple[list[int], float]]] | None = None,
    deadline: Deadline | None = None,
) -> tuple[Route, ...]:
    """Routes of all pairs that exchange anything, largest volume first, at most 1024.

    After ``deadline`` no more than 16 of those that take a search. ``shares``: paths and their
    shares of those pairs that do not take their shortest ones.
    """
    shares = shares or {}
    wanted = []
    for job in problem.jobs:
        demand, gpus = problem.demand[job.id], placement[job.id]
        pairs = np.argwhere(demand > 0)
        # No more than the largest can be written out: an all-to-all of 256 has 65,280.
        order = np.argsort(-demand[pairs[:, 0], pairs[:, 1]], kind="stable")[:_MOST_ROUTES]
        for a, b in pairs[order].tolist():
            wanted.append((float(demand[a, b]), job.id, gpus[a], gpus[b]))
    wanted.sort(key=lambda row: -row[0])
    n = len(problem.fabric.nodes)
    near = [np.flatnonzero(problem.fabric.effective[u]).tolist() for u in range(n)]
    name = [node.id for node in problem.fabric.nodes]
    own: dict[str, NDArray[np.bool_]] = {
        job.id: problem.transit(placement[job.id]) for job in problem.jobs
    }
    wanted = wanted[:_MOST_ROUTES]
    relays = _relays(problem, wanted, own, max_paths)
    routes, searched, late = [], 0, False
    for (volume, job_id, a, b), relayed in zip(wanted, relays, strict=True):
        ways = shares.get((job_id, a, b), ())
        paths, count = relayed
        if ways:
            paths, count = [path for path, _ in ways], len(ways)
        elif not paths:
            searched += 1
            late = late or (searched > _LATE and deadline is not None and deadline.expired)
            if late:
                continue
            paths = _shortest(near, own[job_id], a, b)
            paths = paths or _shortest(near, np.ones_like(own[job_id]), a, b)
            paths.sort(key=lambda path: -_width(problem.fabric.effective, path))
            paths, count = paths[:max_paths], len(paths)
        routes.append(
            Route(
                job=job_id,
                source=name[a],
                target=name[b],
                bytes=volume,
                paths=tuple(tuple(name[v] for v in path) for path in paths),
                num_paths=count,
                shares=tuple(share for _, share in ways),
            )
        )
    return tuple(routes)


def _relays(
    problem: PlacementProblem,
    wanted: Sequence[tuple[float, str, int, int]],
    own: Mapping[str, NDArray[np.bool_]],
    most: int,
) -> list[tuple[list[list[int]], int]]:
    """For each pair its widest paths of at most one relay and how many there are; none: longer."""
    if not wanted:
        return []
    cap = problem.fabric.effective
    a, b = (np.array([row[k] for row in wanted]) for k in (2, 3))
    transit = np.array([own[row[1]] for row in wanted])
    width = np.where(transit, np.minimum(cap[a], cap[:, b].T), 0.0)
    best = np.argsort(-width, axis=1, kind="stable")[:, :most].tolist()
    count = (width > 0).sum(axis=1).tolist()
    direct = cap[a, b] > 0
    return [
        ([[u, v]], 1) if joined else ([[u, w, v] for w in middle[:many]], many)
        for u, v, joined, middle, many in zip(
            a.tolist(), b.tolist(), direct.tolist(), best, count, strict=True
        )
    ]


def routed_loads(
    problem: PlacementProblem, placement: Placement, routes: Sequence[Route]
) -> NDArray[np.float64]:
    """(nodes, nodes) bytes on every link when pairs take the shares that routes name.

    Pairs without shares take their shortest paths. It shares nothing with the code that found the
    routes. Raises SolverFailed for a path that is none, and for shares that do not sum to 1.
    """
    fabric = problem.fabric
    n = len(fabric.nodes)
    found = np.zeros((n, n))
    at = {id_: i for i, id_ in enumerate(node.id for node in fabric.nodes)}
    rank = {job: {gpu: r for r, gpu in enumerate(gpus)} for job, gpus in placement.items()}
    rest = {job: demand.copy() for job, demand in problem.demand.items()}
    for row in routes:
        if not row.shares:
            continue
        a, b = rank[row.job][at[row.source]], rank[row.job][at[row.target]]
        volume = float(problem.demand[row.job][a, b])
        whole = len(row.shares) == len(row.paths) and abs(sum(row.shares) - 1.0) <= 1e-6
        if not whole or min(row.shares) < 0:
            raise SolverFailed(f"{row.source} to {row.target}: shares do not sum to 1")
        for path, share in zip(row.paths, row.shares, strict=True):
            if path[0] != row.source or path[-1] != row.target:
                raise SolverFailed(f"{row.source} to {row.target}: a path ends elsewhere")
            for u, v in pairwise(path):
                if not fabric.effective[at[u], at[v]] > 0:
                    raise SolverFailed(f"a route needs a link from {u} to {v}")
                found[at[u], at[v]] += share * volume
        rest[row.job][a, b] = 0.0
    for job, demand in rest.items():
        found += problem.job_loads(job, placement[job], demand=demand)[0]
    return found


def _width(cap: NDArray[np.float64], path: Sequence[int]) -> float:
    return min(float(cap[a, b]) for a, b in pairwise(path))


def _shortest(
    near: list[list[int]], transit: NDArray[np.bool_], a: int, b: int, most: int = 64
) -> list[list[int]]:
    """Shortest paths from a to b, at most ``most``."""
    if b in near[a]:
        return [[a, b]]
    level = {a: 0}
    before: dict[int, list[int]] = {}
    queue = deque([a])
    while queue:
        here = queue.popleft()
        if here == b or (here != a and not transit[here]):
            continue
        for there in near[here]:
            if there not in level:
                level[there] = level[here] + 1
                queue.append(there)
            if level[there] == level[here] + 1:
                before.setdefault(there, []).append(here)
    found: list[list[int]] = []
    for path in _walk_back(before, a, b):
        found.append(path)
        if len(found) == most:
            break
    return found


def _walk_back(before: dict[int, list[int]], a: int, b: int) -> Iterator[list[int]]:
    stack = [[b]] if b in before else []
    while stack:
        path = stack.pop()
        if path[-1] == a:
            yield path[::-1]
            continue
        stack += [[*path, u] for u in reversed(before[path[-1]])]
