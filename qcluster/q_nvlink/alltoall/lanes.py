"""Which NICs carry which bytes from domain to domain, and in which round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.alltoall._lane_kernels import cut_lanes, fill_lanes, spread_block
from qcluster.q_nvlink.alltoall.domains import Domains

__all__ = ["Pieces", "cut_evenly", "cut_pieces"]

_EVEN = 16  # domains up to which hand-overs are spread evenly, at the price of more transfers
_STRETCH = 0.995  # of the bound that rounds may fill where something else takes longest

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pieces:
    """What crosses between domains: GPUs, volume and the round, as arrays of one length."""

    source: Ints
    target: Ints
    out: Ints
    into: Ints
    volume: Ints
    step: Ints


def cut_pieces(
    traffic: Ints, over_nics: Ints, domains: Domains, target: Ints, size: Ints, limit: float
) -> Pieces:
    """The bytes (n, n) between domains, cut into what each NIC carries in each round.

    target (rounds, domains) is where each domain sends, size (rounds,) how many bytes. ``limit`` is
    how many seconds the schedule should take; ``over_nics`` what NICs carry inside domains besides.
    """
    members = [np.flatnonzero(domains.of == s) for s in range(domains.count)]
    weight = [domains.nic[m] / max(domains.nic[m].sum(), 1.0) for m in members]
    most = _nic_shares(traffic, over_nics, domains, size, limit)
    found: list[NDArray[np.int64]] = []
    for s in range(domains.count):
        for t in range(domains.count):
            block = traffic[np.ix_(members[s], members[t])]
            steps = np.flatnonzero(target[:, s] == t)
            if s == t or not block.any():
                continue
            if domains.paired:
                out, into, share = _lanes(weight[s], weight[t])
                rows = fill_lanes(block.copy(), out, into, share)
            else:
                ends = most[0, members[s]], most[1, members[t]]
                rows, out, into, share = _spread(block, *ends, even=domains.count <= _EVEN)
            found.append(
                cut_lanes(rows, share, steps, size[steps], members[s], members[t], out, into)
            )
    return _pieces(found)


def cut_evenly(traffic: Ints, domains: Domains, shares: Floats, sizes: Floats) -> Pieces:
    """The bytes (n, n) between domains, cut into what each NIC carries in each piece of the whole.

    shares (2, n, n) are those of ``fluid.even_shares``, sizes (steps,) what each piece is of all.
    """
    members = [np.flatnonzero(domains.of == s) for s in range(domains.count)]
    steps = np.arange(len(sizes))
    size = np.rint(sizes * 2**40).astype(np.int64)
    found: list[NDArray[np.int64]] = []
    for s in range(domains.count):
        for t in range(domains.count):
            block = traffic[np.ix_(members[s], members[t])]
            if s == t or not block.any():
                continue
            left = block.sum(axis=1) @ shares[0][np.ix_(members[s], members[s])] / block.sum()
            right = block.sum(axis=0) @ shares[1][np.ix_(members[t], members[t])] / block.sum()
            rows, out, into, share = _spread(block, left, right, even=True)
            found.append(cut_lanes(rows, share, steps, size, members[s], members[t], out, into))
    return _pieces(found)


def _pieces(found: list[NDArray[np.int64]]) -> Pieces:
    table = np.concatenate(found) if found else np.empty((0, 6), dtype=np.int64)
    return Pieces(*(np.ascontiguousarray(table[:, c]) for c in range(6)))


def _nic_shares(
    traffic: Ints, over_nics: Ints, domains: Domains, size: Ints, limit: float
) -> Floats:
    """(2, gpus) the largest share of a round that each NIC may take, out and in.

    A round is as fast as its slowest NIC. Where the rounds are not what takes longest, they may be
    slower, and NICs may carry more of their own GPU's bytes and less of others'.
    """
    of, seconds = domains.of, float(size.sum()) / float(domains.rate.min())
    same = np.where(of[:, None] == of[None, :], traffic, 0)
    across = np.stack([(traffic - same).sum(axis=1), (traffic - same).sum(axis=0)])
    link = same - over_nics
    inside = np.stack([link.sum(axis=1), link.sum(axis=0)]).astype(np.float64)
    besides = np.stack([over_nics.sum(axis=1), over_nics.sum(axis=0)])
    even = domains.nic / np.bincount(of, domains.nic)[of]
    free = np.clip(1.0 - besides / np.maximum(domains.nic * limit, 1e-300), 0.0, 1.0)
    most = even * free * max(1.0, _STRETCH * limit / max(seconds, 1e-300))
    # Others' bytes come to a NIC by NVLink: as far as that port has time for them.
    own = inside + np.maximum(across - domains.nic * limit, 0.0)
    spare = np.maximum(_STRETCH * domains.port * limit - own, 0.0)[::-1]
    total = np.stack([np.bincount(of, side)[of] for side in across])
    most = np.minimum(most, (across + spare) / np.maximum(total, 1.0))
    total = np.stack([np.bincount(of, side)[of] for side in most])
    most *= np.maximum(1.0, 1.0 / np.maximum(total, 1e-300))
    return np.where(total > 0, most, even)


def _spread(
    block: Ints, left: Floats, right: Floats, *, even: bool
) -> tuple[Ints, Ints, Ints, Floats]:
    """Rows (lane, source, target, bytes) and the lanes' ends and shares, any NIC with any other.

    ``even``: a lane a row, so that every pair's hand-overs are spread over all rounds.
    """
    rows = spread_block(block, left, right)
    first = np.ones(len(rows), dtype=np.bool_)
    if not even:
        first[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    lane = np.cumsum(first) - 1
    share = np.bincount(lane, rows[:, 4]) / rows[:, 4].sum()
    table = np.column_stack([lane, rows[:, 2:]])
    return table, rows[first, 0], rows[first, 1], share


def _lanes(a: Floats, b: Floats) -> tuple[Ints, Ints, Floats]:
    """NICs of two domains side by side: cut both ranges of shares at all boundaries of either."""
    edges = np.unique(np.round(np.concatenate([[0.0], np.cumsum(a), np.cumsum(b)]), 12))
    edges = edges[edges <= 1.0]
    middle, share = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    out = np.minimum(np.searchsorted(np.cumsum(a), middle), len(a) - 1)
    into = np.minimum(np.searchsorted(np.cumsum(b), middle), len(b) - 1)
    return out.astype(np.int64), into.astype(np.int64), share / share.sum()
