"""The exact optimum of a small budget problem by dominance and bound.

States are (watts, value) of the first curves' choices. A state is dropped when another has no
more watts and no less value (Nemhauser and Ullmann 1969), or when its value plus the linear
relaxation of the remaining curves does not beat the greedy answer. Either the optimum comes out
or, when more than ``max_states`` survive, nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.curve_table import CurveTable

__all__ = ["exact_choice"]

Floats = NDArray[np.float64]


def exact_choice(
    table: CurveTable,
    limit_w: float,
    at_least: float,
    *,
    least_w: float = 0.0,
    max_states: int = 20_000,
) -> NDArray[np.int64] | None:
    """The best choice (n,) of points, as flat indices, if its value is above ``at_least``.

    Its watts lie from ``least_w`` to ``limit_w``. None when ``at_least`` is already optimal, no
    choice lies there, or the states outgrow ``max_states``.
    """
    rest = _relaxations(table)
    most = np.maximum.reduceat(np.where(table.allowed, table.power, 0.0), table.begin[:-1])
    behind = np.append(np.cumsum(most[::-1])[::-1][1:], 0.0)
    watts, value = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for c in range(table.n):
        points = np.arange(table.begin[c], table.begin[c + 1])
        points = points[table.allowed[points]]
        if len(watts) * len(points) > 40 * max_states:
            return None
        w = (watts[:, None] + table.power[points]).ravel()
        v = (value[:, None] + table.value[points]).ravel()
        least, spare, worth = rest[c]
        left = limit_w - w - least
        hopeful = v + np.interp(left, spare, worth) > at_least + 1e-9
        kept = np.flatnonzero((left >= -1e-6) & hopeful & (w + behind[c] >= least_w - 1e-6))
        kept = kept[np.lexsort((-v[kept], w[kept]))]
        if not len(kept):
            return None
        ahead = np.maximum.accumulate(np.concatenate([[-np.inf], v[kept][:-1]]))
        if least_w > 0:  # fewer watts may be too few, so only equal ones compare
            same = np.concatenate([[False], np.diff(w[kept]) <= 1e-9])
            ahead = np.where(same, np.inf, -np.inf)
        kept = kept[v[kept] > ahead]
        if len(kept) > max_states:
            return None
        trail.append((kept // len(points), points[kept % len(points)]))
        watts, value = w[kept], v[kept]
    state = int(np.argmax(value))
    choice = np.empty(table.n, np.int64)
    for c in range(table.n - 1, -1, -1):
        parent, point = trail[c]
        choice[c] = point[state]
        state = int(parent[state])
    return choice


def _relaxations(table: CurveTable) -> list[tuple[float, Floats, Floats]]:
    """For the curves after each: least watts, and the relaxation's value over spare watts."""
    base, curve, _, watts, gain = table.increments
    order = np.argsort(-gain / np.maximum(watts, 1e-300), kind="stable")
    out = []
    for c in range(table.n):
        behind = order[curve[order] > c]
        spare = np.concatenate([[0.0], np.cumsum(watts[behind])])
        worth = table.value[base[c + 1 :]].sum() + np.concatenate([[0.0], np.cumsum(gain[behind])])
        out.append((float(table.power[base[c + 1 :]].sum()), spare, worth))
    return out
