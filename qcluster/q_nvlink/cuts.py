"""Sparsest cuts among GPUs: by enumeration for few, by flow for many, exact both ways.

Capacities are integers, MB/s, so that ratios of cuts compare without rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_nvlink._kernels import best_cut, max_flow
from qcluster.q_nvlink.symmetry import orbits

__all__ = ["ENUMERATED", "UNIT", "ceilings", "cut_ratio", "integer", "least_cut", "port_bound"]

ENUMERATED = 12
"""GPUs up to which cuts are enumerated rather than found by flow."""
UNIT = 1000.0
"""Integers are MB/s."""


def integer(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """GB/s as whole MB/s."""
    return np.rint(matrix * UNIT).astype(np.int64)


def _local(
    cap: NDArray[np.int64], chosen: Sequence[int], switches: Sequence[int]
) -> NDArray[np.int64]:
    """Capacities among the chosen GPUs, first, and the switches that any of them reaches."""
    useful = np.array([w for w in switches if cap[w].any()], dtype=np.int64)
    gpus = np.array(chosen, dtype=np.int64)
    reached = cap[np.ix_(gpus, useful)].any(axis=0)
    while True:  # switches behind switches
        more = reached | cap[np.ix_(useful[reached], useful)].any(axis=0)
        if (more == reached).all():
            break
        reached = more
    nodes = np.concatenate([gpus, useful[reached]])
    return np.ascontiguousarray(cap[np.ix_(nodes, nodes)])


def cut_ratio(
    cap: NDArray[np.int64],
    chosen: Sequence[int],
    switches: Sequence[int],
    *,
    deadline: Deadline | None = None,
) -> tuple[float, bool]:
    """All-gather bandwidth among ``chosen`` with the help of ``switches``, GB/s.

    Also whether it is exact; else time ran out and the figure is only an upper bound.
    """
    k = len(chosen)
    if k == 1:
        return 0.0, True
    local = _local(cap, chosen, switches)
    if k <= ENUMERATED and not local[k:, k:].any():
        cut, size, _ = best_cut(local, k)
        return k * int(cut) / int(size) / UNIT, True
    return _ratio_by_flow(local, k, deadline or Deadline.never())


def least_cut(
    cap: NDArray[np.int64],
    chosen: Sequence[int],
    switches: Sequence[int],
    *,
    deadline: Deadline | None = None,
) -> float:
    """The least capacity that separates any two of ``chosen``, GB/s; 0 for one GPU.

    When time runs out, the least found by then.
    """
    k = len(chosen)
    if k == 1:
        return 0.0
    local = _local(cap, chosen, switches)
    if k <= ENUMERATED and not local[k:, k:].any():
        return int(best_cut(local, k)[2]) / UNIT
    # Any cut separates the first GPU from some other one; those that look alike from it cut alike.
    deadline, least = deadline or Deadline.never(), int(local[0].sum())
    for members in orbits(local, k, fixed=0):
        if members[0] == 0:
            continue
        if deadline.expired:
            break
        least = min(least, int(max_flow(local, 0, members[0])[0]))
        least = min(least, int(max_flow(local, members[0], 0)[0]))
    return least / UNIT


def _ratio_by_flow(local: NDArray[np.int64], k: int, deadline: Deadline) -> tuple[float, bool]:
    """The same by max-flow and Newton's method on the ratio (Dinkelbach, 1967), exact.

    A source feeds x into every GPU; x is attainable when each GPU can draw k x. A violated draw
    gives a cut with a smaller ratio, which is the next x. One GPU of each orbit suffices.
    """
    targets = [members[0] for members in orbits(local, k)]
    inflow = local[:, :k].sum(axis=0)
    num, den = int(inflow.min()), k - 1
    for target in sorted(targets, key=lambda u: int(inflow[u])):
        while True:
            if deadline.expired:
                return k * num / den / UNIT, False
            flow, side = _draw(local, k, target, num, den)
            if flow >= k * num:
                break
            inside, outside = np.flatnonzero(side), np.flatnonzero(~side)
            num = int(local[np.ix_(inside, outside)].sum())
            den = int((inside < k).sum())
            if num == 0:
                return 0.0, True
    return k * num / den / UNIT, True


def _draw(
    local: NDArray[np.int64], k: int, target: int, num: int, den: int
) -> tuple[int, NDArray[np.bool_]]:
    """Flow into ``target`` when every GPU is fed num, link capacities times den."""
    m = len(local)
    graph = np.zeros((m + 1, m + 1), dtype=np.int64)
    graph[:m, :m] = local * den
    graph[m, :k] = num
    flow, side = max_flow(graph, m, target)
    return int(flow), side[:m]


def port_bound(
    cap: NDArray[np.int64], free: Sequence[int], switches: Sequence[int], k: int
) -> float:
    """Upper bound in GB/s for any ``k`` of the GPUs ``free``: a set's worst port is at most the
    k-th best of all.
    """
    nodes = [*free, *switches]
    inflow = np.sort(cap[np.ix_(nodes, list(free))].sum(axis=0))[::-1]
    return float(inflow[k - 1]) * (k / (k - 1) if k > 1 else 1.0) / UNIT


def ceilings(
    cap: NDArray[np.int64], switches: list[int], sets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """What enters a set's worst GPU, times k / (k - 1): no bandwidth is above it."""
    k = sets.shape[1]
    ports = cap[switches].sum(axis=0)[sets]
    some = np.zeros(len(cap), dtype=np.bool_)
    some[sets] = True
    direct: Any = 0
    if cap[np.ix_(some, some)].any():  # GPUs joined directly
        direct = np.array([cap[np.ix_(row, row)].sum(axis=0) for row in sets])
    inflow: NDArray[np.float64] = (ports + direct).min(axis=1) * (k / (k - 1))
    return inflow
