"""Proofs about placements: how early the fullest GPU can finish at best.

Two facts bound it. All GPUs together cannot finish before total load / total speed. And a number
of slots allows only so many copies: with every share at most M, expert e needs a GPU-copy count c
with w_e / c within M, all counts together at most the slots. The least such M is found by the
same greedy that makes the replicas, which is exact for it. Where a placement is still far from
both, a third fact is used: the other slots of a hot expert's GPUs are not empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_routing._bound_kernels import bound_layers, crowd_bound

__all__ = ["tighten", "time_bound"]

_LARGEST = 2**15
"""Above this many copies x experts ``crowd_bound`` may take more than some milliseconds."""


def time_bound(
    load: NDArray[np.float64], room: NDArray[np.int64], speed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(layers,) a lower bound on the largest GPU time, replicas sharing equally.

    load (layers, experts), room (gpus,) slots of each GPU, speed (gpus,) 0 for the dead. A share
    cannot run faster than on the fastest GPU, so its load is divided by the largest speed.
    """
    experts = load.shape[1]
    alive = speed > 0
    slots = int(np.minimum(room, experts)[alive].sum())
    mean = load.sum(axis=1) / speed.sum()
    largest = bound_layers(np.ascontiguousarray(load), slots - experts, int(alive.sum()))
    return np.asarray(np.maximum(mean, largest / speed.max()), dtype=np.float64)


def tighten(
    bound: NDArray[np.float64],
    time: NDArray[np.float64],
    load: NDArray[np.float64],
    room: NDArray[np.int64],
    speed: NDArray[np.float64],
    far: float,
    deadline: Deadline,
) -> NDArray[np.float64]:
    """``bound`` (windows, layers) raised where ``time``, which was reached, is ``far`` above it.

    Only for live GPUs of equal speed and slots, as ``crowd_bound`` assumes; else as it came. Under
    a deadline that comes, only while there is time, and not for layers where a single proof could
    outlast it.
    """
    alive = speed > 0
    slots, pace = room[alive], speed[alive]
    experts = load.shape[2]
    if np.ptp(slots) or np.ptp(pace) or slots[0] > experts:
        return bound
    out = bound.copy()
    extra = int(slots.sum()) - experts
    if deadline.at < np.inf and extra * experts > _LARGEST:
        return bound
    for window, layer in np.argwhere(time > bound * (1 + far)):
        if deadline.expired:
            break
        low = float(bound[window, layer] * pace[0])
        top = float(time[window, layer] * pace[0])
        proven = crowd_bound(load[window, layer], low, extra, int(slots[0]), top)
        out[window, layer] = proven / pace[0]
    return out
