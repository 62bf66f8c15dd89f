"""Which NIC carries which share when all pairs of domains talk at once, evenly over the time.

Rounds of a matching between domains keep senders apart, but a GPU's NIC then serves one domain at
a time: where one GPU has more to do than its peers, its NIC idles while others are overloaded.
Spread over the whole time instead, every NIC can be kept at the share that is best for it. That
share follows in closed form: a GPU's bytes leave by its own NIC as far as that has time, and the
rest by NVLink over peers' NICs in proportion to what both these and NVLink have left.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.alltoall.domains import Domains

__all__ = ["even_shares", "ramp"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_GROWTH = 1.25  # from piece to piece; a hand-over takes at most about as much less than its piece
_FIRST = 1 / 1000  # of the whole
_LARGEST = (1 / 40, 1 / 100)  # coarse and fine: what hand-overs may lag behind costs one such piece


def ramp(*, fine: bool = True) -> Floats:
    """Shares of the pieces of the pipeline: growing, level, shrinking; they add up to 1."""
    largest = _LARGEST[fine]
    steps = int(math.log(largest / _FIRST) / math.log(_GROWTH))
    up = _FIRST * _GROWTH ** np.arange(steps)
    level = np.full(max(1, round((1.0 - 2.0 * up.sum()) / largest)), largest)
    found = np.concatenate([up, level, up[::-1]])
    return np.asarray(found / found.sum())


def even_shares(traffic: Ints, over_nics: Ints, domains: Domains, seconds: float) -> Floats:
    """(2, n, n): the part of GPU i's bytes that the NIC of p carries, out (0) and in (1).

    Rows of ``[0]`` and of ``[1]`` add up to 1. ``over_nics`` is what the NICs carry inside domains.
    Where the room for hand-overs in ``seconds`` does not suffice, it is exceeded in proportion.
    """
    of = domains.of
    same = of[:, None] == of[None, :]
    across = np.where(same, 0, traffic)
    by_link = np.where(same, traffic, 0) - over_nics
    found = np.zeros((2, len(of), len(of)))
    own = np.stack([across.sum(axis=1), across.sum(axis=0)]).astype(np.float64)
    besides = np.stack([over_nics.sum(axis=1), over_nics.sum(axis=0)])
    cap = np.maximum(domains.nic * seconds - besides, 0.0)
    # Heavy GPUs hand their own bytes over (out) or get them handed (in), by the same port.
    busy = np.stack([by_link.sum(axis=1), by_link.sum(axis=0)]) + np.maximum(own - cap, 0.0)
    spare = np.maximum(domains.port * seconds - busy, 0.0)[::-1]
    for way in (0, 1):
        keep = np.minimum(own[way], cap[way])
        room = np.minimum(cap[way] - keep, spare[way])
        part = np.divide(keep, own[way], out=np.ones(len(of)), where=own[way] > 0)
        for s in range(domains.count):
            here = np.flatnonzero(of == s)
            others = room[here] if room[here].sum() > 0 else np.maximum(domains.nic[here], 1e-300)
            shares = np.outer(1.0 - part[here], others / others.sum())
            shares[np.diag_indices(len(here))] += part[here]
            found[way][np.ix_(here, here)] = shares
    return found
