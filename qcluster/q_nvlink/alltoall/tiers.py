"""All-to-all over a fabric in seconds: one switch, several NVLink domains with NICs, or a mesh.

Two tiers: the bytes from domain s to domain t are cut into *lanes*, one for each NIC of s (matched
with a NIC of t), in proportion to the NICs' rates, so a round of the matching between domains keeps
every NIC busy whichever GPUs hold the data. Bytes that lie on another GPU than their lane's NIC are
handed over by NVLink in the window before their round, bytes for another GPU than the one at the
lane's end in the window after it. Rounds are cut into pieces of at most 1/64 of the whole and put
in order small, large, small, so that the first and the last hand-over, which nothing hides, are
short. Traffic inside domains fills what NVLink has left, and where that is too little what the
NICs have left. After FAST (Lei et al., 2025).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible
from qcluster.q_nvlink.alltoall.birkhoff import matchings
from qcluster.q_nvlink.alltoall.domains import Domains, least_seconds
from qcluster.q_nvlink.alltoall.lanes import Pieces, cut_pieces
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["Timed", "schedule_tiers"]

_PIECES = 64
_NIC_NOTE = ("part of the traffic inside domains goes over NICs, as NVLink alone is the slowest",)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """Transfers as arrays; GPUs are positions in ``fabric.gpus``.

    ``out`` and ``into`` are the GPUs whose NICs (or, in a mesh, which relays) a transfer uses, -1
    for none. Windows are the steps of the pipeline: ``windows`` (w,) seconds; ``step`` is the
    window in which a transfer crosses between domains, -1 for those inside one. ``local`` (w,
    domains) is the share of the traffic inside each domain that runs over NVLink in each window,
    ``over_nics`` what runs over NICs; such transfers have their own ends as ``out`` and ``into``.
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
    over_nics: Floats = field(default_factory=lambda: np.empty((0, 1)))
    baselines: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def schedule_tiers(traffic: Ints, fabric: Fabric) -> Timed:
    """Schedule whole bytes (n, n), diagonal 0, over the fabric's GPUs. See the module's text."""
    domains = Domains.of_fabric(fabric)
    if domains.count > 1:
        return _two_tiers(traffic, fabric, domains)
    return _one_switch(traffic, domains) if domains.switched else _mesh(traffic, fabric, domains)


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
        lower_bound_s=min(least_seconds(traffic, domains), makespan),
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
        lower_bound_s=min(least_seconds(traffic, domains), makespan),
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
    pieces = cut_pieces(traffic, domains, target, size)
    rate = float(domains.rate.min())
    steps = len(size)
    before, after = _hand_overs(pieces, len(of), steps)
    network, sent = _network_seconds(pieces, domains, size / rate, steps)
    windows = np.concatenate([[0.0], network, [0.0]])
    # Window w: rounds w - 1 on the network, hand-overs for round w and from round w - 2.
    busy = np.zeros((steps + 2, 2, len(of)))
    busy[:steps] += before
    busy[2:] += after
    windows = np.maximum(windows, (busy / domains.port).max(axis=(1, 2), initial=0.0))
    on_network = np.zeros((steps + 2, 2, len(of)))
    on_network[1:-1] = sent
    local, over, extra = _inside(traffic, domains, windows, busy, on_network)
    windows = np.concatenate([windows, extra])
    ends = np.cumsum(windows)
    starts = ends - windows
    early = np.where(pieces.source != pieces.out, pieces.step, pieces.step + 1)
    late = np.where(pieces.target != pieces.into, pieces.step + 2, pieces.step + 1)
    pairs, volume, nics = _inside_pairs(traffic, domains, over)
    makespan = float(windows.sum())
    return Timed(
        start=np.concatenate([starts[early], np.zeros(len(pairs))]),
        duration=np.concatenate([ends[late] - starts[early], np.full(len(pairs), makespan)]),
        source=np.concatenate([pieces.source, pairs[:, 0]]),
        target=np.concatenate([pieces.target, pairs[:, 1]]),
        out=np.concatenate([pieces.out, np.where(nics, pairs[:, 0], -1)]),
        into=np.concatenate([pieces.into, np.where(nics, pairs[:, 1], -1)]),
        volume=np.concatenate([pieces.volume, volume]),
        step=np.concatenate([pieces.step, np.full(len(pairs), -1, dtype=np.int64)]),
        windows=windows,
        local=local,
        over_nics=over,
        makespan_s=makespan,
        lower_bound_s=min(least_seconds(traffic, domains), makespan),
        tiers=2,
        baselines={"direct": _direct(traffic, domains)},
        notes=_NIC_NOTE if nics.any() else (),
    )


def _inside_pairs(
    traffic: Ints, domains: Domains, over: Floats
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Pairs inside domains (p, 2) with whole bytes (p,), and which of them go over NICs (p,)."""
    of = domains.of
    pairs = np.argwhere((of[:, None] == of[None, :]) & (traffic > 0))
    volume = traffic[tuple(pairs.T)]
    part = np.floor(volume * over.sum(axis=0)[of[pairs[:, 0]]]).astype(np.int64)
    kept, moved = volume > part, part > 0
    return (
        np.concatenate([pairs[kept], pairs[moved]]),
        np.concatenate([(volume - part)[kept], part[moved]]),
        np.repeat([False, True], [int(kept.sum()), int(moved.sum())]),
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


def _hand_overs(pieces: Pieces, n: int, steps: int) -> tuple[Floats, Floats]:
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


def _network_seconds(
    pieces: Pieces, domains: Domains, floor: Floats, steps: int
) -> tuple[Floats, Floats]:
    """Seconds of each round: its NICs' bytes over their rates, and the domains' uplinks.

    Also the bytes of every NIC, (steps, 2, gpus), sent and received.
    """
    n = len(domains.of)
    longest, every = floor.copy(), np.zeros((steps, 2, n))
    for way, gpu in enumerate((pieces.out, pieces.into)):
        flat = np.bincount(pieces.step * n + gpu, weights=pieces.volume, minlength=steps * n)
        every[:, way] = flat.reshape(steps, n)
        busy = every[:, way] / np.where(domains.nic > 0, domains.nic, np.inf)
        # Whole bytes: a lane may get one byte more than its share.
        longest = np.maximum(longest, busy.max(axis=1, initial=0.0))
    return longest, every


def _inside(
    traffic: Ints, domains: Domains, windows: Floats, busy: Floats, nic_busy: Floats
) -> tuple[Floats, Floats, Floats]:
    """Traffic inside domains spread over the windows' slack, NVLink's and the NICs'.

    In each window every pair of a domain sends the same share of its volume: as much as fits
    beside the hand-overs on every port that the domain's own traffic needs, and what NVLink does
    not carry by the end as fits beside the rounds on NICs and uplink. What is left takes a window
    more, over both at once. Returns the shares (w, domains) over NVLink and over NICs, and the
    seconds of the additional window, none or one.
    """
    of = domains.of
    same = np.where(of[:, None] == of[None, :], traffic, 0)
    need = np.stack([same.sum(axis=1), same.sum(axis=0)]).astype(np.float64)
    link = np.zeros((len(windows) + 1, domains.count))
    nic = np.zeros_like(link)
    extra = 0.0
    for s in range(domains.count):
        mine, rate = need[:, of == s], float(domains.rate[s])
        if not mine.any():
            continue
        used, sent = mine > 0, nic_busy[:, :, of == s]
        fast = (mine / domains.port[of == s])[used]
        slack = windows[:, None, None] - busy[:, :, of == s] / domains.port[of == s]
        room = (np.maximum(slack, 0.0)[:, used] / fast).min(axis=1)
        link[:-1, s] = room / max(float(room.sum()), 1.0)
        left = 1.0 - float(link[:-1, s].sum())
        per_nic = np.where(domains.nic[of == s] > 0, domains.nic[of == s], np.nan)
        slow = np.append((mine / per_nic)[used], mine.sum(axis=1).max() / max(rate, 1e-300))
        if left <= 0 or not np.isfinite(slow).all() or rate <= 0:
            extra = max(extra, left * float(fast.max()))
            link[-1, s] = max(left, 0.0)
            continue
        free = (windows[:, None, None] - sent / per_nic)[:, used]
        uplink = windows - sent.sum(axis=2).max(axis=1) / rate
        room = np.maximum(np.column_stack([free, uplink]), 0.0) / slow
        room = room.min(axis=1)
        nic[:-1, s] = room * min(1.0, left / max(float(room.sum()), 1e-300))
        left = max(0.0, left - float(nic[:-1, s].sum()))
        both = left / (1.0 / float(fast.max()) + 1.0 / float(slow.max()))
        link[-1, s], nic[-1, s] = both / float(fast.max()), both / float(slow.max())
        extra = max(extra, both)
    if extra <= 0:
        return link[:-1], nic[:-1], np.empty(0)
    return link, nic, np.array([extra])


def _direct(traffic: Ints, domains: Domains) -> float:
    """Seconds when every GPU sends over its own NIC, without spreading."""
    across = np.where(domains.of[:, None] != domains.of[None, :], traffic, 0)
    busy = np.maximum(across.sum(axis=1), across.sum(axis=0))
    own = np.divide(busy, domains.nic, out=np.zeros(len(busy)), where=domains.nic > 0)
    return float(own.max(initial=0.0))
