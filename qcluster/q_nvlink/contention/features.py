"""Eight numbers that describe a layout without routing it: what the contention classifier sees.

All are ratios, so a model that learned on one fabric can be asked about another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.problem import Placement, PlacementProblem

__all__ = ["FEATURES", "layout_features"]

FEATURES = ("indirect", "hops", "port", "pair", "volume", "relayed", "fill", "skew")
"""Names of the features, in order: share of the bytes between GPUs without a link or common
switch; mean hops beyond the first, by bytes; logarithms of three times over the bound: that of
the busiest port, of the busiest pair over its widest way, and of the bytes times hops of the
busiest job over its own links; share of the jobs that need other jobs' GPUs; share of the GPUs in
use; spread of the ports' times (standard deviation over mean)."""

_FLOOR = 1e-9


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
        found += np.minimum(up[:, None], down[None, :])
    return found


def _widest_shortest(
    direct: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fewest hops between GPUs and the width of the widest such way; unreachable: n hops, 0."""
    n = len(direct)
    hops = np.where(direct > 0, 1.0, float(n))
    np.fill_diagonal(hops, 0.0)
    width = direct.copy()
    level = width.copy()
    for step in range(2, n):
        following = np.zeros_like(level)
        for w in range(n):
            following = np.maximum(following, np.minimum(level[:, w][:, None], direct[w][None, :]))
        new = (following > 0) & (hops >= n)
        if not new.any():
            break
        hops[new] = step
        width[new] = following[new]
        level = np.where(new, following, 0.0)
    return hops, width


def layout_features(problem: PlacementProblem, placement: Placement) -> NDArray[np.float64]:
    """(8,) the features of a layout, in the order of ``FEATURES``; finite for every layout."""
    known = _Distances.of(problem.fabric)
    bound = max(problem.lower_bound(), _FLOOR)
    n = len(known.place[known.place >= 0])
    out, into, pair = np.zeros(n), np.zeros(n), 0.0
    total = indirect = travelled = volume = 0.0
    relayed = used = 0
    for job in problem.jobs:
        gpus = known.place[placement[job.id]]
        demand = problem.demand[job.id]
        used += len(gpus)
        if not demand.any():
            continue
        hops, width = known.hops[np.ix_(gpus, gpus)], known.width[np.ix_(gpus, gpus)]
        own = known.direct[np.ix_(gpus, gpus)]
        out[gpus] += demand.sum(axis=1)
        into[gpus] += demand.sum(axis=0)
        pair = max(pair, float((demand / np.maximum(width, _FLOOR)).max()))
        total += float(demand.sum())
        indirect += float(demand[hops > 1].sum())
        travelled += float((demand * hops).sum())
        volume = max(volume, float((demand * hops).sum()) / max(float(own.sum()), _FLOOR))
        relayed += int(not _joined(own))
    ports = np.maximum(
        out / np.maximum(known.port_out, _FLOOR), into / np.maximum(known.port_in, _FLOOR)
    )
    busy = ports[ports > 0]
    return np.array(
        [
            indirect / max(total, _FLOOR),
            travelled / max(total, _FLOOR) - 1.0 if total else 0.0,
            _log(ports.max(initial=0.0) / 1e9 / bound),
            _log(pair / 1e9 / bound),
            _log(volume / 1e9 / bound),
            relayed / max(len(problem.jobs), 1),
            used / n,
            float(busy.std() / busy.mean()) if len(busy) else 0.0,
        ]
    )


def _log(ratio: float) -> float:
    return float(np.log(np.clip(ratio, 1e-3, 1e3)))


def _joined(own: NDArray[np.float64]) -> bool:
    """Whether a job's own GPUs reach each other without anyone else's."""
    reached = np.zeros(len(own), dtype=bool)
    reached[0] = True
    while True:
        more = reached | (own[reached] > 0).any(axis=0)
        if (more == reached).all():
            return bool(reached.all())
        reached = more
