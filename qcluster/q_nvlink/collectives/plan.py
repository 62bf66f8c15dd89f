"""``plan_collective``, its bound, and the simulation that proves delivery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError, SolverFailed
from qcluster.q_nvlink.collectives.logical import balanced, best_rate, without_switches
from qcluster.q_nvlink.collectives.packing import pack_trees
from qcluster.q_nvlink.collectives.stars import Racks, find_racks, rack_trees
from qcluster.q_nvlink.cuts import UNIT, integer
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.record import Record

__all__ = [
    "Collective",
    "Simulation",
    "Tree",
    "collective_bound",
    "plan_collective",
    "simulate",
]

KINDS = ("allgather", "reduce_scatter", "allreduce")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree(Record):
    """``share`` of the root's data along ``hops``: (from, to, path over switches), parents first.

    In a reduce phase the same hops run backwards: children first, towards the root.
    """

    root: NodeId
    share: float
    hops: list[tuple[NodeId, NodeId, list[NodeId]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Collective(Record):
    """A collective as trees.

    ``seconds_per_gb`` is the time for 1 GB of the whole buffer, ``lower_bound_per_gb`` the min-cut
    bound (for allreduce the sum of its two phases' bounds), ``bandwidth_gb_s`` the buffer over the
    time. ``gather`` and ``reduce`` are the trees of the phases. ``capacity`` is GB/s by link.
    ``striped``: switches that stand for several parallel ones, over which traffic is spread evenly.
    """

    kind: str
    gpus: list[NodeId]
    seconds_per_gb: float
    lower_bound_per_gb: float
    bandwidth_gb_s: float
    gather: list[Tree] = field(default_factory=list)
    reduce: list[Tree] = field(default_factory=list)
    capacity: dict[str, float] = field(default_factory=dict)
    striped: dict[str, list[NodeId]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulation(Record):
    """``delivered`` when every GPU has every byte; seconds for 1 GB; the busiest link's use.

    ``pipelined_s_per_gb`` is the time with each tree's data cut into ``chunks`` that are passed on
    whole, so that depth costs.
    """

    delivered: bool
    seconds_per_gb: float
    busiest_link: str
    chunks: int
    pipelined_s_per_gb: float


def collective_bound(fabric: Fabric, kind: str, *, gpus: Sequence[NodeId] | None = None) -> float:
    """Seconds for 1 GB that no schedule beats: the min cut, see ``plan_collective``."""
    _, cap, count = _network(fabric, kind, gpus)
    bound = 0.0
    for matrix in _phases(kind, cap):
        num, den = best_rate(matrix, count) if count > 1 else (1, 0)
        bound += den / num / count * UNIT
    return bound


def plan_collective(
    fabric: Fabric, kind: str, *, gpus: Sequence[NodeId] | None = None
) -> Collective:
    """A throughput-optimal collective among GPUs of a fabric (ForestColl: Zhao et al., 2024).

    Parameters
    ----------
    kind: allgather, reduce_scatter or allreduce (reduce_scatter, then allgather).
    gpus: who takes part, all by default. Others pass nothing on; switches do.

    Nominal link rates. The time of allgather is the largest |S| / B(S) over all cuts S that leave
    out a GPU, over the number of GPUs, which is also its lower bound.

    Raises
    ------
    InputError: an unknown kind or GPU.
    Infeasible: a GPU cannot be reached.
    """
    nodes, cap, count = _network(fabric, kind, gpus)
    names = [fabric.nodes[i].id for i in nodes]
    racks = find_racks(cap, count)
    if racks is not None:
        quick = _over_racks(racks, kind, names)
        if quick is not None:
            return quick
    found: dict[str, list[Tree]] = {"gather": [], "reduce": []}
    seconds = bound = 0.0
    for phase, matrix in zip(_names(kind), _phases(kind, cap), strict=True):
        if count == 1:
            continue
        num, den = best_rate(matrix, count)
        bound += den / num / count * UNIT
        backwards = phase == "reduce"
        try:
            found[phase] = _trees(matrix, count, num, den, names, backwards=backwards)
        except SolverFailed:
            matrix = balanced(matrix, count)  # noqa: PLW2901
            num, den = best_rate(matrix, count)
            found[phase] = _trees(matrix, count, num, den, names, backwards=backwards)
        seconds += den / num / count * UNIT
    result = Collective(
        kind=kind,
        gpus=names[:count],
        seconds_per_gb=seconds,
        lower_bound_per_gb=bound,
        bandwidth_gb_s=1.0 / seconds if seconds else 0.0,
        gather=found["gather"],
        reduce=found["reduce"],
        capacity={
            f"{names[a]}->{names[b]}": float(cap[a, b]) / UNIT for a, b in np.argwhere(cap).tolist()
        },
    )
    proof = simulate(result)
    if not proof.delivered or proof.seconds_per_gb > seconds * (1 + 1e-9):
        raise SolverFailed("the trees do not deliver in their time")
    return result


def _over_racks(racks: Racks, kind: str, names: list[NodeId]) -> Collective | None:
    """The collective over equal racks, or None where it takes longer than the bound."""
    count = racks.gpus.size
    local = [names[i] for i in racks.kept]
    num, den = best_rate(racks.cap, count)
    phases = _names(kind)
    seconds = len(phases) * den / num / count * UNIT
    gather: list[Tree] = []
    reduce: list[Tree] = []
    for root, share, hops in rack_trees(racks):
        ways = [(local[a], local[b], [local[v] for v in path]) for a, b, path in hops]
        back = [(b, a, path[::-1]) for a, b, path in reversed(ways)]
        if "gather" in phases:
            gather.append(Tree(root=local[root], share=share, hops=ways))
        if "reduce" in phases:
            # Links work both ways alike: a reduction is the broadcast run backwards.
            reduce.append(Tree(root=local[root], share=share, hops=back))
    result = Collective(
        kind=kind,
        gpus=local[:count],
        seconds_per_gb=seconds,
        lower_bound_per_gb=seconds,
        bandwidth_gb_s=1.0 / seconds,
        gather=gather,
        reduce=reduce,
        capacity={
            f"{local[a]}->{local[b]}": float(racks.cap[a, b]) / UNIT
            for a, b in np.argwhere(racks.cap).tolist()
        },
        striped={
            str(local[plane]): [names[w] for w in behind]
            for plane, behind in zip(racks.plane, racks.planes, strict=True)
            if len(behind) > 1
        },
    )
    proof = simulate(result)
    fits = proof.delivered and proof.seconds_per_gb <= seconds * (1 + 1e-9)
    return result if fits else None


def _names(kind: str) -> list[str]:
    return {"allgather": ["gather"], "reduce_scatter": ["reduce"]}.get(kind, ["reduce", "gather"])


def _phases(kind: str, cap: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The capacity matrix of each phase; reducing is gathering on the reversed links."""
    return [cap if name == "gather" else cap.T.copy() for name in _names(kind)]


def _network(
    fabric: Fabric, kind: str, gpus: Sequence[NodeId] | None
) -> tuple[list[int], NDArray[np.int64], int]:
    if kind not in KINDS:
        raise InputError(f"wants one of {', '.join(KINDS)}, got {kind!r}", field="kind")
    chosen = list(fabric.gpus if gpus is None else gpus)
    for gpu in chosen:
        if gpu not in fabric.index or fabric.nodes[fabric.index[gpu]].kind != "gpu":
            raise InputError(f"there is no GPU '{gpu}'", field="gpus")
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("wants at least one GPU, each once", field="gpus")
    members = [fabric.index[gpu] for gpu in chosen]
    nodes, cap = _merged(fabric, members)
    return nodes, cap, len(members)


def _merged(fabric: Fabric, members: list[int]) -> tuple[list[int], NDArray[np.int64]]:
    """The participants and the switches that lead anywhere, whole MB/s."""
    nodes = members + fabric.transit_index.tolist()
    cap = integer(fabric.nominal)
    while True:
        inner = cap[np.ix_(nodes, nodes)]
        ends = ((inner > 0) | (inner.T > 0)).sum(axis=1)
        kept = [v for i, v in enumerate(nodes) if i < len(members) or ends[i] > 1]
        if len(kept) == len(nodes):
            return nodes, inner
        nodes = kept


def _trees(
    cap: NDArray[np.int64], count: int, num: int, den: int, names: list[NodeId], *, backwards: bool
) -> list[Tree]:
    logical = without_switches(cap, count, num, den)
    paths = {pair: list(rows) for pair, rows in logical.paths.items()}
    trees = []
    for batch in pack_trees(logical.cap, logical.share):
        rest = batch.count
        while rest > 0:
            # Trees that use the same physical paths on every hop go together.
            part = min([rest, *(paths[edge][-1][1] for edge in batch.edges)])
            hops = []
            for edge in batch.edges:
                path, have = paths[edge].pop()
                if have > part:
                    paths[edge].append((path, have - part))
                route = [names[v] for v in (path[::-1] if backwards else path)]
                hops.append((route[0], route[-1], route))
            share = part / logical.share
            trees.append(
                Tree(root=names[batch.root], share=share, hops=hops[::-1] if backwards else hops)
            )
            rest -= part
    return trees


def simulate(schedule: Collective, *, chunks: int = 64) -> Simulation:
    """Run a schedule chunk by chunk, from the schedule alone.

    Checks that each hop sends only what its sender has by then, that in the end every GPU holds
    every root's whole data (or every root holds every GPU's part of its sum), and adds up what
    each link carries. Time is the busiest link's; with chunks passed on whole, the deepest tree
    adds its depth in chunks.
    """
    delivered, seconds, pipelined, busiest = True, 0.0, 0.0, ""
    for trees, reducing in ((schedule.reduce, True), (schedule.gather, False)):
        if not trees:
            continue
        ok, depth = _run(trees, schedule.gpus, reducing)
        delivered = delivered and ok
        used: dict[str, float] = {}
        for tree in trees:
            for _, _, path in tree.hops:
                for a, b in pairwise(path):
                    used[f"{a}->{b}"] = used.get(f"{a}->{b}", 0.0) + tree.share
        times = {
            link: load / len(schedule.gpus) / schedule.capacity[link] for link, load in used.items()
        }
        busiest = max(times, key=times.__getitem__)
        seconds += times[busiest]
        pipelined += times[busiest] * (1 + (depth - 1) / chunks)
    if len(schedule.gpus) > 1 and not (schedule.gather or schedule.reduce):
        delivered = False
    return Simulation(
        delivered=delivered,
        seconds_per_gb=seconds,
        busiest_link=busiest,
        chunks=chunks,
        pipelined_s_per_gb=pipelined,
    )


def _run(trees: Sequence[Tree], gpus: Sequence[NodeId], reducing: bool) -> tuple[bool, int]:
    """Whether all data arrive, and the depth of the deepest tree in hops."""
    got = {(root, gpu): 0.0 for root in gpus for gpu in gpus}
    deepest = 0
    for tree in trees:
        # Reversed, a reduction is a broadcast: who may add to the sum is who would receive.
        hops = [(b, a) for a, b, _ in reversed(tree.hops)] if reducing else []
        hops = hops or [(a, b) for a, b, _ in tree.hops]
        depth = {tree.root: 0}
        for a, b in hops:
            if a not in depth or b in depth:
                return False, deepest
            depth[b] = depth[a] + 1
            got[tree.root, b] += tree.share
        got[tree.root, tree.root] += tree.share
        deepest = max(deepest, *depth.values())
    return all(abs(value - 1.0) < 1e-9 for value in got.values()), deepest
