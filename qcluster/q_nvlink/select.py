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
from qcluster.q_nvlink._kernels import rank_sets
from qcluster.q_nvlink.cuts import ENUMERATED, UNIT, integer, sparsest_cut, twins
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.record import Record

__all__ = ["Selection", "cut_bandwidth", "select_gpus"]

_MOST_SETS = 20_000  # sets that are tried one by one; beyond, local search with a bound
_MOST_VALUES = 100_000  # sets remembered a fabric


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
    values: dict[tuple[int, ...], tuple[float, float, bool]]


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


def _state(fabric: Fabric, busy: Iterable[NodeId]) -> _Problem:
    taken = set(busy)
    for gpu in taken:
        if gpu not in fabric.index:
            raise InputError(f"there is no GPU '{gpu}'", field="busy")
    memory = _memory(fabric)
    cap = memory.cap
    free = [int(i) for i in fabric.gpu_index if fabric.nodes[i].id not in taken]
    switches = [int(i) for i in fabric.transit_index]
    return _Problem(
        cap=cap,
        fast=memory.fast,
        free=free,
        switches=switches,
        hosts=[node.host or node.domain for node in fabric.nodes],
        values=memory.values,
    )


class _Memory:
    """What stays the same between two choices on a fabric: capacities and sets' bandwidths."""

    def __init__(self, fabric: Fabric) -> None:
        self.cap = integer(fabric.nominal)
        self.fast = np.where(fabric.fast, self.cap, 0)
        self.values: dict[tuple[int, ...], tuple[float, float, bool]] = {}


def _memory(fabric: Fabric) -> _Memory:
    found = fabric.scratch.get("select")
    if not isinstance(found, _Memory):
        found = fabric.scratch["select"] = _Memory(fabric)
    return found


def _count_sets(sizes: Sequence[int], k: int) -> int:
    ways = [1] + [0] * k
    for size in sizes:
        ways = [sum(ways[t - take] for take in range(min(size, t) + 1)) for t in range(k + 1)]
    return ways[k]


def _sets(classes: list[list[int]], k: int, hosts: list[str]) -> Iterator[list[int]]:
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
        head = _pack(classes[0], take, hosts)
        for tail in _sets(classes[1:], k - take, hosts):
            yield head + tail


def _pack(members: list[int], take: int, hosts: list[str]) -> list[int]:
    """``take`` of interchangeable GPUs from few hosts, keeping others whole: best fit.

    The fullest host that holds all the rest, else the host with most free, until done.
    """
    by_host: dict[str, list[int]] = {}
    for u in members:
        by_host.setdefault(hosts[u], []).append(u)
    chosen: list[int] = []
    while len(chosen) < take:
        rest = take - len(chosen)
        fits = [name for name, free in by_host.items() if len(free) >= rest]
        if fits:
            name = min(fits, key=lambda name: len(by_host[name]))
        else:
            name = max(by_host, key=lambda name: len(by_host[name]))
        chosen += by_host.pop(name)[:rest]
    return chosen


def _ranked(problem: _Problem, k: int) -> list[int] | None:
    """The best of all sets, or None when there are too many to try."""
    classes = twins(problem.cap, problem.free, problem.switches)
    if _count_sets([len(c) for c in classes], k) > _MOST_SETS:
        return None
    sets = np.array(list(_sets(classes, k, problem.hosts)), dtype=np.int64)
    value = _values(problem, sets)
    best = value.max()
    # Equal up to rounding of the division; the rest is decided by what stays free.
    ties = np.flatnonzero(value >= best * (1 - 1e-12))
    winner = max(ties.tolist(), key=lambda i: (_residual(problem, sets[i].tolist()), -i))
    return [int(u) for u in sets[winner]]


def _values(problem: _Problem, sets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bandwidth of each set (sets, k) in units of capacity, or -1 where it cannot be the best."""
    k = sets.shape[1]
    if k == 1 or len(sets) == 1:
        return np.zeros(len(sets))
    ceiling = _ceilings(problem, sets)
    order = np.argsort(-ceiling, kind="stable")
    useful = np.array([w for w in problem.switches if problem.cap[w].any()], dtype=np.int64)
    if k <= ENUMERATED and not problem.cap[np.ix_(useful, useful)].any():
        found: NDArray[np.float64] = rank_sets(
            problem.fast, problem.cap, useful, sets, order, ceiling
        )
        return found
    value, best = np.full(len(sets), -1.0), 0.0
    for position in order:
        if ceiling[position] < best * (1 - 1e-12):
            break
        value[position] = _value(problem, sets[position].tolist())[0] * UNIT
        best = max(best, value[position])
    return value


def _ceilings(problem: _Problem, sets: NDArray[np.int64]) -> NDArray[np.float64]:
    """What enters a set's worst GPU, times k / (k - 1): no bandwidth is above it."""
    k = sets.shape[1]
    ports = problem.cap[problem.switches].sum(axis=0)[sets]
    direct = problem.cap[sets[:, :, None], sets[:, None, :]].sum(axis=1)
    inflow: NDArray[np.float64] = (ports + direct).min(axis=1) * (k / (k - 1))
    return inflow


def _port_bound(problem: _Problem, k: int) -> float:
    """Upper bound for any set: its worst port is at most the k-th best port of all."""
    nodes = problem.free + problem.switches
    inflow = np.sort(problem.cap[np.ix_(nodes, problem.free)].sum(axis=0))[::-1]
    return float(inflow[k - 1]) * (k / (k - 1) if k > 1 else 1.0) / UNIT


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
    key = tuple(sorted(chosen))
    known = problem.values.get(key)
    if known is not None:
        return known
    fast = sparsest_cut(problem.fast, key, problem.switches)
    value = (
        (*fast, True) if fast[1] > 0 else (*sparsest_cut(problem.cap, key, problem.switches), False)
    )
    if len(problem.values) < _MOST_VALUES:
        problem.values[key] = value
    return value


def _effective(fabric: Fabric, problem: _Problem, chosen: Sequence[int]) -> float:
    cap = integer(fabric.effective)
    fast = sparsest_cut(np.where(fabric.fast, cap, 0), chosen, problem.switches)
    return fast[0] if fast[1] > 0 else sparsest_cut(cap, chosen, problem.switches)[0]


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
