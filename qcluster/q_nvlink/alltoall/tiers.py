"""All-to-all over a fabric in seconds: one switch, several NVLink domains with NICs, or a mesh.

One switch takes matchings of ports; several domains take the pipeline of
``qcluster.q_nvlink.alltoall.pipeline``; a mesh sends everything at once over at most one relay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible
from qcluster.q_nvlink.alltoall.birkhoff import matchings
from qcluster.q_nvlink.alltoall.domains import Domains, least_seconds
from qcluster.q_nvlink.alltoall.pipeline import two_tiers
from qcluster.q_nvlink.alltoall.timed import Timed
from qcluster.q_nvlink.fabric import Fabric

__all__ = ["Timed", "schedule_tiers"]

Ints = NDArray[np.int64]


def schedule_tiers(traffic: Ints, fabric: Fabric) -> Timed:
    """Schedule whole bytes (n, n), diagonal 0, over the fabric's GPUs. See the module's text."""
    domains = Domains.of_fabric(fabric)
    if domains.count > 1:
        return two_tiers(traffic, fabric, domains)
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
