"""Caps for all units where the draw predicted under them counts, and not their sum.

A cap is room to draw, and a new job may use all of it before the next plan. So a reserve is kept
that covers what new jobs may add in all but a few of ten thousand periods (``reserve``), and room
has its price in the choice of caps: each counts for the watts by which it raises the reserve.
Reserve and caps depend on each other; a few rounds settle them, the best is taken.

What a job does at a limit where it was not seen is a guess, and a plan that trusts guesses never
learns which are wrong: a job taken for slow-paying stays at the lowest limit. So a limit counts
for its speed and a part of the doubt about it (optimism, Auer et al. 2002): it is tried where that
might pay, and one reading later the doubt is gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate, Certified, CircuitBreaker, Stage, certified
from qcluster.q_energy.budget import allocate_table
from qcluster.q_energy.curve_family import GRID
from qcluster.q_energy.curve_table import CurveTable
from qcluster.q_energy.identify import (
    Sight,
    Sightings,
    cell,
    doubt,
    draw_variance,
    picked,
    sight,
)
from qcluster.q_energy.reserve import Exposure, Newcomers, Reserve
from qcluster.q_energy.units import Units

__all__ = [
    "DrawProblem",
    "claimed_speed",
    "drawn_under",
    "load_kernels",
    "seen_units",
    "solve_draw",
]

Floats = NDArray[np.float64]

# Of the budget, kept free where all rests on one reading a job: its error under other limits is
# alike for many jobs and does not average out.
_FRESH = 0.02
_ROUNDS, _MANY_ROUNDS, _MANY = 7, 3, 2000  # of settling; from so many units on fewer
_FIRST_RESERVE = 0.02  # of the budget, to start from
_DAMPING = 0.5
_MORE = 0.2  # of the errors' variance, by which its price in watts of reserve is found
_SHARED = 0.1  # of a draw's doubt, the deviation that all draws have in common and no bias shows
_OPTIMISM = 0.5  # standard deviations of speed for which a limit counts beyond what is expected
_SLACK = 3e-4  # of the budget: what rounds differ by once settled
_BREAKER = CircuitBreaker()


@dataclass(frozen=True)
class DrawProblem:
    """``caps_w``, ``draw_w`` and ``speed`` (n, grid): what each unit's cap at a grid point is, lets
    it draw and lets it work; ``worth`` (n, grid) is the speed with a part of its doubt. ``known``
    (n,) tells whether the present job was seen. ``variance`` (n, grid) square watts is that of the
    predicted draw, ``common`` (n, grid) watts the deviation that all predictions have in common.
    ``budget_w`` is for draws; ``room_w`` (n, grid), what caps add to the reserve.
    """

    units: Units
    caps_w: Floats
    draw_w: Floats
    speed: Floats
    worth: Floats
    variance: Floats
    common: Floats
    known: NDArray[np.bool_]
    budget_w: float
    room_w: Floats

    @classmethod
    def of(cls, units: Units, sightings: Sightings, budget_w: float) -> DrawProblem:
        """From what was seen. Raises Infeasible naming the smallest feasible budget."""
        caps = np.clip(GRID * units.max_w[:, None], units.min_w[:, None], None)
        power, speed = sightings.rising
        drawn = _floored(units, np.exp(power + sightings.bias)) * units.max_w[:, None]
        draw = np.minimum(drawn, caps)
        rate = _floored(units, np.exp(speed))
        least, over = float(draw[:, 0].sum()), float(units.overhead_w.sum())
        if budget_w < over + least - 1e-6:
            raise Infeasible(
                f"{budget_w:.6g} W is {over + least - budget_w:.6g} W short of the draw at the "
                f"lowest limits; the smallest feasible budget is {over + least:.6g} W "
                f"({over:.6g} W that no cap reaches)",
                field="budget_w",
            )
        unsure, slow = (_floored(units, part) for part in doubt(sightings))
        worth = rate * (1.0 + _OPTIMISM * slow)
        error = draw**2 * _floored(units, draw_variance(sightings))
        return cls(
            units, caps, draw, rate, worth, error, _SHARED * draw * unsure, sightings.known,
            budget_w - over, np.zeros_like(draw),
        )  # fmt: skip

    @cached_property
    def cost(self) -> Floats:
        """(n, grid) watts that each cap counts for."""
        return self.draw_w + self.room_w

    @cached_property
    def table(self) -> CurveTable:
        """Worth over cost of every unit."""
        n, points = self.caps_w.shape
        begin = np.arange(n + 1) * points
        return CurveTable(self.cost.ravel(), self.worth.ravel(), begin, np.ones(n * points, bool))

    def of_caps(self, caps: Floats, values: Floats) -> Floats:
        """(n,) values (n, grid) at caps (n,)."""
        rows = np.arange(self.units.n)
        low = cell(caps / self.units.max_w)[0]
        first, second = self.caps_w[rows, low], self.caps_w[rows, low + 1]
        part = np.clip((caps - first) / np.maximum(second - first, 1e-12), 0.0, 1.0)
        return np.asarray(values[rows, low] * (1.0 - part) + values[rows, low + 1] * part)


def _floored(units: Units, values: Floats) -> Floats:
    """(n, grid) values of which those below a unit's lowest limit are the value there."""
    share, rows = units.min_w / units.max_w, np.arange(units.n)
    if (share <= GRID[0]).all():
        return values
    low, part = cell(share)
    least = values[rows, low] * (1.0 - part) + values[rows, low + 1] * part
    return np.where(share[:, None] > GRID, least[:, None], values)


def solve_draw(
    units: Units,
    sightings: Sightings,
    budget_w: float,
    *,
    shared: bool,
    period_s: float,
    mean_s: float = 0.0,
    deadline: Deadline,
) -> tuple[DrawProblem, Certified[Floats], float]:
    """The problem less its reserve, caps (n,) with their certificate, and the reserve in watts.

    ``period_s`` passes until the next plan; the budget is a mean over ``mean_s``, where longer.
    """
    problem = DrawProblem.of(units, sightings, budget_w)
    window_s = max(period_s, mean_s)
    exposure = Exposure.of(
        sightings.silence_s, sightings.change_rate, period_s=period_s, window_s=window_s
    )
    # A wrong prediction is corrected in the next plan, and means over several even errors out.
    problem = dataclasses.replace(problem, variance=problem.variance * (period_s / window_s))
    base = _FRESH * sightings.fresh * problem.budget_w
    trial, reserve = _settle(problem, exposure, base, _hull if shared else _independent)
    hull: Stage[DrawProblem, Floats] = Stage("concave-hull", _hull)
    answer = certified(
        trial,
        stages=[hull] if shared else [Stage("independent", _independent)],
        fallback=Stage("lowest", _lowest),
        baselines=[Stage("common-cap", _common), *([] if shared else [hull])],
        bound=_bound,
        verify=_check,
        deadline=deadline,
        breaker=_BREAKER,
    )
    drawn = float(trial.of_caps(answer.value, trial.draw_w).sum())
    return trial, answer, max(0.0, min(reserve, problem.budget_w - drawn))


def drawn_under(units: Units, sightings: Sightings, caps: Floats) -> Floats:
    """(n,) watts that each unit is predicted to draw under caps (n,)."""
    drawn = picked(sightings.rising[0], caps / units.max_w) * units.max_w
    return np.asarray(np.minimum(drawn * np.exp(sightings.bias), caps))


def claimed_speed(units: Units, sightings: Sightings, caps: Floats) -> float:
    """Sum of the speeds that caps (n,) are predicted to allow."""
    return float(picked(sightings.rising[1], caps / units.max_w).sum())


def seen_units(units: Units, sightings: Sightings) -> Units:
    """Units whose demand is the draw predicted without a cap."""
    demand = np.maximum(drawn_under(units, sightings, units.max_w), 1.0)
    return dataclasses.replace(
        units, demand_w=demand, p50_w=demand, idle_w=np.minimum(units.idle_w, 0.9 * demand)
    )


@cache
def load_kernels() -> None:
    """Compile, or load from numba's cache, what ``solve_draw`` calls."""
    one = np.ones(1)
    units = Units(
        "gpu", ("g",), ("n",), np.zeros(1, np.int64), 0.3 * one, one, one, one, 0.2 * one, 0 * one,
        np.zeros(1),
    )  # fmt: skip
    seen = sight(None, Sight(0.5 * one, 0.5 * one, one, one), one, 0.0)
    solve_draw(units, seen, 0.5, shared=True, period_s=1.0, deadline=Deadline.after(60.0))


def _settle(
    problem: DrawProblem,
    exposure: Exposure,
    base: float,
    solve: Callable[..., Candidate[Floats]],
) -> tuple[DrawProblem, float]:
    """The problem less its reserve with every cap's part in it, and the reserve in watts, of which
    ``base`` are kept in any case.

    Of some rounds the one that is worth most whose draw and reserve keep the budget; where none
    does, as with few units, the last reserve is taken off and caps' parts in it are left out.
    """
    kinds = _kinds(problem)
    rows, room = np.arange(problem.units.n), problem.room_w
    weight = kinds[0][1].weight
    jumps = np.empty((len(rows), len(weight)))
    left = (1.0 - _FIRST_RESERVE) * problem.budget_w
    best: tuple[float, DrawProblem, float] | None = None
    for turn in range(_ROUNDS if len(rows) < _MANY else _MANY_ROUNDS):
        floor = float(problem.draw_w[:, 0].sum() + room[:, 0].sum())
        trial = dataclasses.replace(problem, room_w=room, budget_w=max(left, floor))
        found = solve(trial)
        at = (problem.caps_w < found.value[:, None] - 1e-9).sum(axis=1)
        drawn = problem.draw_w[rows, at]
        for mine, new in kinds:
            jumps[mine] = new.jumps(at[mine], drawn[mine])
        shared = float(problem.common[rows, at].sum())
        error = float(problem.variance[rows, at].sum()) + shared**2
        kept = Reserve.of(jumps, weight, exposure, error)
        reserve = kept.watts + base
        fits = float(drawn.sum()) + reserve <= problem.budget_w
        if fits and (best is None or found.objective < best[0]):
            best = found.objective, trial, reserve
        price = np.empty_like(room)
        for mine, new in kinds:
            price[mine] = new.prices(kept, problem.draw_w[mine], exposure.of_units(mine))
        if error > 0:
            more = Reserve.of(jumps, weight, exposure, (1.0 + _MORE) * error)
            dearer = (more.watts - kept.watts) / (_MORE * error)
            price += dearer * (problem.variance + 2.0 * shared * problem.common)
        room = price if turn == 0 else _DAMPING * price + (1.0 - _DAMPING) * room
        left = (1.0 - _SLACK) * problem.budget_w - reserve + float(room[rows, at].sum())
    if best is not None:
        return best[1], best[2]
    plain = max(problem.budget_w - reserve, float(problem.draw_w[:, 0].sum()))
    return dataclasses.replace(problem, budget_w=plain), reserve


def _kinds(problem: DrawProblem) -> list[tuple[NDArray[np.int64], Newcomers]]:
    """Units with the same limits, and the jobs to come there: those of all units, in shares."""
    units = problem.units
    drawn, caps = (
        (values / units.max_w[:, None])[problem.known]
        for values in (problem.draw_w, problem.caps_w)
    )
    limits, kind = np.unique(
        np.stack([units.max_w, units.min_w], axis=1), axis=0, return_inverse=True
    )
    out = []
    for k, (most, _) in enumerate(limits):
        mine = np.flatnonzero(kind.ravel() == k)
        out.append((mine, Newcomers.of(drawn, caps, problem.caps_w[mine[0]], float(most))))
    return out


def _candidate(problem: DrawProblem, caps: Floats) -> Candidate[Floats]:
    return Candidate(caps, -float(problem.of_caps(caps, problem.worth).sum()))


def _hull(problem: DrawProblem, **_: Any) -> Candidate[Floats]:
    """Concave-hull greedy over all units."""
    found = allocate_table(problem.table, budget_w=problem.budget_w)
    return _candidate(problem, problem.caps_w[np.arange(problem.units.n), found.choice])


def _independent(problem: DrawProblem, **_: Any) -> Candidate[Floats]:
    """Every node alone, with the floor of its units and a part of the rest by nameplate."""
    units, caps = problem.units, np.empty(problem.units.n)
    floor = problem.cost[:, 0]
    spare = max(0.0, problem.budget_w - float(floor.sum()))
    for node in np.unique(units.node):
        mine = np.flatnonzero(units.node == node)
        width = problem.caps_w.shape[1]
        table = CurveTable(
            problem.cost[mine].ravel(), problem.worth[mine].ravel(),
            np.arange(len(mine) + 1) * width, np.ones(len(mine) * width, bool),
        )  # fmt: skip
        part = float(units.max_w[mine].sum() / units.max_w.sum())
        found = allocate_table(table, budget_w=float(floor[mine].sum()) + spare * part + 1e-9)
        caps[mine] = problem.caps_w[mine, found.choice]
    return _candidate(problem, caps)


def _common(problem: DrawProblem, **_: Any) -> Candidate[Floats]:
    """One share of every unit's highest limit, as high as the budget allows."""
    fits = np.flatnonzero(problem.cost.sum(axis=0) <= problem.budget_w + 1e-6)
    return _candidate(problem, problem.caps_w[:, int(fits[-1]) if len(fits) else 0])


def _lowest(problem: DrawProblem, **_: Any) -> Candidate[Floats]:
    return _candidate(problem, problem.caps_w[:, 0])


def _bound(problem: DrawProblem) -> float:
    """The linear relaxation over the grid's caps: no choice among them is worth more."""
    return -allocate_table(problem.table, budget_w=problem.budget_w).upper_bound


def _check(problem: DrawProblem, caps: Floats) -> None:
    """Raise SolverFailed when caps break a limit of a unit or count for more than the budget."""
    units = problem.units
    if caps.shape != (units.n,) or not np.isfinite(caps).all():
        raise SolverFailed(f"wants {units.n} finite caps, got shape {caps.shape}")
    if (caps < units.min_w - 1e-6).any() or (caps > units.max_w + 1e-6).any():
        worst = int(np.argmax(np.maximum(units.min_w - caps, caps - units.max_w)))
        raise SolverFailed(f"cap {caps[worst]:g} W of {units.ids[worst]} is outside its limits")
    counted = float(problem.of_caps(caps, problem.cost).sum())
    if counted > problem.budget_w + 1e-3:
        raise SolverFailed(f"caps count for {counted:g} W of {problem.budget_w:g} W")
