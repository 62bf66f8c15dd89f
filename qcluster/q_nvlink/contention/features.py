"""Eight numbers that describe a layout without routing it: what the contention classifier sees.

All are ratios, so a model that learned on one fabric can be asked about another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.problem import Placement, PlacementProblem

__all__ = ["FEATURES", "layout_features"]

FEATURES = ("indirect", "hops", "port", "pair", "volume", "relayed", "forward", "skew")
"""Names of the features, in order: share of the bytes between GPUs without a link or common
switch; mean hops beyond the first, by bytes; logarithms of three times over the bound: that of
the busiest port, of the busiest pair over its widest way, and of the bytes times hops of the
busiest job over its own links; share of the jobs that need other jobs' GPUs; the logarithm of the
time of the busiest port with what it passes on for others over the bound; spread of the ports'
times (standard deviation over mean)."""

_FLOOR = 1e-9
_FAR = 1e9  # hops of pairs that a job's own GPUs do not join


class _Distances:
    """Hops and widths between all GPUs of a fabric, made once a fabric."""

    def __init__(self, fabric: Fabric) -> None:
        cap = fabric.effective
        gpus, switches = fabric.gpu_index, fabric.transit_index
        n = len(gpus)
        self.place = np.full(len(fabric.nodes), -1)
        self.place[gpus] = np.arange(n)
        self.port_out = cap[gpus].sum(axis=1)
        self.port_in = cap[:, gpus].sum(axis=0)
        direct = cap[np.ix_(gpus, gpus)].copy()
        if len(switches):
            up = _over_switches(cap, gpus, switches)
            direct += up
        np.fill_diagonal(direct, 0.0)
        self.direct = direct
        self.hops, self.width = _widest_shortest(direct)

    @classmethod
    def of(cls, fabric: Fabric) -> _Distances:
        """The fabric's, remembered with it."""
        found = fabric.scratch.get("contention_distances")
        if not isinstance(found, cls):
            found = fabric.scratch["contention_distances"] = cls(fabric)
        return found


def _over_switches(
    cap: NDArray[np.float64], gpus: NDArray[np.int64], switches: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(gpus, gpus) GB/s over joined switches: what the two GPUs' own links into them carry."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    between = cap[np.ix_(switches, switches)]
    count, label = connected_components(csr_matrix(between > 0), connection="strong")
    found = np.zeros((len(gpus), len(gpus)))
    for c in range(count):
        members = switches[label == c]
        up, down = cap[np.ix_(gpus, members)].sum(axis=1), cap[np.ix_(members, gpus)].sum(axis=0)
        reach = np.ix_(np.flatnonzero(up > 0), np.flatnonzero(down > 0))
        found[reach] += np.minimum(up[reach[0]], down[reach[1]])
    return found


def _widest_shortest(
    direct: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fewest hops between GPUs and the width of the widest such way; unreachable: n hops, 0."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    hops, width = np.where(direct > 0, 1.0, float(len(direct))), direct.copy()
    np.fill_diagonal(hops, 0.0)
    # No way leaves what is joined at all, and where all there are neighbours none is longer: large
    # clusters are many such islands, or one.
    count, label = connected_components(csr_matrix(direct > 0), directed=False)
    for island in range(count):
        inside = np.ix_(*2 * (np.flatnonzero(label == island),))
        if (hops[inside] > 1).any():
            hops[inside], width[inside] = _longer_ways(direct[inside], hops[inside])
    return hops, width


def _longer_ways(
    direct: NDArray[np.float64], hops: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same for one island, from the hops over direct links alone."""
    n, far = len(direct), hops.max()
    hops, width, level = hops.copy(), direct.copy(), direct.copy()
    for step in range(2, n):
        if (hops < n).all():
            break
        following = np.zeros_like(level)
        for w in range(n):
            following = np.maximum(following, np.minimum(level[:, w][:, None], direct[w][None, :]))
        new = (following > 0) & (hops >= far)
        if not new.any():
            break
        hops[new] = step
        width[new] = following[new]
        level = np.where(new, following, 0.0)
    return hops, width


def layout_features(problem: PlacementProblem, placement: Placement) -> NDArray[np.float64]:
    """(8,) the features of a layout, in the order of ``FEATURES``; finite for every layout."""
    known = _Distances.of(problem.fabric)
    bound = max(problem.ideal_seconds, _FLOOR) * 1e9
    n = len(known.port_out)
    out, into, passed, pair = np.zeros(n), np.zeros(n), np.zeros(n), 0.0
    total = indirect = travelled = volume = 0.0
    relayed = 0
    for job in problem.jobs:
        gpus = known.place[placement[job.id]]
        demand = problem.demand[job.id]
        if not demand.any():
            continue
        own = known.direct[np.ix_(gpus, gpus)]
        hops, width, middle = _own_ways(own)
        if (hops >= _FAR).any():
            relayed += 1
            hops, width = known.hops[np.ix_(gpus, gpus)], known.width[np.ix_(gpus, gpus)]
        out[gpus] += demand.sum(axis=1)
        into[gpus] += demand.sum(axis=0)
        if middle is not None:
            passed[gpus] += (middle * demand[:, :, None]).sum(axis=(0, 1))
        pair = max(pair, float((demand / np.maximum(width, _FLOOR)).max()))
        total += float(demand.sum())
        indirect += float(demand[hops > 1].sum())
        travelled += float((demand * hops).sum())
        volume = max(volume, float((demand * hops).sum()) / max(float(own.sum()), _FLOOR))
    lanes = np.maximum(known.port_out, _FLOOR), np.maximum(known.port_in, _FLOOR)
    ports = np.maximum(out / lanes[0], into / lanes[1])
    full = np.maximum((out + passed) / lanes[0], (into + passed) / lanes[1])
    busy = ports[ports > 0]
    return np.array(
        [
            indirect / max(total, _FLOOR),
            travelled / max(total, _FLOOR) - 1.0 if total else 0.0,
            _log(ports.max(initial=0.0) / bound),
            _log(pair / bound),
            _log(volume / bound),
            relayed / max(len(problem.jobs), 1),
            _log(full.max(initial=0.0) / bound),
            float(busy.std() / busy.mean()) if len(busy) else 0.0,
        ]
    )


def _own_ways(
    own: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Hops and widths over a job's own links ``own`` (k, k); hops of ``_FAR``: no way.

    Also, where some pairs are two hops apart, (k, k, k) what share of a pair's bytes each GPU
    passes on, by the widths of the ways.
    """
    k = len(own)
    joined = (own > 0) | np.eye(k, dtype=np.bool_)
    if joined.all():
        return 1.0 - np.eye(k), own, None
    hops, width = _widest_shortest(own)
    ways = np.minimum(own[:, None, :], own.T[None, :, :]) * (hops == 2)[:, :, None]
    middle = ways / np.maximum(ways.sum(axis=2, keepdims=True), _FLOOR)
    return np.where(hops >= k, _FAR, hops), width, middle


def _log(ratio: float) -> float:
    return float(np.log(np.clip(ratio, 1e-3, 1e3)))
