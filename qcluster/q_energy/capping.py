"""Caps for all units under one budget: the problem, its solvers, its check.

The objective is the negated sum of predicted speeds. Our caps come from a grid; the bound holds for
all caps. The sum of caps never exceeds the budget, so no draw within them can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate, Certified, CircuitBreaker, Stage, certified
from qcluster.moves import MoveBudget
from qcluster.q_energy.budget import allocate_table
from qcluster.q_energy.curve_table import CurveTable
from qcluster.q_energy.curves import speed
from qcluster.q_energy.units import Units

__all__ = ["CapProblem", "predicted_speed", "solve_caps"]

Floats = NDArray[np.float64]

_GRID_POINTS = 64
_MANY_POINTS = 250_000
_HALVINGS = 20  # of a cap's range in the bound: a milliwatt is left of a kilowatt
_BREAKER = CircuitBreaker()


@dataclass(frozen=True)
class CapProblem:
    """Caps for ``units`` whose sum is at most ``cap_budget_w``.

    ``held_w`` (n,) are the caps in force, or None; then at most a share ``max_moved`` of caps may
    differ from them, and the sum of caps by at most ``max_ramp_w`` from theirs.
    """

    units: Units
    cap_budget_w: float
    held_w: Floats | None = None
    max_moved: float | None = None
    max_ramp_w: float | None = None

    @classmethod
    def of(cls, units: Units, budget_w: float, **limits: Any) -> CapProblem:
        """The problem that is left of ``budget_w`` after what no cap reaches.

        Raises Infeasible naming the smallest feasible budget.
        """
        over = float(units.overhead_w.sum())
        floor = float(units.min_w.sum())
        if budget_w < over + floor - 1e-6:
            raise Infeasible(
                f"{budget_w:.6g} W is {over + floor - budget_w:.6g} W short of the floors; the "
                f"smallest feasible budget is {over + floor:.6g} W ({floor:.6g} W floors of "
                f"{units.n} {units.kind}s, {over:.6g} W that no cap reaches)",
                field="budget_w",
            )
        return cls(units, budget_w - over, **limits)

    @cached_property
    def coarse(self) -> CurveTable:
        """``table`` on the even grid, made once."""
        return self.table()

    def table(self, around: Floats | None = None) -> CurveTable:
        """Speed over cap of every unit on an even grid from its floor up to its demand.

        With ``around`` (n,), a finer grid: one step of the first to either side of these caps.
        The caps in force are one more point, last, where there are any.
        """
        u = self.units
        points = max(2, min(_GRID_POINTS, _MANY_POINTS // u.n))
        low, high = u.min_w, np.maximum(np.minimum(u.demand_w, u.max_w), u.min_w)
        if around is not None:
            step = (high - low) / (points - 1)
            low, high = np.maximum(low, around - step), np.minimum(high, around + step)
        caps = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)
        allowed = np.ones(caps.shape, bool)
        if self.held_w is not None and around is None:
            caps = np.concatenate([caps, self.held_w[:, None]], axis=1)
            allowed = np.concatenate([allowed, np.ones((u.n, 1), bool)], axis=1)
        value = speed(caps, u.demand_w[:, None], u.idle_w[:, None], u.memory[:, None])
        begin = np.arange(u.n + 1) * caps.shape[1]
        return CurveTable(caps.ravel(), value.ravel(), begin, allowed.ravel())


def solve_caps(problem: CapProblem, *, shared: bool, deadline: Deadline) -> Certified[Floats]:
    """Caps (n,) in watts with their certificate; ``shared`` as in EnergyConfig.

    Spare watts of the budget are not spread here.
    """
    hull: Stage[CapProblem, Floats] = Stage("concave-hull", hull_caps)
    plain: Stage[CapProblem, Floats] = Stage("nameplate", nameplate_caps)
    return certified(
        problem,
        stages=[hull] if shared else [Stage("independent", independent_caps)],
        fallback=plain if problem.held_w is None else Stage("hold", hold_caps),
        baselines=[Stage("common-cap", common_caps), *([] if shared else [hull])],
        bound=dual_bound,
        verify=check_caps,
        deadline=deadline,
        breaker=_BREAKER,
    )


def predicted_speed(units: Units, caps: Floats) -> Floats:
    """(n,) share of full speed under the caps."""
    return speed(caps, units.demand_w, units.idle_w, units.memory)


def check_caps(problem: CapProblem, caps: Floats) -> None:
    """Raise SolverFailed when caps break a limit of a unit or the budget."""
    u = problem.units
    if caps.shape != (u.n,) or not np.isfinite(caps).all():
        raise SolverFailed(f"wants {u.n} finite caps, got shape {caps.shape}")
    if (caps < u.min_w - 1e-6).any() or (caps > u.max_w + 1e-6).any():
        worst = int(np.argmax(np.maximum(u.min_w - caps, caps - u.max_w)))
        raise SolverFailed(f"cap {caps[worst]:g} W of {u.ids[worst]} is outside its limits")
    counted = float(caps.sum())
    if counted > problem.cap_budget_w + 1e-3:
        raise SolverFailed(f"caps count for {counted:g} W of {problem.cap_budget_w:g} W")
    if problem.held_w is None:
        return
    moved = int(np.count_nonzero(np.abs(caps - problem.held_w) > 1e-6))
    if problem.max_moved is not None and moved > int(problem.max_moved * u.n):
        raise SolverFailed(f"{moved} of {u.n} caps change, at most {problem.max_moved:.0%} may")
    ramp = abs(float(caps.sum() - problem.held_w.sum()))
    if problem.max_ramp_w is not None and ramp > problem.max_ramp_w + 1e-3:
        raise SolverFailed(f"caps move by {ramp:g} W, at most {problem.max_ramp_w:g} W may")


def hull_caps(problem: CapProblem, **_: Any) -> Candidate[Floats]:
    """Concave-hull greedy over all units, within move budget and ramp; coarse grid, then fine."""
    table = problem.coarse
    found = allocate_table(
        table,
        budget_w=problem.cap_budget_w,
        **_ramp(problem, table),
    )
    caps = np.maximum(found.power_w, problem.units.min_w)
    if problem.held_w is None:
        fine = allocate_table(problem.table(caps), budget_w=problem.cap_budget_w)
        caps = np.maximum(fine.power_w, problem.units.min_w)
        # Less than a fine grid step is left; slopes are equal by now, so it goes to all alike.
        room = np.clip(problem.units.demand_w, caps, problem.units.max_w) - caps
        spare = max(0.0, problem.cap_budget_w - float(caps.sum()))
        caps = caps + room * min(1.0, spare / max(float(room.sum()), 1e-9))
    if problem.max_moved is not None and problem.held_w is not None:
        caps = _sticky(problem, table, caps)
    return _candidate(problem, caps)


def dual_bound(problem: CapProblem) -> float:
    """A proven lower bound for all caps, on the grid or off it: Lagrangian duality.

    For any price per watt, price * budget + sum of max(speed - price * cap) is at least the best
    sum of speeds (Everett 1963). The price is the slope at which the grid's budget runs out; the
    inner maxima are bracketed by bisection on the slope, and the bracket's outer value is taken.
    Speed is concave above rest only: below it there is none, so the floor is the other candidate.
    """
    u = problem.units
    low, high = u.min_w, np.maximum(np.minimum(u.demand_w, u.max_w), u.min_w)
    if high.sum() <= problem.cap_budget_w:
        return -float(predicted_speed(u, high).sum())
    price = _critical_slope(problem)
    left, right = np.clip(u.idle_w, low, high), high.copy()
    for _ in range(_HALVINGS):
        mid = (left + right) / 2
        width = np.maximum((right - left) * 1e-4, 1e-7)
        rising = predicted_speed(u, mid + width) - predicted_speed(u, mid) > price * width
        left, right = np.where(rising, mid, left), np.where(rising, right, mid + width)
    right = np.minimum(right, high)
    inner = predicted_speed(u, right) - price * left
    inner = np.maximum(inner, predicted_speed(u, low) - price * low)
    return -float(price * problem.cap_budget_w + inner.sum())


def _critical_slope(problem: CapProblem) -> float:
    """Speed per watt of the last grid step that the budget pays for."""
    from qcluster.q_energy import _kernels

    base, curve, _, watts, gain = problem.coarse.increments
    slope = _kernels.slopes(curve, watts, gain)
    left = problem.cap_budget_w - float(problem.coarse.power[base].sum())
    at, low, high = _kernels.around_critical(slope, watts, left)
    near = at[low:high][np.argsort(-slope[at[low:high]], kind="stable")]
    if not len(near):
        return 0.0
    spent = float(watts[at[:low]].sum()) + np.cumsum(watts[near])
    return float(slope[near[min(int(np.searchsorted(spent, left)), len(near) - 1)]])


def nameplate_caps(problem: CapProblem, **_: Any) -> Candidate[Floats]:
    """Every unit its share by nameplate: floor plus an equal part of what the limits span."""
    return _candidate(problem, _scaled(problem, problem.units.max_w))


def common_caps(problem: CapProblem, **_: Any) -> Candidate[Floats]:
    """One common fraction of every unit's own demand, as high as the budget allows."""
    u = problem.units
    return _candidate(problem, _scaled(problem, np.clip(u.demand_w, u.min_w, u.max_w)))


def independent_caps(problem: CapProblem, **_: Any) -> Candidate[Floats]:
    """Every node alone: the hull greedy inside its own share by nameplate."""
    share = nameplate_caps(problem).value
    table, u = problem.coarse, problem.units
    width = len(table.power) // u.n
    caps = np.empty(u.n)
    for node in np.unique(u.node):
        mine = np.flatnonzero(u.node == node)
        rows = (mine[:, None] * width + np.arange(width)).ravel()
        own = CurveTable(
            table.power[rows], table.value[rows], np.arange(len(mine) + 1) * width,
            table.allowed[rows],
        )  # fmt: skip
        own_budget = float(share[mine].sum()) + 1e-9
        caps[mine] = allocate_table(own, budget_w=own_budget).power_w
    return _candidate(problem, np.maximum(caps, u.min_w))


def spread_spare(problem: CapProblem, caps: Floats) -> Floats:
    """Raise caps into the budget that is left, in proportion to each unit's room.

    Predictions err: a unit that wants more than predicted then finds a cap above it.
    """
    spare = problem.cap_budget_w - caps.sum()
    room = problem.units.max_w - caps
    if spare <= 0 or room.sum() <= 0:
        return caps
    raised = np.floor(caps + room * min(1.0, spare / room.sum()))
    return np.asarray(np.clip(np.maximum(raised, caps), None, problem.units.max_w))


def _candidate(problem: CapProblem, caps: Floats) -> Candidate[Floats]:
    return Candidate(caps, -float(predicted_speed(problem.units, caps).sum()))


def _scaled(problem: CapProblem, top: Floats) -> Floats:
    """max(floor, c * top) with the largest c up to 1 that the budget allows."""
    low = problem.units.min_w
    if np.maximum(low, top).sum() <= problem.cap_budget_w:
        return np.maximum(low, top)
    lo, hi = 0.0, 1.0
    for _ in range(60):
        mid = (lo + hi) / 2
        lo, hi = (
            (mid, hi) if np.maximum(low, mid * top).sum() <= problem.cap_budget_w else (lo, mid)
        )
    return np.asarray(np.maximum(low, lo * top))


def hold_caps(problem: CapProblem, **_: Any) -> Candidate[Floats]:
    """The caps in force."""
    assert problem.held_w is not None
    return _candidate(problem, problem.held_w)


def _ramp(problem: CapProblem, table: CurveTable) -> dict[str, Any]:
    if problem.held_w is None or problem.max_ramp_w is None:
        return {}
    return {
        "total_w": float(problem.held_w.sum()),
        "max_ramp_w": problem.max_ramp_w,
        "held": table.begin[1:] - 1,
    }


def _sticky(problem: CapProblem, table: CurveTable, caps: Floats) -> Floats:
    """Keep all but the most valuable changes, then share the budget again over those.

    Changes depend on each other through the budget, so after choosing which units may move the
    others are pinned to their caps in force and the rest is solved anew.
    """
    held, u = problem.held_w, problem.units
    assert held is not None
    moves = MoveBudget.of(np.round(held * 1e3), problem.max_moved)
    gain = np.abs(predicted_speed(u, caps) - predicted_speed(u, held))
    free = moves.clip(np.round(caps * 1e3), gain) != moves.reference
    width = len(table.power) // u.n
    pinned = np.zeros((u.n, width), bool)
    pinned[:, -1] = True
    allowed = np.where(free[:, None], table.allowed.reshape(u.n, width), pinned)
    own = CurveTable(table.power, table.value, table.begin, allowed.ravel())
    return allocate_table(own, budget_w=problem.cap_budget_w, **_ramp(problem, own)).power_w
