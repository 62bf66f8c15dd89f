"""All-to-all over a fabric in seconds: one switch, several NVLink domains with NICs, or a mesh.

Two tiers: the bytes from domain s to domain t are cut into *lanes*, one for each NIC of s (matched
with a NIC of t), in proportion to the NICs' rates, so a round of the matching between domains keeps
every NIC busy whichever GPUs hold the data. Bytes that lie on another GPU than their lane's NIC are
handed over by NVLink in the window before their round, bytes for another GPU than the one at the
lane's end in the window after it. Rounds are cut into pieces of at most 1/64 of the whole and put
in order small, large, small, so that the first and the last hand-over, which nothing hides, are
short. Traffic inside domains fills what NVLink has left. After FAST (Lei et al., 2025).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible
from qcluster.q_nvlink._kernels import max_flow
from qcluster.q_nvlink.alltoall._kernels import cut_lanes, fill_lanes
from qcluster.q_nvlink.alltoall.birkhoff import matchings
from qcluster.q_nvlink.cuts import integer
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["Domains", "Timed", "schedule_tiers"]

_PIECES = 64

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """Transfers as arrays; GPUs are positions in ``fabric.gpus``.

    ``out`` and ``into`` are the GPUs whose NICs (or, in a mesh, which relays) a transfer uses, -1
    for none. Windows are the steps of the pipeline: ``windows`` (w,) seconds; ``step`` is the
    window in which a transfer crosses between domains, -1 for those inside one. ``local`` (w,
    domains) is the share of the traffic inside each domain that runs in each window.
    """

    start: Floats
    duration: Floats
    source: Ints
    target: Ints
    out: Ints
    into: Ints
    volume: Ints
    step: Ints
    windows: Floats
    local: Floats
    makespan_s: float
    lower_bound_s: float
    tiers: int
    baselines: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domains:
    """Groups of GPUs joined by NVLink: ``of`` (gpus,), and rates in bytes a second.

    ``port`` is each GPU's NVLink rate and ``nic`` what it has besides, one direction; ``rate``
    (domains,) is what a whole domain can exchange with the others.
    """

    of: Ints
    port: Floats
    nic: Floats
    rate: Floats
    switched: bool

    @property
    def count(self) -> int:
        """Number of domains."""
        return len(self.rate)

    @classmethod
    def of_fabric(cls, fabric: Fabric) -> Domains:
        """From the fabric's fast links; a fabric without any is one domain over what it has."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import connected_components

        cap, fast = fabric.nominal, fabric.fast
        if not fast.any():
            fast = cap > 0
        _, label = connected_components(csr_matrix(fast), connection="strong")
        _, of = np.unique(label[fabric.gpu_index], return_inverse=True)
        gpus = fabric.gpu_index
        quick, slow = np.where(fast, cap, 0.0), np.where(fast, 0.0, cap)
        # A port works both ways; the slower direction counts.
        port = 1e9 * np.minimum(quick.sum(axis=1), quick.sum(axis=0))[gpus]
        nic = 1e9 * np.minimum(slow.sum(axis=1), slow.sum(axis=0))[gpus]
        count = int(of.max()) + 1
        rate = np.full(count, np.inf)
        if count > 1:
            rate = np.array([_uplink(slow, gpus, of, s) for s in range(count)])
        return cls(of, port, nic, rate, switched=not quick[np.ix_(gpus, gpus)].any())


def _uplink(slow: Floats, gpus: Ints, of: Ints, s: int) -> float:
    """Bytes a second between domain s and all others: the smaller of both directions' cuts."""
    n = len(slow)
    graph = np.zeros((n + 2, n + 2), dtype=np.int64)
    graph[:n, :n] = integer(slow)
    inside, outside = gpus[of == s], gpus[of != s]
    far = np.int64(2**40)
    graph[n, inside], graph[outside, n + 1] = far, far
    there = int(max_flow(graph, n, n + 1)[0])
    graph[n, inside], graph[outside, n + 1] = 0, 0
    graph[n, outside], graph[inside, n + 1] = far, far
    back = int(max_flow(graph, n, n + 1)[0])
    return min(there, back) * 1e6


def schedule_tiers(traffic: Ints, fabric: Fabric) -> Timed:
    """Schedule whole bytes (n, n), diagonal 0, over the fabric's GPUs. See the module's text."""
    domains = Domains.of_fabric(fabric)
    if domains.count > 1:
        return _two_tiers(traffic, fabric, domains)
    return _one_switch(traffic, domains) if domains.switched else _mesh(traffic, fabric, domains)


def _bound(traffic: Ints, domains: Domains) -> float:
    """Seconds that no schedule beats: every GPU's ports and every domain's uplink, both ways."""
    ports = domains.port + domains.nic
    found = [0.0]
    for volume in (traffic, traffic.T):
        busy = volume.sum(axis=1)
        found.append(float(np.divide(busy, ports, out=np.zeros(len(busy)), where=busy > 0).max()))
        across = np.where(domains.of[:, None] != domains.of[None, :], volume, 0).sum(axis=1)
        total = np.bincount(domains.of, weights=across, minlength=domains.count)
        found.append(float(np.divide(total, domains.rate).max()))
    return max(found)


def _one_switch(traffic: Ints, domains: Domains) -> Timed:
    """Matchings at the rate of the slowest port; equal ports meet the bound exactly."""
    rate = float(domains.port.min())
    found = matchings(traffic)
    ends = np.cumsum(found.duration)
    which, source = np.nonzero(found.target >= 0)
    volume = found.duration[which]
    none = np.full(len(which), -1, dtype=np.int64)
    makespan = found.length / rate
    return Timed(
        start=(ends[which] - volume) / rate,
        duration=volume / rate,
        source=source,
        target=found.target[which, source].astype(np.int64),
        out=none,
        into=none,
        volume=volume,
        step=none,
        windows=found.duration / rate,
        local=np.empty((0, 1)),
        makespan_s=makespan,
        lower_bound_s=min(_bound(traffic, domains), makespan),
        tiers=1,
    )


def _mesh(traffic: Ints, fabric: Fabric, domains: Domains) -> Timed:
    """No switch: all pairs at once, direct or over the least loaded relay, as long as it takes."""
    cap = 1e9 * fabric.nominal[np.ix_(fabric.gpu_index, fabric.gpu_index)]
    pairs = np.argwhere(traffic > 0)
    order = np.argsort(-traffic[tuple(pairs.T)], kind="stable")
    loads = np.zeros_like(cap)
    relay = np.full(len(pairs), -1, dtype=np.int64)
    for position in order:
        i, j = pairs[position]
        volume = traffic[i, j]
        if cap[i, j] > 0:
            loads[i, j] += volume
            continue
        with np.errstate(divide="ignore"):
            after = np.maximum((loads[i] + volume) / cap[i], (loads[:, j] + volume) / cap[:, j])
        g = int(np.argmin(after))
        if not np.isfinite(after[g]):
            a, b = fabric.gpus[i], fabric.gpus[j]
            raise Infeasible(f"neither a link nor a relay joins {a} and {b}", field="traffic")
        relay[position] = g
        loads[i, g] += volume
        loads[g, j] += volume
    busy = np.divide(loads, cap, out=np.zeros_like(loads), where=cap > 0)
    makespan = float(busy.max(initial=0.0))
    count = len(pairs)
    return Timed(
        start=np.zeros(count),
        duration=np.full(count, makespan),
        source=pairs[:, 0],
        target=pairs[:, 1],
        out=relay,
        into=np.full(count, -1, dtype=np.int64),
        volume=traffic[tuple(pairs.T)],
        step=np.full(count, -1, dtype=np.int64),
        windows=np.array([makespan]),
        local=np.empty((0, 1)),
        makespan_s=makespan,
        lower_bound_s=min(_bound(traffic, domains), makespan),
        tiers=1,
        notes=("a mesh without switch: pairs without a link go over one relay, all at once",),
    )


def _two_tiers(traffic: Ints, fabric: Fabric, domains: Domains) -> Timed:
    of, count = domains.of, domains.count
    across = np.zeros((count, count), dtype=np.int64)
    np.add.at(across, (of[:, None], of[None, :]), traffic)
    np.fill_diagonal(across, 0)
    _check_joined(across, fabric, domains)
    target, size = _rounds(across)
    pieces = _pieces(traffic, domains, target, size)
    rate = float(domains.rate.min())
    steps = len(size)
    before, after = _hand_overs(pieces, len(of), steps)
    network = _network_seconds(pieces, domains, size / rate, steps)
    windows = np.concatenate([[0.0], network, [0.0]])
    # Window w: rounds w - 1 on the network, hand-overs for round w and from round w - 2.
    busy = np.zeros((steps + 2, 2, len(of)))
    busy[:steps] += before
    busy[2:] += after
    windows = np.maximum(windows, (busy / domains.port).max(axis=(1, 2), initial=0.0))
    local, extra = _inside(traffic, domains, windows, busy)
    windows = np.concatenate([windows, extra])
    ends = np.cumsum(windows)
    starts = ends - windows
    early = np.where(pieces.source != pieces.out, pieces.step, pieces.step + 1)
    late = np.where(pieces.target != pieces.into, pieces.step + 2, pieces.step + 1)
    inside = np.argwhere((of[:, None] == of[None, :]) & (traffic > 0))
    none = np.full(len(inside), -1, dtype=np.int64)
    makespan = float(windows.sum())
    return Timed(
        start=np.concatenate([starts[early], np.zeros(len(inside))]),
        duration=np.concatenate([ends[late] - starts[early], np.full(len(inside), makespan)]),
        source=np.concatenate([pieces.source, inside[:, 0]]),
        target=np.concatenate([pieces.target, inside[:, 1]]),
        out=np.concatenate([pieces.out, none]),
        into=np.concatenate([pieces.into, none]),
        volume=np.concatenate([pieces.volume, traffic[tuple(inside.T)]]),
        step=np.concatenate([pieces.step, none]),
        windows=windows,
        local=local,
        makespan_s=makespan,
        lower_bound_s=min(_bound(traffic, domains), makespan),
        tiers=2,
        baselines={"direct": _direct(traffic, domains)},
    )


def _check_joined(across: Ints, fabric: Fabric, domains: Domains) -> None:
    busy = (across.sum(axis=0) + across.sum(axis=1)) > 0
    if (busy & (domains.rate <= 0)).any():
        s = int(np.flatnonzero(busy & (domains.rate <= 0))[0])
        t = int(np.flatnonzero(across[s] + across[:, s])[0])
        a, b = (fabric.gpus[int(np.flatnonzero(domains.of == d)[0])] for d in (s, t))
        raise Infeasible(f"nothing joins the domains of {a} and {b}", field="traffic")


def _rounds(across: Ints) -> tuple[Ints, Ints]:
    """Matchings between domains, cut into pieces and put in order small, large, small."""
    found = matchings(across, few=True)
    most = max(1, found.length // _PIECES)
    parts = -(-found.duration // most)
    which = np.repeat(np.arange(len(parts)), parts)
    first = np.cumsum(parts) - parts
    place = np.arange(len(which)) - np.repeat(first, parts)
    # Whole bytes: part k of m gets floor((k + 1) d / m) - floor(k d / m).
    d, m = found.duration[which], parts[which]
    size = (place + 1) * d // m - place * d // m
    order = np.argsort(size, kind="stable")
    order = np.concatenate([order[::2], order[1::2][::-1]])
    return found.target[which][order].astype(np.int64), size[order]


@dataclass(frozen=True)
class _Pieces:
    """What crosses between domains: GPUs, volume and the round, as arrays of one length."""

    source: Ints
    target: Ints
    out: Ints
    into: Ints
    volume: Ints
    step: Ints


def _pieces(traffic: Ints, domains: Domains, target: Ints, size: Ints) -> _Pieces:
    members = [np.flatnonzero(domains.of == s) for s in range(domains.count)]
    weight = [domains.nic[m] / max(domains.nic[m].sum(), 1.0) for m in members]
    found: list[NDArray[np.int64]] = []
    for s in range(domains.count):
        for t in range(domains.count):
            block = traffic[np.ix_(members[s], members[t])]
            steps = np.flatnonzero(target[:, s] == t)
            if s == t or not block.any():
                continue
            out, into, share = _lanes(weight[s], weight[t])
            rows = fill_lanes(block.copy(), out, into, share)
            found.append(
                cut_lanes(rows, share, steps, size[steps], members[s], members[t], out, into)
            )
    table = np.concatenate(found) if found else np.empty((0, 6), dtype=np.int64)
    return _Pieces(*(np.ascontiguousarray(table[:, c]) for c in range(6)))


def _lanes(a: Floats, b: Floats) -> tuple[Ints, Ints, Floats]:
    """NICs of two domains side by side: cut both ranges of shares at all boundaries of either."""
    edges = np.unique(np.round(np.concatenate([[0.0], np.cumsum(a), np.cumsum(b)]), 12))
    edges = edges[edges <= 1.0]
    middle, share = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    out = np.minimum(np.searchsorted(np.cumsum(a), middle), len(a) - 1)
    into = np.minimum(np.searchsorted(np.cumsum(b), middle), len(b) - 1)
    return out.astype(np.int64), into.astype(np.int64), share / share.sum()


def _hand_overs(pieces: _Pieces, n: int, steps: int) -> tuple[Floats, Floats]:
    """NVLink bytes before and after each round: (steps, 2, gpus), sent and received."""

    def count(step: Ints, gpu: Ints, volume: Ints) -> Floats:
        flat = np.bincount(step * n + gpu, weights=volume, minlength=steps * n)
        return flat.reshape(steps, n).astype(np.float64)

    move = pieces.source != pieces.out
    step, volume = pieces.step[move], pieces.volume[move]
    before = np.stack(
        [count(step, pieces.source[move], volume), count(step, pieces.out[move], volume)], axis=1
    )
    move = pieces.target != pieces.into
    step, volume = pieces.step[move], pieces.volume[move]
    after = np.stack(
        [count(step, pieces.into[move], volume), count(step, pieces.target[move], volume)], axis=1
    )
    return before, after


def _network_seconds(pieces: _Pieces, domains: Domains, floor: Floats, steps: int) -> Floats:
    """Seconds of each round: its NICs' bytes over their rates, and the domains' uplinks."""
    n = len(domains.of)
    longest = floor.copy()
    for gpu in (pieces.out, pieces.into):
        flat = np.bincount(pieces.step * n + gpu, weights=pieces.volume, minlength=steps * n)
        busy = flat.reshape(steps, n) / np.where(domains.nic > 0, domains.nic, np.inf)
        # Whole bytes: a lane may get one byte more than its share.
        longest = np.maximum(longest, busy.max(axis=1, initial=0.0))
    return longest


def _inside(
    traffic: Ints, domains: Domains, windows: Floats, busy: Floats
) -> tuple[Floats, Floats]:
    """Traffic inside domains spread over the windows' slack; and a window more where it lacks.

    In each window every pair of a domain sends the same share of its volume: as much as fits
    beside the hand-overs on every port that the domain's own traffic needs.
    """
    of = domains.of
    same = np.where(of[:, None] == of[None, :], traffic, 0)
    need = np.stack([same.sum(axis=1), same.sum(axis=0)]) / domains.port
    slack = np.maximum(windows[:, None, None] - busy / domains.port, 0.0)
    share = np.zeros((len(windows) + 1, domains.count))
    extra = 0.0
    for s in range(domains.count):
        want = need[:, of == s]
        if not want.any():
            continue
        wanted = want > 0
        room = (slack[:, :, of == s][:, wanted] / want[wanted]).min(axis=1)
        total = float(room.sum())
        share[:-1, s] = room / max(total, 1.0)
        share[-1, s] = max(0.0, 1.0 - total)
        extra = max(extra, float(share[-1, s] * want.max()))
    if extra == 0:
        return share[:-1], np.empty(0)
    return share, np.array([extra])


def _direct(traffic: Ints, domains: Domains) -> float:
    """Seconds when every GPU sends over its own NIC, without spreading."""
    across = np.where(domains.of[:, None] != domains.of[None, :], traffic, 0)
    busy = np.maximum(across.sum(axis=1), across.sum(axis=0))
    own = np.divide(busy, domains.nic, out=np.zeros(len(busy)), where=domains.nic > 0)
    return float(own.max(initial=0.0))
