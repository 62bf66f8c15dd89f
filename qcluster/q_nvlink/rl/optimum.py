"""The least that the busiest link can be used, over all routings: a linear programme.

Multi-commodity flow by source (all demands of a source share their flow variables), minimising the
largest utilisation; solved by HiGHS through SciPy. Used as a bound, never to route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import SolverFailed

if TYPE_CHECKING:
    from scipy.sparse import coo_matrix

__all__ = ["least_utilisation"]


def least_utilisation(
    capacity: NDArray[np.float64],
    demand: NDArray[np.float64],
    *,
    transit: NDArray[np.bool_] | None = None,
) -> float:
    """Least largest load over capacity, for demands (n, n) over links ``capacity`` (n, n).

    ``transit`` (n,) are the nodes that pass traffic on, all by default.

    Raises SolverFailed when the demands cannot be carried at all or the solver gives up.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    n = len(capacity)
    links = np.argwhere(capacity > 0)
    passing = np.ones(n, dtype=np.bool_) if transit is None else transit
    sources = np.flatnonzero((demand - np.diag(np.diag(demand))).sum(axis=1) > 0)
    if not len(sources):
        return 0.0
    count = len(links)
    unit = float(demand.max())
    equal, right, upper = _conservation(demand, links, passing, sources, unit)
    at = np.arange(len(sources) * count)
    over = coo_matrix(
        (
            np.concatenate([np.ones(len(at)), -capacity[links[:, 0], links[:, 1]] / unit]),
            (
                np.concatenate([at % count, np.arange(count)]),
                np.concatenate([at, np.full(count, len(at))]),
            ),
        ),
        shape=(count, len(upper)),
    )
    cost = np.zeros(len(upper))
    cost[-1] = 1.0
    found = linprog(
        cost,
        A_ub=over.tocsr(),
        b_ub=np.zeros(count),
        A_eq=equal.tocsr(),
        b_eq=right,
        bounds=np.stack([np.zeros(len(upper)), upper], axis=1),
        method="highs",
    )
    if found.status != 0:
        raise SolverFailed(f"linear programme: {found.message}")
    return float(found.fun)


def _conservation(
    demand: NDArray[np.float64],
    links: NDArray[np.int64],
    passing: NDArray[np.bool_],
    sources: NDArray[np.int64],
    unit: float,
) -> tuple[coo_matrix, NDArray[np.float64], NDArray[np.float64]]:
    """What flows in less what flows out at every node, by source; what it must be, in ``unit``;
    and the upper bounds of the variables, of which the last is the utilisation.
    """
    from scipy.sparse import coo_matrix

    n, count = len(demand), len(links)
    rows, cols, values, right = [], [], [], np.zeros(len(sources) * n)
    upper = np.full(len(sources) * count + 1, np.inf)
    for k, s in enumerate(sources):
        for v in range(n):
            right[k * n + v] = (
                demand[s, v] if v != s else -(demand[s].sum() - demand[s, s])
            ) / unit
        for i, (u, v) in enumerate(links):
            column = k * count + i
            rows += [k * n + v, k * n + u]
            cols += [column, column]
            values += [1.0, -1.0]
            if v == s or (u != s and not passing[u]):
                upper[column] = 0.0
    return coo_matrix((values, (rows, cols)), shape=(len(right), len(upper))), right, upper
