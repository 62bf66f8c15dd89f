"""Groups of GPUs that NVLink joins, what leaves them, and how long an all-to-all takes at least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink._kernels import max_flow
from qcluster.q_nvlink.cuts import integer
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["Domains", "least_seconds"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Domains:
    """Groups of GPUs joined by NVLink: ``of`` (gpus,), and rates in bytes a second.

    ``port`` is each GPU's NVLink rate and ``nic`` what it has besides, one direction; ``rate``
    (domains,) is what a whole domain can exchange with the others. Unless ``paired``, any NIC of a
    domain reaches any NIC of another at full rate, else only side by side.
    """

    of: Ints
    port: Floats
    nic: Floats
    rate: Floats
    switched: bool
    paired: bool = True

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
        switched = not quick[np.ix_(gpus, gpus)].any()
        return cls(of, port, nic, rate, switched=switched, paired=_rails(slow, fabric, of))


def _rails(slow: Floats, fabric: Fabric, of: Ints) -> bool:
    """Whether it matters which NICs of two domains talk to each other.

    It does not where all NICs of each domain are on one switch, nor where every switch that has
    NICs can pass on all that they send and receive.
    """
    gpus, switches = fabric.gpu_index, fabric.transit_index
    if slow[np.ix_(gpus, gpus)].any():
        return True
    up, down = slow[np.ix_(gpus, switches)], slow[np.ix_(switches, gpus)].T
    joined = (up > 0) | (down > 0)
    same = all(joined[of == s].any(axis=0).sum() <= 1 for s in range(int(of.max()) + 1))
    leaf = joined.any(axis=0)
    beyond = slow[np.ix_(switches, switches)]
    full = (beyond.sum(axis=1) >= up.sum(axis=0)) & (beyond.sum(axis=0) >= down.sum(axis=0))
    return not (same or bool(full[leaf].all()))


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


def least_seconds(traffic: Ints, domains: Domains) -> float:
    """Seconds that no schedule beats, by what GPUs' ports and domains' uplinks can do."""
    of = domains.of
    ports = domains.port + domains.nic
    near = np.where(of[:, None] == of[None, :], traffic, 0)
    across = traffic - near
    found = [0.0]
    for way in (0, 1):
        busy = traffic.sum(axis=way)
        found.append(float(np.divide(busy, ports, out=np.zeros(len(busy)), where=busy > 0).max()))
        total = np.bincount(of, weights=across.sum(axis=way), minlength=domains.count)
        found.append(float(np.divide(total, domains.rate).max()))
    if domains.count > 1:
        found += [_around(near, across, domains, way) for way in (0, 1)]
    return max(found)


def _around(near: Ints, across: Ints, domains: Domains, way: int) -> float:
    """Seconds that a domain's uplink and the NVLink ports of some of its GPUs need together.

    All that comes into a domain passes its NICs, and so does what a GPU sends to its neighbours
    over its own NIC instead of NVLink. So these NICs and that GPU's port carry at least both; with
    its own NIC's sending side, also what it sends to other domains; and without what comes to it
    from these, the receiving side of its NIC need not be counted. All that leaves a domain and what
    a GPU sends to neighbours passes the domain's NICs, outwards, and that GPU's port as well.
    ``way`` 1 is this, 0 the same of the other direction.
    """
    of, port, nic = domains.of, domains.port, domains.nic
    out, away, come = near.sum(axis=way), across.sum(axis=way), across.sum(axis=1 - way)
    gone, every = np.bincount(of, weights=away)[of], np.bincount(of, weights=come)[of]
    rate, peers = domains.rate[of], every - come
    nics = np.minimum(np.bincount(of, weights=nic)[of] - nic, rate)
    forms = [
        (every + out, rate + port),
        (every + out + away, rate + port + nic),
        (gone + out, rate + port),
    ]
    least = max(float((volume / together).max()) for volume, together in forms)
    # A domain of one GPU has no peers.
    some = nics > 0
    if some.any():
        least = max(least, float(((peers + out) / (nics + port))[some].max()))
        least = max(least, float(((peers + out + away) / (nics + port + nic))[some].max()))
    # Several GPUs of a domain, those whose NVLink has most to do for what it can.
    order = np.lexsort((-out / np.maximum(port, 1e-300), of))
    first = np.flatnonzero(np.r_[True, of[order][1:] != of[order][:-1]])
    for volume in (every, gone):
        total, together = np.cumsum(out[order]), np.cumsum(port[order])
        before = np.searchsorted(first, np.arange(len(of)), side="right") - 1
        begin = first[before]
        total = total - (total[begin] - out[order][begin]) + volume[order]
        together = together - (together[begin] - port[order][begin]) + rate[order]
        least = max(least, float((total / together).max()))
    return least
