"""Which GPU is near which: contents are named so that traffic keeps to fast links.

GPUs with equal speed and number of slots may exchange all that they hold without any change of
load or of fan-out. Which of them holds what is a quadratic assignment problem a layer (Koopmans
and Beckmann 1957): flow between contents times distance between GPUs, lowered by exchanges.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_routing._traffic_kernels import exchange, hops
from qcluster.q_routing.problem import PlacementProblem

__all__ = ["FabricLike", "Graph", "alike", "distances", "far_of", "settle", "spread"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Graph(Protocol):
    """The part of a directed graph that is read: edges with their bandwidth."""

    @property
    def edges(self) -> Any:
        """Called with ``data="bandwidth_gb_s"``: rows of source, target, gigabytes a second."""


class FabricLike(Protocol):
    """What is asked of a fabric; ``q_nvlink.load_fabric`` gives one."""

    @property
    def gpus(self) -> Sequence[Any]:
        """Node ids of the GPUs, in the order in which placements count them."""

    @property
    def graph(self) -> Graph:
        """GPUs, switches and the links between them."""


def distances(fabric: FabricLike, num_gpus: int) -> Floats:
    """(gpus, gpus) 1 / bandwidth of the widest path, relative to the widest of all; 0 on the
    diagonal. Paths lead over other GPUs only where links and switches do not join all.

    Raises InputError when there are not ``num_gpus`` GPUs, a bandwidth is no finite number above
    0, or a GPU cannot reach another.
    """
    try:
        gpus, edges = list(fabric.gpus), fabric.graph.edges(data="bandwidth_gb_s")
    except AttributeError as error:
        raise InputError("wants an object with gpus and graph", field="fabric") from error
    if len(gpus) != num_gpus:
        raise InputError(f"has {len(gpus)} GPUs, but num_gpus is {num_gpus}", field="fabric")
    wide = _widest(gpus, edges)
    np.fill_diagonal(wide, np.inf)
    cut = np.argwhere(wide <= 0)
    if len(cut):
        a, b = gpus[int(cut[0, 0])], gpus[int(cut[0, 1])]
        raise InputError(f"no path leads from '{a}' to '{b}'", field="fabric")
    best = float(wide[np.isfinite(wide)].max(initial=0.0)) or 1.0
    return np.asarray(best / wide, dtype=np.float64)


def far_of(distance: Floats | None, gpus: Ints) -> Floats:
    """Distances between ``gpus`` alone, or an array of size 0 where all are alike or unknown."""
    nothing = np.empty((0, 0))
    if distance is None or len(gpus) < 3:
        return nothing
    part = np.ascontiguousarray(distance[np.ix_(gpus, gpus)])
    return part if np.ptp(part[~np.eye(len(gpus), dtype=bool)]) > 1e-9 else nothing


def alike(distance: Floats, kind: Ints) -> Ints:
    """(gpus,) a number for each sort of GPU of one ``kind`` that has the same distances to all
    others: those of one sort may exchange their names without any change of ways.
    """
    gpus = len(kind)
    out = np.arange(gpus)
    for a in range(gpus):
        for b in range(a):
            others = np.ones(gpus, dtype=bool)
            others[[a, b]] = False
            same = np.allclose(distance[a, others], distance[b, others], rtol=1e-9)
            if kind[a] == kind[b] and same:
                out[a] = out[b]
                break
    return np.unique(out, return_inverse=True)[1].reshape(-1).astype(np.int64)


def spread(problem: PlacementProblem, slots: Ints, distance: Floats, kind: Ints) -> Ints:
    """``slots`` with the contents of GPUs of one ``kind`` exchanged, layer after layer, so that
    copies of an expert come far from each other, and one is near wherever a token is.
    """
    gpus = problem.num_gpus
    if not far_of(distance, np.arange(gpus)).size:
        return slots
    out = slots.copy()
    for x, row in enumerate(slots):
        on = _held(problem, row)
        share = problem.load[:, x].sum(axis=0) / on.sum(axis=1)
        name = _named(-(on.T * share) @ on, distance, np.zeros((gpus, gpus)), kind)
        _write(problem.slot_start, row, name, out[x])
    return out


def settle(
    problem: PlacementProblem,
    row: Ints,
    distance: Floats,
    kind: Ints,
    now: NDArray[np.bool_],
    before: NDArray[np.bool_] | None,
) -> tuple[Ints, NDArray[np.bool_]]:
    """One layer's slots with the contents of GPUs of one ``kind`` exchanged so that the GPUs of a
    token come near each other and near those of the layer before (inter-layer affinity, as in
    ExFlow, 2024).

    ``now`` and ``before`` (tokens, gpus) say who serves a token, the former comes back renamed.
    """
    gpus = problem.num_gpus
    alike = not far_of(distance, np.arange(gpus)).size
    if gpus < 2 or (alike and before is None):
        return row, now
    nothing = np.zeros((gpus, gpus))
    linear = nothing if before is None else hops(now, before) @ distance
    name = _named(nothing if alike else hops(now, now), distance, linear, kind)
    out, served = np.empty_like(row), np.empty_like(now)
    _write(problem.slot_start, row, name, out)
    served[:, name] = now
    return out, served


def _named(flow: Floats, distance: Floats, linear: Floats, kind: Ints) -> Ints:
    """(gpus,) the GPU that each content goes to: exchanges from where it is and from what is best
    for the linear part alone; the better of the two.
    """
    from scipy.optimize import linear_sum_assignment

    flow, distance = np.ascontiguousarray((flow + flow.T) / 2), (distance + distance.T) / 2
    linear = np.ascontiguousarray(linear)
    here = np.arange(len(kind))
    starts = [here]
    if linear.any():
        starts.append(here.copy())
        for k in np.unique(kind):
            of = np.flatnonzero(kind == k)
            content, gpu = linear_sum_assignment(linear[np.ix_(of, of)])
            starts[1][of[content]] = of[gpu]
    costs = []
    for name in starts:
        begin = float((flow * distance[np.ix_(name, name)]).sum() + linear[here, name].sum())
        costs.append(begin - exchange(flow, distance, linear, kind, name))
    return starts[int(np.argmin(costs))]


def _held(problem: PlacementProblem, row: Ints) -> NDArray[np.bool_]:
    on = np.zeros((problem.load.shape[2], problem.num_gpus), dtype=np.bool_)
    used = row >= 0
    on[row[used], problem.gpu_of_slot[used]] = True
    return on


def _write(start: Ints, row: Ints, name: Ints, out: Ints) -> None:
    for b, a in enumerate(name):
        out[start[a] : start[a + 1]] = row[start[b] : start[b + 1]]


def _widest(gpus: list[Any], edges: Iterable[tuple[Any, Any, Any]]) -> Floats:
    """(gpus, gpus) bandwidth of the widest path (Pollack 1960), 0 where there is none."""
    index = {gpu: i for i, gpu in enumerate(gpus)}
    rows = []
    for a, b, value in edges:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise InputError(f"link '{a}' to '{b}' has bandwidth {value!r}", field="fabric")
        rows.append((index.setdefault(a, len(index)), index.setdefault(b, len(index)), value))
    wide = np.zeros((len(index), len(index)))
    for a, b, value in rows:
        wide[a, b] = max(wide[a, b], float(value))
    # Switches first: where they join all GPUs, no path over another GPU is needed.
    order = [*range(len(gpus), len(index)), *range(len(gpus))]
    for step, k in enumerate(order):
        inner = wide[: len(gpus), : len(gpus)]
        if step == len(index) - len(gpus) and (inner + np.eye(len(gpus)) > 0).all():
            break
        np.maximum(wide, np.minimum(wide[:, k, None], wide[None, k, :]), out=wide)
    return wide[: len(gpus), : len(gpus)].copy()
