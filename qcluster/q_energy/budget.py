"""One power budget over many throughput-over-power curves.

A multiple-choice knapsack. The upper concave hull of each curve, merged by slope, is optimal for
the linear relaxation (Sinha and Zoltners 1979), so the greedy that takes hull increments in that
order while they fit is at most one increment from the optimum, and the relaxation's value is a
proven bound. Points off the hull then use up what is left. O(K log K) for K points in all: ten
thousand GPUs take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_energy.budget_exact import exact_choice
from qcluster.q_energy.problem import Allocation, Curve, check_watts

__all__ = ["CurveTable", "allocate_budget", "allocate_table"]

# Sums of watts in different orders differ by rounding; a budget met to a nanowatt is met.
_SLACK_W = 1e-6
# Up to this many points in all the optimum is looked for: milliseconds.
_EXACT_POINTS = 400


class CurveTable:
    """Many curves' points in flat arrays: curve c owns ``begin[c]`` to ``begin[c + 1]``.

    ``power`` and ``value`` (points,) float64, ``allowed`` (points,) bool. Building one checks
    nothing; it takes what ``Curve`` or a planner has checked.
    """

    def __init__(
        self,
        power: NDArray[np.float64],
        value: NDArray[np.float64],
        begin: NDArray[np.int64],
        allowed: NDArray[np.bool_],
    ) -> None:
        self.power, self.value, self.begin, self.allowed = power, value, begin, allowed

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> CurveTable:
        """From checked curves, in order."""
        begin = np.zeros(len(curves) + 1, np.int64)
        begin[1:] = np.cumsum([len(curve.power_w) for curve in curves])
        return cls(
            np.concatenate([curve.power_w for curve in curves]),
            np.concatenate([curve.throughput for curve in curves]),
            begin,
            np.concatenate([curve.allowed for curve in curves]),
        )

    @property
    def n(self) -> int:
        """How many curves."""
        return len(self.begin) - 1

    @property
    def floor_w(self) -> float:
        """Sum of every curve's lowest allowed watts."""
        low = np.minimum.reduceat(np.where(self.allowed, self.power, np.inf), self.begin[:-1])
        return float(low.sum())


def allocate_budget(
    curves: Sequence[Curve],
    *,
    budget_w: float,
    previous: Allocation | ArrayLike | None = None,
    max_ramp_w: float | None = None,
) -> Allocation:
    """An operating point for every curve, most throughput within the budget.

    Parameters
    ----------
    curves: at least one; floors and ceilings are theirs.
    budget_w: watts that all together may draw.
    previous: the allocation in force, or its ``choice`` (n,); needed for ``max_ramp_w``.
    max_ramp_w: how far the total may move from ``previous``'s total, up or down, in watts.

    Returns an Allocation within one hull increment of the optimum; ``upper_bound`` is the linear
    relaxation's value.

    Raises InputError for bad values; Infeasible naming the smallest feasible budget when the
    floors exceed it, or when the ramp does not reach down to it.
    """
    if isinstance(curves, Curve) or not len(curves):
        raise InputError("wants at least one curve", field="curves")
    for index, curve in enumerate(curves):
        if not isinstance(curve, Curve):
            raise InputError(f"wants a Curve, got {type(curve).__name__}", field=f"curves[{index}]")
    table = CurveTable.of(curves)
    held = None if previous is None else _previous(table, previous)
    if max_ramp_w is not None:
        max_ramp_w = check_watts(max_ramp_w, "max_ramp_w")
        if held is None:
            raise InputError("needs the previous allocation to count from", field="max_ramp_w")
    total = None if held is None else float(table.power[held].sum())
    return allocate_table(
        table, budget_w=check_watts(budget_w, "budget_w"), total_w=total, max_ramp_w=max_ramp_w
    )


def allocate_table(
    table: CurveTable,
    *,
    budget_w: float,
    total_w: float | None = None,
    max_ramp_w: float | None = None,
) -> Allocation:
    """``allocate_budget`` on flat arrays; ``total_w`` is the draw that the ramp counts from."""
    from qcluster.q_energy import _kernels

    limit, least = _limits(table, budget_w, total_w, max_ramp_w)
    base, curve, point, watts, gain = _kernels.hull_increments(
        table.power, table.value, table.begin, table.allowed
    )
    choice = base.copy()
    order = np.argsort(-gain / np.maximum(watts, 1e-300), kind="stable")
    left, _, bound = _kernels.take_increments(
        order, curve, point, watts, gain, limit - float(table.power[base].sum()), choice
    )
    _kernels.fill_left(table.power, table.value, table.begin, table.allowed, left, choice)
    upper = float(table.value[base].sum()) + bound
    if len(table.power) <= _EXACT_POINTS and upper - table.value[choice].sum() > 1e-9:
        better = exact_choice(table, limit, float(table.value[choice].sum()))
        choice = choice if better is None else better
    if table.power[choice].sum() < least - _SLACK_W:
        _raise_to(table, choice, least, limit)
    power = table.power[choice]
    value = float(table.value[choice].sum())
    return Allocation(
        choice=choice - table.begin[:-1],
        power_w=power,
        value=value,
        upper_bound=max(upper, value),
        total_w=float(power.sum()),
        budget_w=budget_w,
        min_budget_w=table.floor_w,
    )


def _limits(
    table: CurveTable, budget_w: float, total_w: float | None, max_ramp_w: float | None
) -> tuple[float, float]:
    """Most and least watts in all, from budget, floors and ramp."""
    floor = table.floor_w
    if budget_w < floor - _SLACK_W:
        raise Infeasible(
            f"{budget_w:g} W is {floor - budget_w:g} W below the floors; "
            f"the smallest feasible budget is {floor:g} W",
            field="budget_w",
        )
    if max_ramp_w is None or total_w is None:
        return budget_w, 0.0
    if total_w - max_ramp_w > budget_w + _SLACK_W:
        raise Infeasible(
            f"from {total_w:g} W a ramp of {max_ramp_w:g} W reaches down to "
            f"{total_w - max_ramp_w:g} W only, which is the smallest feasible budget now",
            field="budget_w",
        )
    if total_w + max_ramp_w < floor - _SLACK_W:
        raise Infeasible(
            f"from {total_w:g} W the floors of {floor:g} W need a ramp of {floor - total_w:g} W",
            field="max_ramp_w",
        )
    return min(budget_w, total_w + max_ramp_w), total_w - max_ramp_w


def _raise_to(table: CurveTable, choice: NDArray[np.int64], least: float, limit: float) -> None:
    """Spend more watts, at least loss of throughput, until ``least`` is met; changes ``choice``.

    Only a ramp limit on the way down asks for this: the total must not fall faster.
    """
    owner = np.repeat(np.arange(table.n), np.diff(table.begin))
    while (total := float(table.power[choice].sum())) < least - _SLACK_W:
        more = table.power - table.power[choice][owner]
        loss = table.value[choice][owner] - table.value
        fits = table.allowed & (more > 0) & (total + more <= limit + _SLACK_W)
        if not fits.any():
            raise Infeasible(
                f"no choice of points lies between {least:g} and {limit:g} W; "
                f"{total:g} W is the nearest found",
                field="max_ramp_w",
            )
        # Prefer a step that ends inside the band, then the one that costs least per watt.
        rate = np.where(fits, loss / np.where(more > 0, np.minimum(more, least - total), 1), np.inf)
        best = int(np.argmin(rate))
        choice[owner[best]] = best


def _previous(table: CurveTable, previous: Allocation | ArrayLike) -> NDArray[np.int64]:
    choice = np.asarray(previous.choice if isinstance(previous, Allocation) else previous)
    if choice.shape != (table.n,):
        raise InputError(f"wants shape ({table.n},), got {choice.shape}", field="previous")
    if choice.dtype.kind not in "iu":
        raise InputError(f"wants indices, got {choice.dtype}", field="previous")
    if (choice < 0).any() or (choice >= np.diff(table.begin)).any():
        raise InputError("points beyond its curve", field="previous")
    return choice.astype(np.int64) + table.begin[:-1]
