"""How the copies of an expert share its load once a batch's load is known.

Equal shares are for planning; at dispatch time each copy takes what levels the GPUs. The least
possible largest GPU time on a given placement is a linear programme; water-filling one expert at a
time reaches it, and its dual (experts that live only on the fullest GPUs) certifies how near.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.q_routing._split_kernels import split_layer
from qcluster.q_routing.problem import Placement, read_load
from qcluster.record import Record

__all__ = ["Split", "split", "split_load"]

_SWEEPS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class Split(Record):
    """Shares of replicas and their proof.

    ``load`` (layers, num_slots) carried by each slot; ``time`` and ``lower_bound`` (layers,): the
    largest GPU time and what no split of this placement can go below.
    """

    load: NDArray[np.float64]
    time: NDArray[np.float64]
    lower_bound: NDArray[np.float64]
    balancedness: float


def split(placement: Placement, load: ArrayLike, *, tolerance: float = 5e-4) -> Split:
    """The weighted split of ``load`` (layers, experts) and its certificate.

    Stops in each layer when the largest GPU time is within ``tolerance`` of its bound. Raises
    InputError when the load does not fit the placement.
    """
    loads = read_load(load)
    layers, experts = len(placement.slots), placement.num_experts
    if loads.shape != (layers, experts):
        raise InputError(f"wants shape {(layers, experts)}, got {loads.shape}", field="load")
    if not 0 < tolerance < 1:
        raise InputError(f"wants a share between 0 and 1, got {tolerance}", field="tolerance")
    live = np.flatnonzero(placement.speed > 0)
    place = np.zeros(placement.num_gpus, dtype=np.int64)
    place[live] = np.arange(len(live))
    gpu, speed = place[placement.gpu_of_slot], placement.speed[live]
    out = np.zeros(placement.slots.shape)
    time, bound = np.zeros(layers), np.zeros(layers)
    for x in range(layers):
        time[x], bound[x] = split_layer(
            loads[x], placement.slots[x], gpu, speed, out[x], _SWEEPS, tolerance
        )
    total = float(time.sum())
    mean = float(loads.sum() / speed.sum())
    return Split(
        load=out,
        time=time,
        lower_bound=bound,
        balancedness=min(1.0, mean / total) if total > 0 else 1.0,
    )


def split_load(placement: Placement, load: ArrayLike) -> NDArray[np.float64]:
    """(layers, num_slots) load carried by each slot, replicas weighted so that the fullest GPU
    finishes as early as this placement allows.

    load: (layers, experts), any additive count. The sum over an expert's slots is its load. Raises
    InputError when the load does not fit the placement.
    """
    return split(placement, load).load
