"""Routes of a placement by the learned agents, never slower than shortest paths.

The pairs with the largest volumes are routed by agents; where there are too many, the others stay
on their shortest paths and count as background.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import SolverFailed
from qcluster.fallback import Candidate, Certified, CircuitBreaker, Stage, certified
from qcluster.q_nvlink.islands import exits
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.q_nvlink.rl.paths import Paths, find_paths
from qcluster.q_nvlink.rl.policy import RoutePolicy, route

__all__ = ["Assignment", "RoutingProblem", "assign_routes"]

_MOST_PAIRS = 1024
_MOST_PATHS = 40_000
_DETOUR, _EACH = 4, 96
_LEAST_SHARE = 1e-3  # of a pair, below which a path is not worth an entry in a routing table
_BREAKER = CircuitBreaker()

Split = NDArray[np.float64]


def _largest(volumes: Sequence[NDArray[np.float64]], most: int) -> list[NDArray[np.int64]]:
    """Of each matrix the positions (flat) of the pairs that agents route, ``most`` in all.

    The largest of all jobs. Where the last of them tie with some that find no room, as in an
    exchange of everyone with everyone, those that tie are taken only if most of them find room:
    shortest paths spread them evenly, and a part of them would not be. If all tie, the first are.
    """
    every = np.concatenate([v.ravel() for v in volumes] or [np.empty(0)])
    order = np.flatnonzero(every > 0)
    if len(order) > most:
        first_out = len(every) - most - 1
        value = np.partition(every, first_out)[first_out]
        tied = (every >= value * (1 - 1e-9)) & (every <= value * (1 + 1e-9))
        order, ties = np.flatnonzero((every > value) & ~tied), np.flatnonzero(tied)
        room = most - len(order)
        if not len(order) or 4 * room >= 3 * len(ties):
            order = np.concatenate([order, ties[:room]])
    ends = np.cumsum([0] + [v.size for v in volumes])
    order = np.sort(order)
    cuts = np.searchsorted(order, ends)
    return [order[a:b] - end for a, b, end in zip(cuts, cuts[1:], ends, strict=False)]


@dataclass(frozen=True)
class RoutingProblem:
    """How the jobs of a placement exchange their volumes in the least time of a step.

    A value is the split (R,) over ``paths``; an empty one stands for shortest paths throughout.
    """

    placed: PlacementProblem
    placement: Placement
    deadline: Deadline = field(default_factory=Deadline.never)

    @functools.cached_property
    def shortest(self) -> NDArray[np.float64]:
        """(nodes, nodes) bytes on every link over shortest paths."""
        return self.placed.loads(self.placement)[0]

    @functools.cached_property
    def _parts(self) -> tuple[Paths | None, NDArray[np.int64], NDArray[np.float64]]:
        """Paths of the routed pairs (None without any), each pair's job, and background bytes."""
        fabric = self.placed.fabric
        cap, n = fabric.effective, len(fabric.nodes)
        delay = np.zeros((n, n))
        for link in fabric.links:
            delay[fabric.index[link.source], fabric.index[link.target]] = link.latency_us
        volumes = [self.placed.demand[job.id] for job in self.placed.jobs]
        chosen = _largest(volumes, _MOST_PAIRS)
        each = int(np.clip(_MOST_PATHS // max(1, sum(map(len, chosen))), 4, _EACH))
        parts, owners, other = [], [], np.zeros((n, n))
        for index, job in enumerate(self.placed.jobs):
            gpus, volume, kept = self.placement[job.id], volumes[index], chosen[index]
            routed = np.zeros(volume.size)
            routed[kept] = volume.ravel()[kept]
            demand = np.zeros((n, n))
            demand[np.ix_(gpus, gpus)] = routed.reshape(volume.shape)
            transit = self.placed.transit(gpus)
            if self.placed.job_loads(job.id, gpus)[1]:
                transit = np.ones(n, dtype=np.bool_)
            self.placed.spread(gpus, volume - routed.reshape(volume.shape), transit, other)
            if len(kept):
                found = find_paths(
                    cap,
                    demand,
                    transit=transit,
                    latency=delay,
                    island=exits(fabric).island,
                    detour=_DETOUR,
                    most=each,
                    deadline=self.deadline,
                )
                parts.append(found)
                owners += [index] * len(found.pairs)
        joined = Paths.joined(parts) if parts else None
        return joined, np.array(owners, dtype=np.int64), other

    @property
    def paths(self) -> Paths | None:
        """The routed pairs' candidate paths; None when nobody exchanges anything."""
        return self._parts[0]

    @property
    def job_of_pair(self) -> NDArray[np.int64]:
        """(P,) index of each routed pair's job."""
        return self._parts[1]

    def loads(self, split: Split) -> NDArray[np.float64]:
        """(nodes, nodes) bytes on every link for a split."""
        if not len(split) or self.paths is None:
            return self.shortest
        found = self._parts[2].copy()
        found[self.paths.links[:, 0], self.paths.links[:, 1]] += self.paths.loads(split)
        return found

    def cost(self, split: Split) -> float:
        """Seconds of a step: those of the busiest link."""
        return float(self.placed.seconds(self.loads(split)).max(initial=0.0))

    def background(self) -> NDArray[np.float64]:
        """(L,) bytes of the pairs that are not routed by agents."""
        assert self.paths is not None
        return self._parts[2][self.paths.links[:, 0], self.paths.links[:, 1]]


@dataclass(frozen=True)
class Assignment:
    """The routing that was taken: its problem, the split (empty: shortest paths), its proof."""

    problem: RoutingProblem
    split: Split
    answer: Certified[Split]

    def shares(self) -> dict[tuple[str, int, int], list[tuple[list[int], float]]]:
        """By job, source and target (positions): paths as positions, and their shares."""
        paths = self.problem.paths
        if paths is None or not len(self.split):
            return {}
        found: dict[tuple[str, int, int], list[tuple[list[int], float]]] = {}
        for r in np.flatnonzero(self.split > 0).tolist():
            pair = int(paths.owner[r])
            a, b = paths.pairs[pair].tolist()
            job = self.problem.placed.jobs[int(self.problem.job_of_pair[pair])].id
            hops = [paths.links[e].tolist() for e in paths.steps[r] if e < len(paths.links)]
            way = [hops[0][0], *(v for _, v in hops)]
            found.setdefault((job, a, b), []).append((way, float(self.split[r])))
        for ways in found.values():
            ways.sort(key=lambda row: (-row[1], len(row[0])))
        return found


def assign_routes(
    placed: PlacementProblem,
    placement: Placement,
    *,
    policy: RoutePolicy | None = None,
    start: Mapping[tuple[str, int, int], Sequence[tuple[list[int], float]]] | None = None,
    deadline: Deadline,
    seed: int = 0,
) -> Assignment:
    """Routes for a placement, through the one chain: agents, then shortest paths.

    ``start``: routes in force, as from ``Assignment.shares``; agents go on from there.
    """
    problem = RoutingProblem(placed, placement, deadline.share(0.5))

    def agents(
        problem: RoutingProblem,
        *,
        deadline: Deadline,
        seed: int,  # noqa: ARG001 - agents are deterministic
        incumbent: Candidate[Split] | None,  # noqa: ARG001
    ) -> Candidate[Split]:
        return _run_agents(problem, policy, start or {}, deadline)

    answer = certified(
        problem,
        stages=[Stage("rl", agents)],
        fallback=Stage("shortest-paths", _run_shortest),
        bound=lambda problem: problem.placed.lower_bound(),
        verify=_verify,
        deadline=deadline,
        seed=seed,
        breaker=_BREAKER,
    )
    return Assignment(problem, answer.value, answer)


def _run_shortest(
    problem: RoutingProblem,
    *,
    deadline: Deadline,  # noqa: ARG001
    seed: int,  # noqa: ARG001
    incumbent: Candidate[Split] | None,  # noqa: ARG001
) -> Candidate[Split]:
    return Candidate(np.empty(0), problem.cost(np.empty(0)))


def _run_agents(
    problem: RoutingProblem,
    policy: RoutePolicy | None,
    start: Mapping[tuple[str, int, int], Sequence[tuple[list[int], float]]],
    deadline: Deadline,
) -> Candidate[Split]:
    paths = problem.paths
    if paths is None:
        return Candidate(np.empty(0), 0.0)
    begun = _resume(problem, paths, start) if start else None
    found = route(paths, policy, start=begun, deadline=deadline, background=problem.background())
    kept = np.where(found.split < _LEAST_SHARE, 0.0, found.split)
    kept /= np.add.reduceat(kept, paths.first)[paths.owner]
    # Leaving out slivers must not cost what was won.
    split = min((kept, found.split), key=problem.cost)
    if problem.cost(kept) <= problem.cost(split) * 1.001:
        split = kept
    notes = {"rl_ticks": found.ticks, "rl_paths": len(paths.owner), "rl_pairs": len(paths.pairs)}
    return Candidate(split, problem.cost(split), notes=notes)


def _resume(
    problem: RoutingProblem,
    paths: Paths,
    start: Mapping[tuple[str, int, int], Sequence[tuple[list[int], float]]],
) -> Split:
    """The shares in force where a pair's paths are still there; shortest paths elsewhere."""
    number = {(int(u), int(v)): e for e, (u, v) in enumerate(paths.links)}
    split = paths.shortest()
    for pair, (a, b) in enumerate(paths.pairs.tolist()):
        job = problem.placed.jobs[int(problem.job_of_pair[pair])].id
        ways = {
            tuple(number.get(hop, -1) for hop in pairwise(way)): share
            for way, share in start.get((job, a, b), ())
        }
        rows = range(
            int(paths.first[pair]),
            int(paths.first[pair + 1]) if pair + 1 < len(paths.pairs) else len(paths.owner),
        )
        mine = np.array(
            [ways.get(tuple(e for e in paths.steps[r].tolist() if e < len(paths.links)), 0.0)
             for r in rows]
        )  # fmt: skip
        if mine.sum() > 0:
            split[list(rows)] = mine / mine.sum()
    return split


def _verify(problem: RoutingProblem, split: Split) -> None:
    """Raise SolverFailed unless every pair's shares are a split over its paths."""
    paths = problem.paths
    if paths is None or not len(split):
        return
    if split.shape != paths.owner.shape or not (split >= 0).all():
        raise SolverFailed("a path has a negative share or none")
    if not np.allclose(np.add.reduceat(split, paths.first), 1.0, atol=1e-9):
        raise SolverFailed("a pair's shares do not sum to 1")
