"""Which GPUs to give to a job: the subset through whose sparsest cut most bandwidth fits.

The bandwidth of a set G of k GPUs is that of a throughput-optimal all-gather among them: by the
min-cut bound of Zhao et al. (ForestColl, 2024), k times the least of B(S) / |S & G| over all cuts
S that leave out at least one GPU of G, where B(S) is the capacity that leaves S. It is attained, so
it is exact and not an estimate. Only the set's own GPUs and switches pass traffic on. A set that
NVLink joins uses NVLink alone, as NCCL does; any other set uses all links.

Among sets of equal bandwidth the one that leaves most bandwidth between the GPUs that stay free is
taken, then the one that leaves hosts whole: anti-fragmentation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink._kernels import best_cut, max_flow
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.record import Record

__all__ = ["Selection", "cut_bandwidth", "select_gpus"]

_MOST_SETS = 20_000  # sets that are tried one by one; beyond, local search with a bound
_ENUMERATED = 12  # GPUs up to which cuts are enumerated rather than found by flow
_UNIT = 1000.0  # integers are MB/s


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Record):
    """Chosen GPUs, in the order of the fabric.

    ``bandwidth_gb_s`` is their all-gather bandwidth over nominal link rates (0 for a single GPU,
    which exchanges nothing), ``effective_gb_s`` over effective ones, ``upper_bound_gb_s`` a proof
    of what no set of this size exceeds, ``min_cut_gb_s`` the least capacity that separates any two
    of them. ``nvlink`` tells whether NVLink alone joins them. ``exact`` means the bound is met.
    """

    gpus: tuple[NodeId, ...]
    bandwidth_gb_s: float
    upper_bound_gb_s: float
    min_cut_gb_s: float
    effective_gb_s: float
    nvlink: bool
    exact: bool


@dataclass(frozen=True)
class _Problem:
    """Integer capacities, which links are fast, who may be chosen and who is switch."""

    cap: NDArray[np.int64]
    fast: NDArray[np.int64]
    free: list[int]
    switches: list[int]
    hosts: list[str]
    classes: list[list[int]]


def select_gpus(fabric: Fabric, k: int, *, busy: Iterable[NodeId] = ()) -> Selection:
    """The best ``k`` GPUs that are not busy.

    Parameters
    ----------
    fabric: where to choose.
    k: how many, at least 1.
    busy: ids of GPUs that are taken.

    Raises
    ------
    InputError: ``k`` is no positive integer, or a busy id is unknown.
    Infeasible: fewer than ``k`` GPUs are free.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"wants a count of at least 1, got {k!r}", field="k")
    problem = _state(fabric, busy)
    if k > len(problem.free):
        raise Infeasible(f"wants {k} GPUs, but {len(problem.free)} are free", field="k")
    ranked = _ranked(problem, int(k))
    if ranked is None:
        chosen, exact = _search(problem, int(k)), False
    else:
        chosen, exact = ranked, True
    nominal, least, nvlink = _value(problem, chosen)
    bound = nominal if exact else max(nominal, _port_bound(problem, int(k)))
    return Selection(
        gpus=tuple(fabric.nodes[i].id for i in sorted(chosen)),
        bandwidth_gb_s=nominal,
        upper_bound_gb_s=bound,
        min_cut_gb_s=least,
        effective_gb_s=_effective(fabric, problem, chosen),
        nvlink=nvlink,
        exact=exact or math.isclose(bound, nominal),
    )


def cut_bandwidth(fabric: Fabric, gpus: Sequence[NodeId], *, effective: bool = False) -> float:
    """All-gather bandwidth of a given set in GB/s, exact; see the module's text.

    Raises InputError for an unknown or repeated GPU.
    """
    problem = _state(fabric, ())
    chosen = []
    for gpu in gpus:
        position = fabric.index.get(gpu)
        if position is None or fabric.nodes[position].kind != "gpu":
            raise InputError(f"there is no GPU '{gpu}'", field="gpus")
        chosen.append(position)
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError("wants at least one GPU, each once", field="gpus")
    return _effective(fabric, problem, chosen) if effective else _value(problem, chosen)[0]


def _integer(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(matrix * _UNIT).astype(np.int64)


def _state(fabric: Fabric, busy: Iterable[NodeId]) -> _Problem:
    taken = set(busy)
    for gpu in taken:
        if gpu not in fabric.index:
            raise InputError(f"there is no GPU '{gpu}'", field="busy")
    cap = _integer(fabric.nominal)
    free = [int(i) for i in fabric.gpu_index if fabric.nodes[i].id not in taken]
    switches = [int(i) for i in fabric.transit_index]
    return _Problem(
        cap=cap,
        fast=np.where(fabric.fast, cap, 0),
        free=free,
        switches=switches,
        hosts=[node.host or node.domain for node in fabric.nodes],
        classes=_twins(cap, free, switches),
    )


def _twins(cap: NDArray[np.int64], free: list[int], switches: list[int]) -> list[list[int]]:
    """Classes of interchangeable GPUs: swapping two of a class changes nothing."""
    nodes = np.array(free + switches, dtype=np.int64)
    classes: list[list[int]] = []
    for v in free:
        for members in classes:
            u = members[0]
            other = nodes[(nodes != u) & (nodes != v)]
            if (
                cap[u, v] == cap[v, u]
                and (cap[u, other] == cap[v, other]).all()
                and (cap[other, u] == cap[other, v]).all()
                # With a third member the links inside the class must be alike as well.
                and (len(members) < 2 or cap[u, v] == cap[members[0], members[1]])
            ):
                members.append(v)
                break
        else:
            classes.append([v])
    return classes


def _count_sets(sizes: Sequence[int], k: int) -> int:
    ways = [1] + [0] * k
    for size in sizes:
        ways = [sum(ways[t - take] for take in range(min(size, t) + 1)) for t in range(k + 1)]
    return ways[k]


def _sets(classes: list[list[int]], k: int) -> Iterator[list[int]]:
    """One set for every way to split ``k`` over the classes."""
    if not classes:
        if k == 0:
            yield []
        return
    if all(len(members) == 1 for members in classes):
        for chosen in combinations([members[0] for members in classes], k):
            yield list(chosen)
        return
    rest = sum(len(members) for members in classes[1:])
    for take in range(min(k, len(classes[0])), max(0, k - rest) - 1, -1):
        for tail in _sets(classes[1:], k - take):
            yield classes[0][:take] + tail


def _ranked(problem: _Problem, k: int) -> list[int] | None:
    """The best of all sets, or None when there are too many to try."""
    if _count_sets([len(c) for c in problem.classes], k) > _MOST_SETS:
        return None
    sets = list(_sets(problem.classes, k))
    ceiling = [_set_ceiling(problem, chosen) for chosen in sets]
    best: tuple[float, float, float] | None = None
    winner: list[int] = []
    # Descending by a cheap upper bound: the rest cannot win once it falls below the best.
    for position in sorted(range(len(sets)), key=lambda i: (-ceiling[i], i)):
        if best is not None and ceiling[position] < best[0] - 1e-9:
            break
        chosen = sets[position]
        key = (_value(problem, chosen)[0], *_residual(problem, chosen))
        if best is None or key > best:
            best, winner = key, chosen
    return winner


def _set_ceiling(problem: _Problem, chosen: list[int]) -> float:
    """What enters the set's worst GPU, times k / (k - 1): no bandwidth is above it."""
    k = len(chosen)
    nodes = chosen + problem.switches
    inflow = problem.cap[np.ix_(nodes, chosen)].sum(axis=0)
    return float(inflow.min()) * (k / (k - 1) if k > 1 else 1.0) / _UNIT


def _port_bound(problem: _Problem, k: int) -> float:
    """Upper bound for any set: its worst port is at most the k-th best port of all."""
    nodes = problem.free + problem.switches
    inflow = np.sort(problem.cap[np.ix_(nodes, problem.free)].sum(axis=0))[::-1]
    return float(inflow[k - 1]) * (k / (k - 1) if k > 1 else 1.0) / _UNIT


def _residual(problem: _Problem, chosen: list[int]) -> tuple[float, float]:
    """What stays for others: capacity between the free GPUs, then squares of free GPUs a host."""
    taken = set(chosen)
    left = [u for u in problem.free if u not in taken]
    direct = float(problem.cap[np.ix_(left, left)].sum())
    hosts: dict[str, int] = {}
    for u in left:
        hosts[problem.hosts[u]] = hosts.get(problem.hosts[u], 0) + 1
    return direct, float(sum(count * count for count in hosts.values()))


def _value(problem: _Problem, chosen: Sequence[int]) -> tuple[float, float, bool]:
    """(bandwidth, least cut, over NVLink alone) of a set, GB/s."""
    fast = _cut(problem.fast, chosen, problem.switches)
    if fast[1] > 0:
        return (*fast, True)
    return (*_cut(problem.cap, chosen, problem.switches), False)


def _effective(fabric: Fabric, problem: _Problem, chosen: Sequence[int]) -> float:
    cap = _integer(fabric.effective)
    fast = _cut(np.where(fabric.fast, cap, 0), chosen, problem.switches)
    return fast[0] if fast[1] > 0 else _cut(cap, chosen, problem.switches)[0]


def _cut(
    cap: NDArray[np.int64], chosen: Sequence[int], switches: Sequence[int]
) -> tuple[float, float]:
    """(all-gather bandwidth, least cut) among ``chosen`` with the help of ``switches``."""
    k = len(chosen)
    useful = [w for w in switches if cap[w].any()]
    nodes = np.array([*chosen, *useful], dtype=np.int64)
    local = np.ascontiguousarray(cap[np.ix_(nodes, nodes)])
    if k == 1:
        return 0.0, 0.0
    if k <= _ENUMERATED and not local[k:, k:].any():
        cut, size, least = best_cut(local, k)
        return k * int(cut) / int(size) / _UNIT, int(least) / _UNIT
    return _cut_by_flow(local, k)


def _cut_by_flow(local: NDArray[np.int64], k: int) -> tuple[float, float]:
    """The same by max-flow and Newton's method on the ratio (Dinkelbach, 1967), exact.

    A source feeds x into every GPU; x is attainable when each GPU can draw k x. A violated draw
    gives a cut with a smaller ratio, which is the next x. One GPU of each class of twins suffices.
    """
    classes = _twins(local, list(range(k)), list(range(k, len(local))))
    targets = [members[0] for members in classes]
    # Any cut separates the first GPU from some other one; twins of that one cut alike.
    ends = targets[1:] + classes[0][1:2]
    least = min(min(int(max_flow(local, 0, v)[0]), int(max_flow(local, v, 0)[0])) for v in ends)
    num, den = int(local[:, targets[0]].sum()), k - 1
    for target in targets:
        while True:
            flow, side = _draw(local, k, target, num, den)
            if flow >= k * num:
                break
            inside = [v for v in range(len(local)) if side[v]]
            outside = [v for v in range(len(local)) if not side[v]]
            num = int(local[np.ix_(inside, outside)].sum())
            den = sum(1 for v in inside if v < k)
            if num == 0:
                return 0.0, 0.0
    return k * num / den / _UNIT, least / _UNIT


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


def _search(problem: _Problem, k: int) -> list[int]:
    """Greedy growth around the best ports, then swaps; for fabrics too large to enumerate."""
    cap, free = problem.cap, problem.free
    ports = {u: int(cap[u, free].sum() + cap[u, problem.switches].sum()) for u in free}
    best: tuple[float, float, float] | None = None
    winner: list[int] = []
    for start in sorted(free, key=lambda u: -ports[u])[:4]:
        chosen = [start]
        while len(chosen) < k:
            left = [u for u in free if u not in chosen]
            chosen.append(max(left, key=lambda u: (int(cap[u, chosen].sum()), ports[u])))
        key = (_value(problem, chosen)[0], *_residual(problem, chosen))
        if best is None or key > best:
            best, winner = key, chosen
    assert best is not None
    return _swapped(problem, winner, best)


def _swapped(
    problem: _Problem, chosen: list[int], key: tuple[float, float, float], limit: int = 300
) -> list[int]:
    """First-improvement swaps of one GPU, at most ``limit`` evaluations."""
    left = [u for u in problem.free if u not in chosen]
    tried, improved = 0, True
    while improved and tried < limit:
        improved = False
        for i in range(len(chosen)):
            for j in range(len(left)):
                tried += 1
                other = chosen.copy()
                other[i] = left[j]
                new = (_value(problem, other)[0], *_residual(problem, other))
                if new > key:
                    left[j], chosen, key, improved = chosen[i], other, new, True
                if tried >= limit:
                    return chosen
    return chosen
