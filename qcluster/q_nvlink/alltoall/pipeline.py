"""All-to-all over several NVLink domains: NVLink, network, NVLink, all three overlapping.

Two ways are tried, the second where the first ends more than ``_NEAR`` above the bound.

*Matchings.* The bytes from domain s to domain t are cut into *lanes*, one for each NIC of s and a
NIC of t, in proportion to the NICs' rates, so a round of the matching between domains keeps
every NIC busy whichever GPUs hold the data. Bytes that lie on another GPU than their lane's NIC are
handed over by NVLink in the window before their round, bytes for another GPU than the one at the
lane's end in the window after it. Rounds are cut into pieces of at most 1/64 of the whole and put
in order small, large, small, so that the first and the last hand-over, which nothing hides, are
short. After FAST (Lei et al., 2025).

*Even.* All domains talk to all at once, each NIC at a constant share (``fluid``), in pieces that
grow from tiny ones and shrink to them again. Several senders then share a NIC at a time, each at
its part of the rate.

Traffic inside domains fills what NVLink has left; what a port cannot carry at all goes over NICs
(``overflow``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible
from qcluster.q_nvlink.alltoall.birkhoff import matchings
from qcluster.q_nvlink.alltoall.domains import Domains, least_seconds
from qcluster.q_nvlink.alltoall.fluid import even_shares, ramp
from qcluster.q_nvlink.alltoall.lanes import Pieces, cut_evenly, cut_pieces
from qcluster.q_nvlink.alltoall.overflow import split_inside
from qcluster.q_nvlink.alltoall.timed import Timed
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["two_tiers"]

_PIECES = 64
_NEAR = 1.01  # times the bound: good enough to look no further
_FINE = 20_000  # pairs of GPUs up to which the even way cuts each into many pieces
_NEAR_COARSE = 1.02  # beyond that: as it takes up to a second there
_TARGETS = (1.0, 1.01, 1.03, 1.06)  # times the bound that the even way is sized for
_NIC_NOTE = ("part of the traffic inside domains goes over NICs, as NVLink alone is the slowest",)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def two_tiers(traffic: Ints, fabric: Fabric, domains: Domains) -> Timed:
    """Schedule whole bytes (n, n) over domains with NICs. See the module's text.

    Raises Infeasible when nothing joins two domains that talk.
    """
    across = np.zeros((domains.count, domains.count), dtype=np.int64)
    np.add.at(across, (domains.of[:, None], domains.of[None, :]), traffic)
    np.fill_diagonal(across, 0)
    _check_joined(across, fabric, domains)
    limit = least_seconds(traffic, domains)
    best = _by_matchings(traffic, across, domains, limit)
    fine = bool(np.count_nonzero(traffic) <= _FINE)
    near = _NEAR if fine else _NEAR_COARSE
    for target in () if domains.paired else _TARGETS:
        if best.makespan_s <= near * limit:
            break
        found = _evenly(traffic, domains, limit, target, ramp(fine=fine))
        best = min(best, found, key=lambda timed: timed.makespan_s)
    return best


def _by_matchings(traffic: Ints, across: Ints, domains: Domains, limit: float) -> Timed:
    inside = split_inside(traffic, domains, limit)
    target, size = _rounds(across)
    pieces = cut_pieces(traffic, inside[1], domains, target, size, limit)
    return _timed(traffic, inside, domains, pieces, size / float(domains.rate.min()), limit)


def _evenly(traffic: Ints, domains: Domains, limit: float, target: float, sizes: Floats) -> Timed:
    inside = split_inside(traffic, domains, target * limit)
    shares = even_shares(traffic, inside[1], domains, target * limit)
    pieces = cut_evenly(traffic, domains, shares, sizes)
    return _timed(traffic, inside, domains, pieces, sizes * target * limit, limit)


def _timed(
    traffic: Ints,
    inside: tuple[Ints, Ints],
    domains: Domains,
    pieces: Pieces,
    floor: Floats,
    limit: float,
) -> Timed:
    """The pipeline's windows and everything's times; ``floor`` (steps,) seconds a round takes."""
    count, steps = len(domains.of), len(floor)
    before, after = _hand_overs(pieces, count, steps)
    network, sent = _network_seconds(pieces, domains, floor, steps)
    windows = np.concatenate([[0.0], network, [0.0]])
    # Window w: rounds w - 1 on the network, hand-overs for round w and from round w - 2.
    busy = np.zeros((steps + 2, 2, count))
    busy[:steps] += before
    busy[2:] += after
    windows = np.maximum(windows, (busy / domains.port).max(axis=(1, 2), initial=0.0))
    on_network = np.zeros((steps + 2, 2, count))
    on_network[1:-1] = sent
    local, over, extra = _inside(inside, domains, windows, busy, on_network)
    windows = np.concatenate([windows, extra])
    ends = np.cumsum(windows)
    starts = ends - windows
    early = np.where(pieces.source != pieces.out, pieces.step, pieces.step + 1)
    late = np.where(pieces.target != pieces.into, pieces.step + 2, pieces.step + 1)
    link, nics = (np.argwhere(part > 0) for part in inside)
    pairs = np.concatenate([link, nics])
    none = np.full(len(link), -1, dtype=np.int64)
    makespan = float(windows.sum())
    return Timed(
        start=np.concatenate([starts[early], np.zeros(len(pairs))]),
        duration=np.concatenate([ends[late] - starts[early], np.full(len(pairs), makespan)]),
        source=np.concatenate([pieces.source, pairs[:, 0]]),
        target=np.concatenate([pieces.target, pairs[:, 1]]),
        out=np.concatenate([pieces.out, none, nics[:, 0]]),
        into=np.concatenate([pieces.into, none, nics[:, 1]]),
        volume=np.concatenate([pieces.volume, inside[0][tuple(link.T)], inside[1][tuple(nics.T)]]),
        step=np.concatenate([pieces.step, np.full(len(pairs), -1, dtype=np.int64)]),
        windows=windows,
        local=local,
        over_nics=over,
        makespan_s=makespan,
        lower_bound_s=min(limit, makespan),
        tiers=2,
        baselines={"direct": _direct(traffic, domains)},
        notes=_NIC_NOTE if len(nics) else (),
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
    by = np.argsort(domains.of, kind="stable")
    first = np.searchsorted(domains.of[by], np.arange(domains.count))
    for way, gpu in enumerate((pieces.out, pieces.into)):
        flat = np.bincount(pieces.step * n + gpu, weights=pieces.volume, minlength=steps * n)
        every[:, way] = flat.reshape(steps, n)
        busy = every[:, way] / np.where(domains.nic > 0, domains.nic, np.inf)
        # Whole bytes: a lane may get one byte more than its share.
        longest = np.maximum(longest, busy.max(axis=1, initial=0.0))
        total = np.add.reduceat(every[:, way][:, by], first, axis=1)
        longest = np.maximum(longest, (total / domains.rate).max(axis=1, initial=0.0))
    return longest, every


def _inside(
    inside: tuple[Ints, Ints], domains: Domains, windows: Floats, busy: Floats, nic_busy: Floats
) -> tuple[Floats, Floats, Floats]:
    """Traffic inside domains spread over the windows' slack, NVLink's and the NICs'.

    ``inside`` is what goes over NVLink and what over NICs. In each window every pair of a domain
    sends the same share of either: as much as fits beside the hand-overs on every port, and beside
    the rounds on every NIC and the uplink, that the domain's own traffic needs. What is left takes
    a window more. Returns the shares (w, domains) over NVLink and over NICs, and the seconds of the
    additional window, none or one.
    """
    of = domains.of
    need = [np.stack([part.sum(axis=1), part.sum(axis=0)]).astype(np.float64) for part in inside]
    rates = (domains.port, domains.nic)
    shares = np.zeros((2, len(windows) + 1, domains.count))
    extra = 0.0
    for s in range(domains.count):
        here = of == s
        for layer, used_up in enumerate((busy, nic_busy)):
            mine = need[layer][:, here]
            if not mine.any():
                continue
            used, rate = mine > 0, rates[layer][here]
            full = (mine / rate)[used]
            slack = windows[:, None, None] - used_up[:, :, here] / np.maximum(rate, 1e-300)
            room = (np.maximum(slack, 0.0)[:, used] / full).min(axis=1)
            longest = float(full.max())
            if layer == 1:
                uplink, total = float(domains.rate[s]), float(mine[0].sum())
                free = windows - used_up[:, :, here].sum(axis=2).max(axis=1) / uplink
                room = np.minimum(room, np.maximum(free, 0.0) * uplink / total)
                longest = max(longest, total / uplink)
            shares[layer, :-1, s] = room / max(float(room.sum()), 1.0)
            shares[layer, -1, s] = max(0.0, 1.0 - float(shares[layer, :-1, s].sum()))
            extra = max(extra, float(shares[layer, -1, s]) * longest)
    if extra <= 0:
        return shares[0, :-1], shares[1, :-1], np.empty(0)
    return shares[0], shares[1], np.array([extra])


def _direct(traffic: Ints, domains: Domains) -> float:
    """Seconds when every GPU sends over its own NIC, without spreading."""
    across = np.where(domains.of[:, None] != domains.of[None, :], traffic, 0)
    busy = np.maximum(across.sum(axis=1), across.sum(axis=0))
    own = np.divide(busy, domains.nic, out=np.zeros(len(busy)), where=domains.nic > 0)
    return float(own.max(initial=0.0))
