"""What a replan should plan for, from the windows of load that were seen.

The newest window counts most, older ones less and less, and nothing counts from before a switch of
domain: load moves to other experts from one window to the next, and what was learnt is then wrong.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["blend", "switched"]

Floats = NDArray[np.float64]


def switched(before: Floats, after: Floats, distance: float) -> bool:
    """Whether the load (layers, experts) moved to other experts: total variation between the two
    distributions, averaged over layers, above ``distance``.
    """
    share = [w / np.maximum(w.sum(axis=1, keepdims=True), 1e-300) for w in (before, after)]
    return bool(np.abs(share[0] - share[1]).sum(axis=1).mean() / 2 > distance)


def blend(windows: Floats, memory: float, switch_distance: float) -> tuple[Floats, bool]:
    """One load (layers, experts) of ``windows`` (windows, layers, experts), oldest first, and
    whether the newest window is the first after a switch.

    Each older window weighs ``memory`` times the next newer one.
    """
    load, weight, switch = np.array(windows[-1], dtype=np.float64), 1.0, False
    for age in range(2, len(windows) + 1):
        if switched(windows[-age], windows[-age + 1], switch_distance):
            switch = age == 2
            break
        weight *= memory
        load += weight * windows[-age]
    return load, switch
