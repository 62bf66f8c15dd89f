"""One power budget over many throughput-over-power curves.

A multiple-choice knapsack. The upper concave hull of each curve, merged by slope, is optimal for
the linear relaxation (Sinha and Zoltners 1979), so the greedy that takes hull increments in that
order while they fit is at most one increment from the optimum, and the relaxation's value is a
proven bound. Points off the hull then use up what is left. O(K) for K points in all: ten thousand
GPUs take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_energy.budget_exact import exact_choice
from qcluster.q_energy.curve_table import CurveTable
from qcluster.q_energy.problem import Allocation, Curve, check_watts

__all__ = ["allocate_budget", "allocate_table"]

# Sums of watts in different orders differ by rounding; a budget met to a nanowatt is met.
_SLACK_W = 1e-6
# Of the largest throughput, a watt's worth where throughput is equal.
_EQUAL = 1e-12
# Up to this many points in all the optimum is looked for: milliseconds.
_EXACT_POINTS = 400


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
    if isinstance(curves, Curve) or not isinstance(curves, Sequence) or not len(curves):
        raise InputError("wants a list of at least one curve", field="curves")
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
        table, budget_w=check_watts(budget_w, "budget_w"), total_w=total, max_ramp_w=max_ramp_w,
        held=held,
    )  # fmt: skip


def allocate_table(
    table: CurveTable,
    *,
    budget_w: float,
    total_w: float | None = None,
    max_ramp_w: float | None = None,
    held: NDArray[np.int64] | None = None,
) -> Allocation:
    """``allocate_budget`` on flat arrays; ``total_w`` is the draw that the ramp counts from, and
    ``held`` (n,) the points in force, as flat indices.
    """
    from qcluster.q_energy import _kernels

    limit, least = _limits(table, budget_w, total_w, max_ramp_w)
    base, curve, point, watts, gain = table.increments
    choice = base.copy()
    left, _, bound = _kernels.take_increments(
        curve, point, watts, gain, limit - float(table.power[base].sum()), choice
    )
    _kernels.fill_left(table.power, table.value, table.begin, table.allowed, left, choice)
    upper = float(table.value[base].sum()) + bound
    if len(table.power) <= _EXACT_POINTS and upper - table.value[choice].sum() > 1e-9:
        better = exact_choice(table, limit, float(table.value[choice].sum()))
        choice = choice if better is None else better
    if table.power[choice].sum() < least - _SLACK_W:
        choice = _within(table, least, limit, held)
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


def _within(
    table: CurveTable, least: float, limit: float, held: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """The best choice found whose watts lie from ``least`` to ``limit``.

    Points are steps, so the band may be missed: then what is in force stays, where that keeps the
    budget, and small problems are solved exactly.
    """
    best = _given_back(table, least, limit)
    holds = held is not None and table.power[held].sum() <= limit + _SLACK_W
    if holds and (best is None or table.value[held].sum() > table.value[best].sum()):
        best = held
    if len(table.power) <= _EXACT_POINTS:
        worth = -np.inf if best is None else float(table.value[best].sum())
        better = exact_choice(table, limit, worth, least_w=least)
        best = best if better is None else better
    if best is None:
        raise Infeasible(
            f"no choice of points was found between {least:g} and {limit:g} W", field="max_ramp_w"
        )
    return best


def _given_back(table: CurveTable, least: float, limit: float) -> NDArray[np.int64] | None:
    """A choice from ``least`` watts up, most throughput first; None when it passes ``limit``.

    The same knapsack from the other end: every curve starts at its highest watts, and what may be
    spent are the watts that may be given back. Of choices worth the same, the one of fewer watts
    is taken. Only a ramp on the way down asks for this.
    """
    from qcluster.q_energy import _kernels

    owner = np.repeat(np.arange(table.n), np.diff(table.begin))
    top = np.maximum.reduceat(np.where(table.allowed, table.power, 0.0), table.begin[:-1])
    spare = float(top.sum()) - least
    if spare < -_SLACK_W:
        return None
    back = np.maximum(top[owner] - table.power, 0.0)
    value = table.value + _EQUAL * float(np.abs(table.value).max()) * back
    choice, curve, point, watts, gain = _kernels.hull_increments(
        back, value, table.begin, table.allowed
    )
    left, _, _ = _kernels.take_increments(curve, point, watts, gain, spare, choice)
    _kernels.fill_left(back, value, table.begin, table.allowed, left, choice)
    total = float(table.power[choice].sum())
    if total <= limit + _SLACK_W:
        return np.asarray(choice)
    after = total + table.power - table.power[choice][owner]
    fits = table.allowed & (after >= least - _SLACK_W) & (after <= limit + _SLACK_W)
    if not fits.any():
        return None
    change = np.where(fits, table.value - table.value[choice][owner], -np.inf)
    one = int(np.argmax(change))
    choice[owner[one]] = one
    return np.asarray(choice)


def _previous(table: CurveTable, previous: Allocation | ArrayLike) -> NDArray[np.int64]:
    choice = np.asarray(previous.choice if isinstance(previous, Allocation) else previous)
    if choice.shape != (table.n,):
        raise InputError(f"wants shape ({table.n},), got {choice.shape}", field="previous")
    if choice.dtype.kind not in "iu":
        raise InputError(f"wants indices, got {choice.dtype}", field="previous")
    if (choice < 0).any() or (choice >= np.diff(table.begin)).any():
        raise InputError("points beyond its curve", field="previous")
    return choice.astype(np.int64) + table.begin[:-1]
