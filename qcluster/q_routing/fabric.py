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
from qcluster.q_routing._traffic_kernels import exchange, hops, visited
from qcluster.q_routing.problem import PlacementProblem

__all__ = ["FabricLike", "Graph", "distances", "rename"]

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


def rename(
    problem: PlacementProblem,
    slots: Ints,
    distance: Floats,
    kind: Ints,
    picks: Ints | None,
) -> Ints:
    """``slots`` with the contents of GPUs of one ``kind`` exchanged, layer after layer.

    With ``picks`` (tokens, layers, k) a token's GPUs come near each other and near those of the
    layer before (inter-layer affinity, as in ExFlow, 2024). Without, copies of an expert come far
    from each other, so that one is near wherever a token is.
    """
    gpus = problem.num_gpus
    off = distance[~np.eye(gpus, dtype=bool)]
    uniform = gpus < 3 or bool(np.ptp(off) < 1e-9)
    if gpus < 2 or (uniform and picks is None):
        return slots
    out, nothing = slots.copy(), np.zeros((gpus, gpus))
    before: NDArray[np.bool_] | None = None
    for x, row in enumerate(slots):
        on = _held(problem, row)
        linear = nothing
        if picks is None:
            share = problem.load[:, x].sum(axis=0) / on.sum(axis=1)
            flow = -(on.T * share) @ on
        else:
            speed = np.where(problem.speed > 0, problem.speed, 1.0)
            now = visited(np.ascontiguousarray(picks[:, x]), on, speed)
            flow = nothing if uniform else hops(now, now)
            if before is not None:
                linear = hops(now, before) @ distance
        name = _named(flow, distance, linear, kind)
        _write(problem.slot_start, row, name, out[x])
        if picks is not None:
            before = np.empty_like(now)
            before[:, name] = now
    return out


def _named(flow: Floats, distance: Floats, linear: Floats, kind: Ints) -> Ints:
    """(gpus,) the GPU that each content goes to: exact for the linear part, then exchanges."""
    from scipy.optimize import linear_sum_assignment

    name = np.arange(len(kind))
    if linear.any():
        for k in np.unique(kind):
            of = np.flatnonzero(kind == k)
            content, gpu = linear_sum_assignment(linear[np.ix_(of, of)])
            name[of[content]] = of[gpu]
    symmetric = np.ascontiguousarray((flow + flow.T) / 2)
    exchange(symmetric, (distance + distance.T) / 2, np.ascontiguousarray(linear), kind, name)
    return name


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
