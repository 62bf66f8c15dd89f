"""A timed all-to-all schedule, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Timed"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Timed:
    """Transfers as arrays; GPUs are positions in ``fabric.gpus``.

    ``out`` and ``into`` are the GPUs whose NICs (or, in a mesh, which relays) a transfer uses, -1
    for none. Windows are the steps of the pipeline: ``windows`` (w,) seconds; ``step`` is the
    window in which a transfer crosses between domains, -1 for those inside one. ``local`` (w,
    domains) is the share of the traffic inside each domain that runs over NVLink in each window,
    ``over_nics`` what runs over NICs; such transfers have their own ends as ``out`` and ``into``.
    """

    start: Floats
    duration: Floats
    source: Ints
    target: Ints
    out: Ints
    into: Ints
    volume: Ints
    step: Ints
    windows: Floats
    local: Floats
    makespan_s: float
    lower_bound_s: float
    tiers: int
    over_nics: Floats = field(default_factory=lambda: np.empty((0, 1)))
    baselines: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
