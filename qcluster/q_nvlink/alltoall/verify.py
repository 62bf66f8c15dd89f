"""An independent check of timed all-to-all schedules, from traffic and fabric alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import SolverFailed
from qcluster.q_nvlink.alltoall.domains import Domains
from qcluster.q_nvlink.alltoall.tiers import Timed
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["verify_timed"]

_ROUNDING = 1e-9


def verify_timed(traffic: NDArray[np.int64], fabric: Fabric, timed: Timed) -> None:
    """Raise SolverFailed unless every byte arrives and no port does more than it can in a window.

    Windows are checked one by one: NIC bytes of the round that crosses in it, and NVLink bytes of
    hand-overs before and after plus the share of the traffic inside domains.
    """
    sent = np.zeros_like(traffic)
    np.add.at(sent, (timed.source, timed.target), timed.volume)
    if not np.array_equal(sent, traffic):
        i, j = np.argwhere(sent != traffic)[0].tolist()
        raise SolverFailed(f"{sent[i, j]} bytes go from {i} to {j}, wanted {traffic[i, j]}")
    if not np.isclose(timed.windows.sum(), timed.makespan_s):
        raise SolverFailed("the windows do not add up to the makespan")
    domains = Domains.of_fabric(fabric)
    if timed.tiers == 2:
        _verify_windows(domains, timed)
    elif domains.switched:
        _verify_one_switch(domains, timed)
    else:
        _verify_mesh(fabric, timed)


def _verify_windows(domains: Domains, timed: Timed) -> None:
    n, of = len(domains.of), domains.of
    windows = len(timed.windows)
    nic = np.zeros((2, windows, n))
    link = np.zeros((2, windows, n))
    across = timed.step >= 0
    if (of[timed.source] != of[timed.target])[~across].any():
        raise SolverFailed("bytes cross between domains without a round")
    for i, j, p, q, volume, step in zip(
        *(a[across].tolist() for a in (timed.source, timed.target, timed.out, timed.into)),
        timed.volume[across].tolist(),
        timed.step[across].tolist(),
        strict=True,
    ):
        if of[i] != of[p] or of[j] != of[q]:
            raise SolverFailed("a hand-over leaves its domain")
        nic[0, step + 1, p] += volume
        nic[1, step + 1, q] += volume
        if i != p:
            link[0, step, i] += volume
            link[1, step, p] += volume
        if j != q:
            link[0, step + 2, q] += volume
            link[1, step + 2, j] += volume
    for by_nic, shares, used in ((False, timed.local, link), (True, timed.over_nics, nic)):
        some = ~across & ((timed.out >= 0) == by_nic)
        busy = np.zeros((2, n))
        np.add.at(busy[0], timed.source[some], timed.volume[some])
        np.add.at(busy[1], timed.target[some], timed.volume[some])
        talking = np.unique(of[busy.any(axis=0)])
        if shares.size and not np.allclose(shares.sum(axis=0)[talking], 1.0):
            raise SolverFailed("traffic inside a domain is not all sent")
        for w, share in enumerate(shares):
            used[:, w] += share[of] * busy
    _verify_uplinks(nic, domains, timed)
    room = timed.windows[None, :, None] * (1 + _ROUNDING) + _ROUNDING * timed.makespan_s
    if (nic > room * domains.nic).any():
        raise SolverFailed("a NIC sends more than it can in a window")
    if (link > room * domains.port).any():
        raise SolverFailed("an NVLink port sends more than it can in a window")


def _verify_uplinks(nic: NDArray[np.float64], domains: Domains, timed: Timed) -> None:
    """What all NICs of a domain do in a window, over what it can exchange with the others."""
    total = np.stack([nic[:, :, domains.of == s].sum(axis=2) for s in range(domains.count)], axis=2)
    room = timed.windows[None, :, None] * (1 + _ROUNDING) + _ROUNDING * timed.makespan_s
    if (total > room * domains.rate).any():
        raise SolverFailed("an uplink carries more than it can in a window")


def _verify_one_switch(domains: Domains, timed: Timed) -> None:
    rate = timed.volume / np.maximum(timed.duration, 1e-300)
    for gpu in (timed.source, timed.target):
        order = np.lexsort((timed.start, gpu))
        same = gpu[order][1:] == gpu[order][:-1]
        ends = (timed.start + timed.duration)[order][:-1]
        if (ends > timed.start[order][1:] + _ROUNDING * timed.makespan_s)[same].any():
            raise SolverFailed("a port does two things at once")
        if (rate > domains.port[gpu] * (1 + _ROUNDING)).any():
            raise SolverFailed("a transfer is faster than its port")


def _verify_mesh(fabric: Fabric, timed: Timed) -> None:
    cap = 1e9 * fabric.nominal[np.ix_(fabric.gpu_index, fabric.gpu_index)]
    loads = np.zeros_like(cap)
    for i, g, j, volume in zip(
        timed.source.tolist(),
        timed.out.tolist(),
        timed.target.tolist(),
        timed.volume.tolist(),
        strict=True,
    ):
        hops = [(i, j)] if g < 0 else [(i, g), (g, j)]
        for hop in hops:
            loads[hop] += volume
    if (loads > cap * timed.makespan_s * (1 + _ROUNDING)).any():
        raise SolverFailed("a link carries more than it can in the makespan")
