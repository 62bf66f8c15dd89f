"""``schedule_all_to_all``: traffic in; rounds or timed transfers out, and the bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_nvlink.alltoall.birkhoff import check_traffic, matchings, port_bound
from qcluster.q_nvlink.alltoall.tiers import Timed, schedule_tiers
from qcluster.q_nvlink.fabric import Fabric, NodeId
from qcluster.record import Record

__all__ = ["Schedule", "schedule_all_to_all"]

Transfer = tuple[float, float, NodeId, NodeId, list[NodeId], int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule(Record):
    """An all-to-all schedule.

    Without a fabric, over one tier of equal ports: ``rounds`` are pairs of (destination of each
    source or -1, duration), durations, ``makespan`` and ``lower_bound`` in bytes through one port,
    and the sum of a pair's durations is its traffic exactly (at least it, with ``few_rounds``).

    With a fabric, ``transfers`` are (start_s, duration_s, source, destination, via, bytes): ``via``
    lists the GPUs that pass the bytes on; a transfer's time spans all its hops. ``makespan_s`` and
    ``lower_bound_s`` are seconds at nominal rates. ``baselines`` are other ways' makespans in the
    same unit.
    """

    rounds: list[tuple[list[int], int]] = field(default_factory=list)
    makespan: int = 0
    lower_bound: int = 0
    transfers: list[Transfer] = field(default_factory=list)
    makespan_s: float | None = None
    lower_bound_s: float | None = None
    tiers: int = 1
    baselines: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def schedule_all_to_all(
    traffic: ArrayLike, *, fabric: Fabric | None = None, few_rounds: bool = False
) -> Schedule:
    """Schedule an all-to-all with any volumes.

    Parameters
    ----------
    traffic: (n, n) whole bytes from row to column; the diagonal stays where it is.
    fabric: n GPUs in its order; without one, n equal ports on one switch.
    few_rounds: pairs may finish before their round does, which takes several times fewer rounds.

    On one tier makespan and bound are equal. Across NVLink domains the bytes are first spread over
    the domain's NICs by NVLink, then travel in rounds of a matching between domains, and are handed
    to their destination by NVLink, all three overlapping (the idea of FAST, 2025).

    Raises
    ------
    InputError: the matrix is not square, not whole, negative, too large, or does not fit the
        fabric.
    Infeasible: traffic between domains that nothing joins.
    """
    volume = check_traffic(traffic)
    if fabric is None:
        found = matchings(volume, few=few_rounds)
        rounds = list(zip(found.target.tolist(), found.duration.tolist(), strict=True))
        return Schedule(
            rounds=rounds,
            makespan=found.length,
            lower_bound=port_bound(volume),
            baselines={"spread-out": float(spread_out(volume))},
        )
    if not isinstance(fabric, Fabric):
        raise InputError(f"wants a Fabric, got {type(fabric).__name__}", field="fabric")
    if len(volume) != len(fabric.gpus):
        raise InputError(
            f"has {len(volume)} rows, the fabric {len(fabric.gpus)} GPUs", field="traffic"
        )
    return _timed(volume, fabric)


def spread_out(traffic: NDArray[np.int64]) -> int:
    """Length of n - 1 barrier rounds in which GPU i sends to i + k: what simple libraries do."""
    n = len(traffic)
    rows = np.arange(n)
    return sum(int(traffic[rows, (rows + k) % n].max()) for k in range(1, n))


def _timed(volume: NDArray[np.int64], fabric: Fabric) -> Schedule:
    timed = schedule_tiers(volume, fabric)
    return Schedule(
        transfers=list_transfers(timed, fabric),
        makespan=port_bound(volume),
        lower_bound=port_bound(volume),
        makespan_s=timed.makespan_s,
        lower_bound_s=timed.lower_bound_s,
        tiers=timed.tiers,
        baselines=timed.baselines,
        notes=list(timed.notes),
    )


def list_transfers(timed: Timed, fabric: Fabric) -> list[Transfer]:
    """The transfers as tuples, in order of start."""
    name = fabric.gpus
    rows = zip(
        timed.start.tolist(),
        timed.duration.tolist(),
        timed.source.tolist(),
        timed.target.tolist(),
        timed.out.tolist(),
        timed.into.tolist(),
        timed.volume.tolist(),
        strict=True,
    )
    found = []
    for start, duration, i, j, p, q, volume in rows:
        via = [name[g] for g in dict.fromkeys((p, q)) if g not in (i, j, -1)]
        found.append((start, duration, name[i], name[j], via, volume))
    found.sort(key=lambda row: row[0])
    return found
