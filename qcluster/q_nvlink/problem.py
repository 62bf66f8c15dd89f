"""What fabric planning is asked: a fabric and jobs, checked, and what a placement costs.

A placement gives every rank of every admitted job a GPU of its own. Its cost is the time of one
step when all jobs exchange their traffic at once: the seconds that the busiest link needs, over
effective bandwidth. Jobs route over their own GPUs and the switches; a pair that these do not join
goes through other GPUs, which is counted as relayed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink._kernels import neighbours, route_loads
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.q_nvlink.islands import exits, fewest_groups
from qcluster.telemetry import Job

__all__ = ["Admission", "Placement", "PlacementProblem", "admit"]

Placement = dict[str, list[int]]
"""Job id to the positions (in ``fabric.nodes``) of its ranks' GPUs, in order of ranks."""

_PAIRS_A_RANK = 8  # that a bound looks at
_DEFAULT_BYTES = 1e9  # of a job whose traffic is unknown: only proportions matter then


@dataclass(frozen=True)
class PlacementProblem:
    """Admitted jobs on a fabric; ``reference`` is the placement in force, as far as it holds.

    ``home`` is the group of joined GPUs that a job stays in. ``limit`` is how many ranks of
    ``reference`` may move, None for no limit.
    """

    fabric: Fabric
    jobs: tuple[Job, ...]
    home: Mapping[str, int]
    reference: Mapping[str, tuple[int, ...]]
    limit: int | None = None

    @functools.cached_property
    def demand(self) -> dict[str, NDArray[np.float64]]:
        """Bytes from rank to rank in a step, by job."""
        return {job.id: job.traffic() for job in self.jobs}

    @functools.cached_property
    def pinned(self) -> dict[str, list[int]]:
        """Positions of the GPUs that a job must have, by job."""
        return {job.id: [self.fabric.index[gpu] for gpu in job.pinned] for job in self.jobs}

    def loads(self, placement: Placement) -> tuple[NDArray[np.float64], int]:
        """Bytes on every link, (nodes, nodes), and how many jobs need other jobs' GPUs as relays.

        Raises Infeasible naming the first pair of GPUs that nothing joins.
        """
        n = len(self.fabric.nodes)
        loads, relayed = np.zeros((n, n)), 0
        for job in self.jobs:
            mine, relays = self.job_loads(job.id, placement[job.id])
            loads += mine
            relayed += relays
        return loads, relayed

    def job_loads(
        self, job: str, gpus: Sequence[int], *, demand: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], bool]:
        """Bytes of one job on every link, and whether it needs other jobs' GPUs as relays.

        ``demand`` (ranks, ranks): that part of the job's bytes alone.
        """
        n = len(self.fabric.nodes)
        volume = self.demand[job] if demand is None else demand
        mine = np.zeros((n, n))
        missing = self.spread(gpus, volume, self.transit(gpus), mine)
        if missing[0] < 0:
            return mine, False
        mine[:] = 0.0
        missing = self.spread(gpus, volume, np.ones(n, dtype=np.bool_), mine)
        if missing[0] >= 0:
            a, b = (self.fabric.nodes[int(i)].id for i in missing)
            raise Infeasible(f"nothing joins {a} and {b}", field=f"jobs[{job}]")
        return mine, True

    def spread(
        self,
        gpus: Sequence[int],
        demand: NDArray[np.float64],
        transit: NDArray[np.bool_],
        loads: NDArray[np.float64],
    ) -> tuple[int, int]:
        """Add the bytes (ranks, ranks) over shortest paths to ``loads``; see ``route_loads``."""
        cap, known = self.fabric.effective, self.fabric.scratch
        if "neighbours" not in known:
            known["neighbours"] = (*neighbours(cap > 0), *neighbours(cap.T > 0))
        ends, volume = np.asarray(gpus, dtype=np.int64), np.ascontiguousarray(demand)
        missing: tuple[int, int] = route_loads(
            cap, *known["neighbours"], transit, ends, volume, loads
        )
        return missing

    def transit(self, gpus: Sequence[int]) -> NDArray[np.bool_]:
        """Nodes that pass traffic on for a job on ``gpus``: switches and its own, (nodes,)."""
        own = np.zeros(len(self.fabric.nodes), dtype=np.bool_)
        own[self.fabric.transit_index] = True
        own[list(gpus)] = True
        return own

    @functools.cached_property
    def _group(self) -> dict[int, int]:
        return {i: c for c, group in enumerate(self.fabric.components) for i in group}

    def same_group(self, a: int, b: int) -> bool:
        """Whether links join the GPUs at two positions."""
        return self._group[a] == self._group[b]

    def seconds(self, loads: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds that each link needs for its bytes, (nodes, nodes)."""
        cap = self.fabric.effective
        return np.divide(loads, cap * 1e9, out=np.zeros_like(loads), where=cap > 0)

    def cost(self, placement: Placement) -> float:
        """Seconds of a step: those of the busiest link."""
        return float(self.seconds(self.loads(placement)[0]).max(initial=0.0))

    def lower_bound(self) -> float:
        """Seconds that no placement beats: ``ideal_seconds``, or what jobs need out of a part.

        A job that takes m islands has at most k / m of its k ranks in one of them, see
        ``_part_bound``.
        """
        return self._least_seconds

    @functools.cached_property
    def _least_seconds(self) -> float:
        parts = (self._part_bound(job.id) for job in self.jobs)
        return max(self.ideal_seconds, *parts, 0.0)

    @functools.cached_property
    def ideal_seconds(self) -> float:
        """Seconds with which every layout's are compared, a bound as well.

        Every rank sits on a GPU of its own and must send and receive through that GPU's ports.
        The best that can be hoped for matches the largest volume with the largest port, the second
        with the second, and so on: an exchange argument for bottleneck assignment. Ranks that
        share nothing cost nothing. A job that no NVLink island holds must leave it: with M GPUs in
        the largest island a rank has at most M - 1 mates there, so at least what it sends to the
        others it sends least to goes over the links out of the job's own GPUs.
        """
        gpus, ways = self.fabric.gpu_index, exits(self.fabric)
        bound = 0.0
        for job in self.jobs:
            for least, widths in self._leaving[job.id]:
                ranks = len(least)
                far = float(least[:, ranks - ways.largest].sum())
                bound = max(bound, far / float(widths[ranks - 1]))
        for axis in (1, 0):
            volumes = [self.demand[job.id].sum(axis=axis) for job in self.jobs]
            volume = np.sort(np.concatenate(volumes))[::-1] if volumes else np.empty(0)
            ports = np.sort(self.fabric.effective.sum(axis=axis)[gpus])[::-1][: len(volume)]
            for need, port in zip(volume, ports, strict=True):
                if need > 0 and port > 0:
                    bound = max(bound, float(need / (port * 1e9)))
        return bound

    def _part_bound(self, job: str) -> float:
        """Seconds that a job needs on the links out of its smallest part, 0 when one island does.

        Where it takes m islands, the one with fewest of its k ranks has c <= k / m of them and c
        GPUs' links out, over which its ranks send to the k - c others.
        """
        bound = 0.0
        demand = self.demand[job]
        for (least, widths), volumes in zip(self._leaving[job], (demand, demand.T), strict=False):
            ranks, between = len(least), _between_any_parts(volumes)
            part = ranks // fewest_groups(exits(self.fabric).sizes, ranks)
            smallest = min(
                max(float(np.sort(least[:, ranks - c])[:c].sum()), between) / float(widths[c - 1])
                for c in range(1, part + 1)
            )
            bound = max(bound, smallest)
        return bound

    @functools.cached_property
    def _leaving(self) -> dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        """Out and in, of each job that no island holds: bytes to other islands, and ways there.

        Of every rank the sums of its least volumes, (ranks, ranks), itself first, as nobody sends
        to themselves; and bytes a second over the widest ways out, (gpus,) by how many. Empty
        unless every GPU has a way out of its own, so that nobody relays for it.
        """
        ways = exits(self.fabric)
        return {
            job: [
                (np.cumsum(np.sort(volumes, axis=1), axis=1), np.cumsum(np.sort(ports)[::-1]) * 1e9)
                for volumes, ports in ((demand, ways.out_gb_s), (demand.T, ways.in_gb_s))
                if len(demand) > ways.largest and ways.own
            ]
            for job, demand in self.demand.items()
        }

    def moved(self, placement: Placement) -> int:
        """How many ranks sit elsewhere than in ``reference``."""
        return sum(
            int(a != b)
            for job, gpus in self.reference.items()
            for a, b in zip(gpus, placement[job], strict=True)
        )


def _between_any_parts(volumes: NDArray[np.float64]) -> float:
    """Bytes that at least go from any part of the ranks to the others; volumes (ranks, ranks).

    The largest volume such that the pairs with at least as much lead from every rank to every
    other: out of every part goes one of them. Only the largest few of each rank are looked at.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    every = volumes[volumes > 0]
    most = _PAIRS_A_RANK * len(volumes)
    if len(every) > most:
        every = np.partition(every, len(every) - most)[-most:]
    steps = np.unique(every)
    low, high = -1, len(steps) - 1  # of the steps that lead everywhere the last one
    while low < high:
        middle = (low + high + 1) // 2
        joined = csr_matrix(volumes >= steps[middle])
        if connected_components(joined, connection="strong", return_labels=False) == 1:
            low = middle
        else:
            high = middle - 1
    return float(steps[low]) if low >= 0 else 0.0


@dataclass(frozen=True)
class Admission:
    """Who runs: ``home`` is the group of joined GPUs (index into ``fabric.components``) by job.

    ``left_out`` holds why a job does not run now.
    """

    jobs: tuple[Job, ...]
    home: dict[str, int]
    left_out: dict[str, str]
    warnings: list[str]

    def without(self, job: str, reason: str) -> Admission:
        """The same but for one job, which does not run for ``reason``."""
        kept = tuple(other for other in self.jobs if other.id != job)
        return replace(self, jobs=kept, left_out={**self.left_out, job: reason})


def admit(fabric: Fabric, jobs: Sequence[Job], *, strict: bool = True) -> Admission:
    """Decide which jobs run now.

    Gangs are atomic: a job gets all its GPUs or none, and all within a group that links join. Jobs
    are admitted in the order given, each to the smallest group that holds it; a job that waits for
    another one in the list does not run beside it.

    Raises InputError for a repeated id and for pinned GPUs that do not exist or are too many, and
    when ``strict``, Infeasible for a job that fits the fabric but no group of it, naming a pair of
    GPUs that nothing joins.
    """
    free = [len(group) for group in fabric.components]
    component = {i: c for c, group in enumerate(fabric.components) for i in group}
    found = Admission((), {}, {}, [])
    admitted: list[Job] = []
    claimed: set[NodeId] = set()
    seen: set[str] = set()
    for index, job in enumerate(jobs):
        place = f"jobs[{index}]"
        if job.id in seen:
            raise InputError(f"'{job.id}' stands twice", field=f"{place}.id")
        seen.add(job.id)
        _check_pins(fabric, job, place)
        pins = {component[fabric.index[gpu]] for gpu in job.pinned}
        if strict and (len(pins) > 1 or len(fabric.components[0]) < job.gpus <= len(fabric.gpus)):
            raise Infeasible(_unjoined(fabric, job), field=place)
        homes = [c for c in pins or range(len(free)) if free[c] >= job.gpus]
        reason = _reason(fabric, job, claimed, sum(free), homes, pins)
        if reason:
            found.left_out[job.id] = reason
            continue
        if job.gpus > 1 and not job.traffic().any():
            found.warnings.append(f"{job.id}: traffic unknown, 1 GB a rank and step assumed")
            admitted.append(replace(job, bytes=_DEFAULT_BYTES, kind=_kind(job), matrix=None))
        else:
            admitted.append(job)
        home = min(homes, key=lambda c: free[c])
        found.home[job.id] = home
        claimed.update(job.pinned)
        free[home] -= job.gpus
    return replace(found, jobs=tuple(admitted))


def _kind(job: Job) -> str:
    return "allreduce" if job.matrix is not None else job.kind


def _reason(
    fabric: Fabric,
    job: Job,
    claimed: set[NodeId],
    free: int,
    homes: list[int],
    pins: set[int],
) -> str:
    """Why a job does not run now; empty when it does."""
    if waits := [other for other in job.after if other != job.id]:
        return f"waits for {', '.join(waits)}"
    if clash := claimed.intersection(job.pinned):
        return f"pinned to {min(map(str, clash))}, which another job has"
    if len(pins) > 1:
        return _unjoined(fabric, job)
    if job.gpus > free:
        return f"needs {job.gpus} GPUs, {free} are left"
    return "" if homes else f"needs {job.gpus} GPUs that links join, {free} are left in pieces"


def _unjoined(fabric: Fabric, job: Job) -> str:
    """Names two GPUs that the job would need and nothing joins."""
    component = {i: c for c, group in enumerate(fabric.components) for i in group}
    wanted = [fabric.index[gpu] for gpu in job.pinned]
    if len({component[i] for i in wanted}) < 2:
        wanted = wanted[:1] + [g[0] for g in fabric.components]
    first = wanted[0]
    other = next(i for i in wanted if component[i] != component[first])
    a, b = fabric.nodes[first].id, fabric.nodes[other].id
    return f"nothing joins {a} and {b}, and {job.id} needs {job.gpus} GPUs"


def _check_pins(fabric: Fabric, job: Job, place: str) -> None:
    if len(job.pinned) > job.gpus or len(set(job.pinned)) < len(job.pinned):
        raise InputError(f"wants at most {job.gpus} different GPUs", field=f"{place}.pinned")
    for gpu in job.pinned:
        position = fabric.index.get(gpu)
        if position is None or fabric.nodes[position].kind != "gpu":
            raise InputError(f"there is no GPU '{gpu}'", field=f"{place}.pinned")
