"""Which GPUs to give to a job: the subset through whose sparsest cut most bandwidth fits.

The bandwidth of a set G of k GPUs is that of a throughput-optimal all-gather among them: by the
min-cut bound of Zhao et al. (ForestColl, 2024), k times the least of B(S) / |S & G| over all cuts
S that leave out at least one GPU of G, where B(S) is the capacity that leaves S. It is attained, so
it is exact and not an estimate. Only the set's own GPUs and switches pass traffic on. A set that
NVLink joins uses NVLink alone, as NCCL does, and goes before any that it does not join; such a
set uses all links.

Among sets of equal bandwidth the one that leaves most bandwidth between the GPUs that stay free is
taken, then the one that leaves hosts whole: anti-fragmentation. Sets that must spread over several
NVLink islands are described by their counts in each (``qcluster.q_nvlink.islands``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink._kernels import rank_sets
from qcluster.q_nvlink.cuts import (
    ENUMERATED,
    UNIT,
    ceilings,
    cut_ratio,
    integer,
    least_cut,
    port_bound,
)
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.q_nvlink.islands import Islands
from qcluster.q_nvlink.subsets import count_sets, leftovers, list_sets
from qcluster.q_nvlink.symmetry import twins
from qcluster.record import Record

__all__ = ["Selection", "choose_gpus", "cut_bandwidth", "effective_bandwidth", "select_gpus"]

_MOST_SETS = 20_000  # sets that are tried one by one; beyond, local search with a bound
_LARGE = 64  # GPUs beyond which a bandwidth is not computed any more when time is up
_MOST_FLOWS = 64  # of these, whose cuts take a flow each
_MOST_SORTED = 2_000  # sets that are ordered by what they leave before their cuts are known
_MOST_VALUES = 100_000  # sets remembered a fabric
_WORK = 4_000_000  # cuts enumerated between two looks at the clock


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection(Record):
    """Chosen GPUs, in the order of the fabric.

    ``bandwidth_gb_s`` is their all-gather bandwidth over nominal link rates (0 for a single GPU,
    which exchanges nothing), ``effective_gb_s`` over effective ones, ``upper_bound_gb_s`` a proof
    of what no set of this size exceeds (over NVLink alone where ``nvlink``, else over all links),
    ``min_cut_gb_s`` the least capacity that separates any two of them. ``nvlink`` tells whether
    NVLink alone joins them. ``exact`` means the bound is met.
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
    islands: Islands
    values: dict[tuple[int, ...], tuple[float, bool]]


def select_gpus(
    fabric: Fabric, k: int, *, busy: Iterable[NodeId] = (), deadline: Deadline | None = None
) -> Selection:
    """The best ``k`` GPUs that are not busy.

    Parameters
    ----------
    fabric: where to choose.
    k: how many, at least 1.
    busy: ids of GPUs that are taken.
    deadline: when to stop searching; the best set by then is returned, with a bound that holds.

    Raises
    ------
    InputError: ``k`` is no positive integer, or a busy id is unknown.
    Infeasible: fewer than ``k`` GPUs are free.
    """
    problem, k = _asked(fabric, k, busy)
    chosen, bound = _best(problem, k, deadline or Deadline.never())
    nominal, nvlink = _value(problem, chosen)
    if bound is None:
        bound = nominal
    layer = problem.fast if nvlink else problem.cap
    return Selection(
        gpus=tuple(fabric.nodes[i].id for i in sorted(chosen)),
        bandwidth_gb_s=nominal,
        upper_bound_gb_s=max(bound, nominal),
        min_cut_gb_s=least_cut(layer, chosen, problem.switches),
        effective_gb_s=_effective(fabric, problem, chosen, Deadline.never())[0],
        nvlink=nvlink,
        exact=bound <= nominal * (1 + 1e-9),
    )


def choose_gpus(
    fabric: Fabric, k: int, *, busy: Iterable[NodeId] = (), deadline: Deadline | None = None
) -> list[int]:
    """Positions of the GPUs that ``select_gpus`` takes, without their figures: much faster."""
    problem, k = _asked(fabric, k, busy)
    return sorted(_best(problem, k, deadline or Deadline.never())[0])


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
    if effective:
        return _effective(fabric, problem, chosen, Deadline.never())[0]
    return _value(problem, chosen)[0]


def effective_bandwidth(
    fabric: Fabric, gpus: Sequence[int], deadline: Deadline
) -> tuple[float, bool]:
    """The same of the GPUs at given positions over effective rates, and whether it is exact.

    When ``deadline`` passes first it is an upper bound.
    """
    return _effective(fabric, _state(fabric, ()), list(gpus), deadline)


def _asked(fabric: Fabric, k: int, busy: Iterable[NodeId]) -> tuple[_Problem, int]:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"wants a count of at least 1, got {k!r}", field="k")
    problem = _state(fabric, busy)
    if k > len(problem.free):
        raise Infeasible(f"wants {k} GPUs, but {len(problem.free)} are free", field="k")
    return problem, int(k)


def _best(problem: _Problem, k: int, deadline: Deadline) -> tuple[list[int], float | None]:
    """The chosen set and a bound on any set's bandwidth, GB/s; None: the set attains its bound."""
    inside = _inside(problem, k, deadline)
    if inside is not None:
        return inside
    ranked = _ranked(problem, twins(problem.cap, problem.free, problem.switches), k, deadline)
    if ranked is not None:
        return ranked[1], (None if ranked[2] is None else min(ranked[2], _bound(problem, k)))
    rated: list[tuple[float, float, float, list[int]]] = []
    for chosen in problem.islands.spread(problem.free, k):
        if rated and deadline.expired:
            break
        rated.append((_value(problem, chosen)[0], *_residual(problem, chosen), chosen))
    best = max(rated, key=lambda row: row[:3], default=(0.0, 0.0, 0.0, list[int]()))
    if best[0] > 0 or (rated and deadline.expired):
        return best[3], _bound(problem, k)
    return _search(problem, k, deadline), _bound(problem, k)


def _inside(problem: _Problem, k: int, deadline: Deadline) -> tuple[list[int], float | None] | None:
    """The best set that NVLink joins; None when there is none or too many to try."""
    groups = problem.islands.free(problem.free)
    classes = [
        twins(problem.fast, members, problem.switches) for members in groups if len(members) >= k
    ]
    if sum(count_sets([len(c) for c in some], k) for some in classes) > _MOST_SETS:
        return None
    ranked = []
    for some in classes:
        found = _ranked(problem, some, k, deadline, fast_only=True)
        if found is not None and (found[0] > 0 or k == 1):
            ranked.append(found)
    if not ranked:
        return None
    top = max(row[0] for row in ranked)
    ties = [row[1] for row in ranked if row[0] >= top * (1 - 1e-12)]
    bounds = [row[2] for row in ranked if row[2] is not None]
    return max(ties, key=lambda s: _residual(problem, s)), max(bounds) if bounds else None


def _bound(problem: _Problem, k: int) -> float:
    """No set of this size is above it: by the ports of its GPUs, and of its islands."""
    bound = port_bound(problem.cap, problem.free, problem.switches, k)
    return min(bound, problem.islands.bound(problem.free, k, bound * UNIT) / UNIT)


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
        hosts=memory.hosts,
        islands=memory.islands,
        values=memory.values,
    )


class _Memory:
    """What stays the same between two choices on a fabric: capacities and sets' bandwidths."""

    def __init__(self, fabric: Fabric) -> None:
        self.cap = integer(fabric.nominal)
        self.fast = np.where(fabric.fast, self.cap, 0)
        self.hosts = [node.host or node.domain for node in fabric.nodes]
        self.islands = Islands(self.cap, self.fast, fabric.gpu_index, fabric.transit_index)
        self.values: dict[tuple[int, ...], tuple[float, bool]] = {}


def _memory(fabric: Fabric) -> _Memory:
    found = fabric.scratch.get("select")
    if not isinstance(found, _Memory):
        found = fabric.scratch["select"] = _Memory(fabric)
    return found


def _ranked(
    problem: _Problem,
    classes: list[list[int]],
    k: int,
    deadline: Deadline,
    *,
    fast_only: bool = False,
) -> tuple[float, list[int], float | None] | None:
    """(bandwidth, set, bound) of the best of all sets, GB/s; None when there are too many to try.

    The bound is None unless time ran out.
    """
    enumerable = k <= ENUMERATED and not problem.cap[np.ix_(*[problem.switches] * 2)].any()
    most = _MOST_SETS if enumerable or fast_only else _MOST_FLOWS
    if count_sets([len(c) for c in classes], k) > most:
        return None
    sets = np.array(list(list_sets(classes, k, problem.hosts)), dtype=np.int64)
    value, bound = _values(problem, sets, deadline, problem.fast if fast_only else problem.cap)
    best = value.max()
    # Equal up to rounding of the division; the rest is decided by what stays free.
    ties = np.flatnonzero(value >= best * (1 - 1e-12))
    winner = max(ties.tolist(), key=lambda i: (_residual(problem, sets[i].tolist()), -i))
    return best / UNIT, [int(u) for u in sets[winner]], bound


def _values(
    problem: _Problem, sets: NDArray[np.int64], deadline: Deadline, cap: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float | None]:
    """Bandwidth of each set (sets, k) in units of capacity, or -1 where it is not known.

    Also what bounds those that are not known, GB/s, when time ran out; else they cannot be best.
    """
    k = sets.shape[1]
    if k == 1:
        return np.zeros(len(sets)), None
    useful = np.array([w for w in problem.switches if cap[w].any()], dtype=np.int64)
    ceiling = ceilings(cap, problem.switches, sets)
    value, best = np.full(len(sets), -1.0), 0.0
    enumerable = k <= ENUMERATED and not cap[np.ix_(useful, useful)].any()
    chunk = max(1, _WORK // (2**k * k * k)) if enumerable else 1
    order = np.argsort(-ceiling, kind="stable")
    if sorts := len(sets) <= _MOST_SORTED:  # the first to attain its ceiling is the one to take
        lost, whole = leftovers(problem.cap, problem.free, problem.hosts, sets)
        order = np.lexsort((-whole, lost, -ceiling))
    for begin in (0, *range(1, len(sets), chunk)):
        part = order[begin : begin + chunk if begin else 1]
        if ceiling[part[0]] < best * (1 - 1e-12):
            break
        if begin and deadline.expired:
            return value, float(max(best, ceiling[part[0]])) / UNIT
        if enumerable:
            value[part] = rank_sets(problem.fast, cap, useful, sets, part, ceiling, best)[part]
        else:
            chosen = sets[part[0]].tolist()
            fast = cap is problem.fast
            value[part[0]] = UNIT * (
                cut_ratio(cap, chosen, problem.switches)[0] if fast else _value(problem, chosen)[0]
            )
        best = max(best, value[part].max())
        if sorts and best >= ceiling[part[0]] * (1 - 1e-12):
            break
    return value, None


def _residual(problem: _Problem, chosen: list[int]) -> tuple[float, float]:
    """What stays for others: capacity between the free GPUs, then squares of free GPUs a host."""
    taken = set(chosen)
    left = [u for u in problem.free if u not in taken]
    lost = problem.cap[np.ix_(chosen, problem.free)].sum()
    lost += problem.cap[np.ix_(left, chosen)].sum()
    hosts: dict[str, int] = {}
    for u in left:
        hosts[problem.hosts[u]] = hosts.get(problem.hosts[u], 0) + 1
    return -float(lost), float(sum(count * count for count in hosts.values()))


def _value(problem: _Problem, chosen: Sequence[int]) -> tuple[float, bool]:
    """(bandwidth, over NVLink alone) of a set, GB/s."""
    key = tuple(sorted(chosen))
    known = problem.values.get(key)
    if known is not None:
        return known
    value = (0.0, False)
    if problem.islands.joins(key):
        value = (cut_ratio(problem.fast, key, problem.switches)[0], True)
    if not value[0] > 0:
        value = (cut_ratio(problem.cap, key, problem.switches)[0], False)
    if len(problem.values) < _MOST_VALUES:
        problem.values[key] = value
    return value


def _effective(
    fabric: Fabric,
    problem: _Problem,
    chosen: Sequence[int],
    deadline: Deadline,
) -> tuple[float, bool]:
    cap = integer(fabric.effective)
    if deadline.expired and len(chosen) > _LARGE:
        return port_bound(cap, list(chosen), problem.switches, len(chosen)), False
    if problem.islands.joins(chosen):
        fast = np.where(fabric.fast, cap, 0)
        found = cut_ratio(fast, chosen, problem.switches, deadline=deadline)
        if found[0] > 0:
            return found
    return cut_ratio(cap, chosen, problem.switches, deadline=deadline)


def _search(problem: _Problem, k: int, deadline: Deadline) -> list[int]:
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
        if deadline.expired:
            return winner or chosen
        key = (_value(problem, chosen)[0], *_residual(problem, chosen))
        if best is None or key > best:
            best, winner = key, chosen
    assert best is not None
    return _swapped(problem, winner, best, deadline)


def _swapped(
    problem: _Problem,
    chosen: list[int],
    key: tuple[float, float, float],
    deadline: Deadline,
    limit: int = 300,
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
                if tried >= limit or deadline.expired:
                    return chosen
    return chosen
