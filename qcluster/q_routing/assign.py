"""Tokens to experts under hard capacities: prices, exact repair, and a dual bound.

Each expert asks a price; tokens take what is worth most to them after the price; prices of
overfull experts rise (the loss-free balancing of Wang et al. 2024 is the same step). Any prices of
at least 0 prove an upper bound (Lagrange): sum of best values + sum of capacity x price. Prices
are first found on a sample of the tokens, which is nearly as good at a fraction of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_routing._token_kernels import demand, demand_top, evict, picks, settle
from qcluster.q_routing.problem import count
from qcluster.record import Record

__all__ = ["Assignment", "assign_tokens"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment(Record):
    """Experts of tokens. ``expert`` is (tokens,), or (tokens, k) when k > 1; ``objective`` the sum
    of scores kept, at most ``upper_bound``, which no assignment within the capacities exceeds;
    ``prices`` (experts,) prove that.
    """

    expert: NDArray[np.int64]
    objective: float
    upper_bound: float
    prices: NDArray[np.float64]


def assign_tokens(
    scores: ArrayLike,
    *,
    capacity: ArrayLike,
    k: int = 1,
    weights: ArrayLike | None = None,
    sample: int = 2048,
    sweeps: int = 24,
) -> Assignment:
    """Give every token its k experts so that the sum of scores is large and no expert overfull.

    Parameters
    ----------
    scores: (tokens, experts), any finite numbers; float32 is used as it is.
    capacity: picks that an expert takes, one number or (experts,); with ``weights`` in their unit.
    weights: (tokens,) load that each pick of a token puts on its expert, above 0; default 1.
    sample: tokens that the first prices are found on. sweeps: further price steps over all tokens;
        0 is fastest, and the loop ends early once the dual gap of the prices is closed.

    Raises InputError for bad input and Infeasible when the capacity is too little.
    """
    values = _scores(scores)
    tokens, experts = values.shape
    k, sample = count(k, "k"), count(sample, "sample")
    if k > experts:
        raise InputError(f"asks for {k} of {experts} experts", field="k")
    load = _weights(weights, tokens)
    room = _capacity(capacity, experts)
    needed = float(load.sum()) * k
    if needed > room.sum() * (1 + 1e-12):
        short = needed - float(room.sum())
        raise Infeasible(
            f"the experts can take {short:g} less than the tokens need", field="capacity"
        )
    if k > 1 and weights is None:
        _reachable(room, tokens, k)
    price = _prices(values, load, room, k, sample, sweeps)
    found = _finish(values, load, room, k, price)
    if found is None:
        message = "no way was found to fit these weights into the capacities"
        raise Infeasible(message, field="weights")
    return found


def _finish(
    values: NDArray[np.floating],
    load: NDArray[np.float64],
    room: NDArray[np.float64],
    k: int,
    price: NDArray[np.float64],
) -> Assignment | None:
    """Picks at these prices, repaired to the capacities; None if the repair fails."""
    tokens, experts = values.shape
    out, regret = np.empty((tokens, k), dtype=np.int64), np.empty((tokens, k))
    used = np.zeros(experts)
    typed = price.astype(values.dtype)
    total = picks(values, typed, load, out, regret, used)
    bound = float(total) + float(room @ typed.astype(np.float64))
    over = used[out] > room[out]
    flat = np.flatnonzero(over.ravel())
    # The heaviest of the cheapest to move leave first.
    order = flat[np.argsort(regret.ravel()[flat], kind="stable")]
    cast = np.empty(len(flat), dtype=np.int64)
    n = evict(out, order, load, room, used, cast)
    cast = cast[:n]
    if np.ptp(load) > 0:
        cast = cast[np.argsort(load[cast // k], kind="stable")]
    if settle(values, typed, load, cast, room, used, out):
        return None
    kept = float(np.take_along_axis(values, out, axis=1).sum(dtype=np.float64))
    # float32 sums in the kernel are float64; the slack is that of the prices' rounding alone.
    return Assignment(
        expert=out[:, 0] if k == 1 else out,
        objective=kept,
        upper_bound=max(bound, kept),
        prices=typed.astype(np.float64),
    )


def _prices(
    values: NDArray[np.floating],
    load: NDArray[np.float64],
    room: NDArray[np.float64],
    k: int,
    sample: int,
    sweeps: int,
) -> NDArray[np.float64]:
    """Prices (experts,): found on a sample, then improved on all tokens."""
    tokens, experts = values.shape
    if sample >= tokens:
        rows = np.arange(tokens)
        return _descend(values, load, room, k, rows, np.zeros(experts), steps=48 + sweeps)
    rows = np.sort(np.random.default_rng(0).choice(tokens, sample, replace=False))
    part = room * float(load[rows].sum() / load.sum())
    price = _descend(values, load, part, k, rows, np.zeros(experts), steps=48)
    if not sweeps:
        return price
    # The sample's prices are near: go on with short steps.
    rows = np.arange(tokens)
    return _descend(values, load, room, k, rows, price, steps=sweeps, slow=4.0, skip=8)


def _descend(
    values: NDArray[np.floating],
    load: NDArray[np.float64],
    room: NDArray[np.float64],
    k: int,
    rows: NDArray[np.int64],
    price: NDArray[np.float64],
    *,
    steps: int,
    slow: float = 8.0,
    skip: int = 0,
) -> NDArray[np.float64]:
    """Subgradient steps on the dual, step length unit / (1 + n / slow); the best prices seen."""
    unit = 0.5 * (float(values[rows[:4096]].std()) or 1.0) / float(load.mean())
    used, best, kept = np.zeros(len(price)), np.inf, price
    capacity = np.maximum(room, 1e-12)
    # With hardly any room to spare all experts fill up, and only differences of prices matter;
    # holding the lowest at 0 while searching would then slow the others down.
    free = room.sum() <= 1.05 * k * load[rows].sum()
    for step in range(skip, steps + skip):
        typed = price.astype(values.dtype)
        if k == 1:
            total = demand(values, typed, load, rows, used)
        else:
            total = demand_top(values, typed, load, rows, k, used)
        bound = float(total) + float(room @ price)
        if bound < best:
            best, kept = bound, price
        change = np.clip(used / capacity - 1.0, -1.0, 1.0)
        price = price + unit / (1 + step / slow) * change
        price = price - price.min() if free else np.maximum(price, 0.0)
    return kept


def _scores(scores: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(scores)
    if values.dtype.kind not in "iuf" or values.ndim != 2 or values.shape[1] == 0:
        raise InputError(
            f"wants numbers of shape (tokens, experts), got {values.dtype} of {values.shape}",
            field="scores",
        )
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    values = np.ascontiguousarray(values)
    if not len(values):
        raise InputError("holds no token", field="scores")
    if not np.isfinite(values.sum()) and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError("holds a score that is not finite", field="scores", row=row + 1)
    return values


def _weights(weights: ArrayLike | None, tokens: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(tokens)
    load = np.asarray(weights)
    if load.dtype.kind not in "iuf" or load.shape != (tokens,):
        raise InputError(f"wants {tokens} numbers", field="weights")
    load = load.astype(np.float64)
    if not np.isfinite(load).all() or (load <= 0).any():
        raise InputError("wants finite numbers above 0", field="weights")
    return load


def _capacity(capacity: ArrayLike, experts: int) -> NDArray[np.float64]:
    room = np.asarray(capacity)
    if room.dtype.kind not in "iuf" or room.shape not in ((), (experts,)):
        raise InputError(f"wants one number or {experts}", field="capacity")
    room = np.broadcast_to(room.astype(np.float64), (experts,)).copy()
    if not np.isfinite(room).all() or (room < 0).any():
        raise InputError("wants finite numbers of at least 0", field="capacity")
    return room


def _reachable(room: NDArray[np.float64], tokens: int, k: int) -> None:
    """An expert serves a token once, so more room than tokens is of no use."""
    if float(np.minimum(room, tokens).sum()) < tokens * k:
        raise Infeasible(
            f"no expert can serve a token twice: {np.minimum(room, tokens).sum():g} picks of "
            f"{tokens * k} have room",
            field="capacity",
        )
