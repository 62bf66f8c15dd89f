"""Caps for all units where the draw predicted under them counts, and not their sum.

A cap is room to draw, and a new job may use all of it before the next plan. So a reserve is kept
that covers what new jobs may add in all but a few of ten thousand periods (a quantile of a compound
Poisson sum), and room has its price in the choice of caps: watts of room count for about the share
by which they raise the reserve.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, SolverFailed
from qcluster.fallback import Candidate, Certified, CircuitBreaker, Stage, certified
from qcluster.q_energy.budget import CurveTable, allocate_table
from qcluster.q_energy.curve_family import GRID
from qcluster.q_energy.identify import Sightings, identify
from qcluster.q_energy.units import Units

__all__ = ["DrawProblem", "claimed_speed", "drawn_under", "seen_units", "solve_draw"]

Floats = NDArray[np.float64]

_RISK = 5e-4  # share of periods in which new jobs may add more than the reserve
_BINS = 1024
_DEVIATIONS = 4.0  # of the sum, about where its quantile lies: gives the price of room
_BASE = 0.0015  # of the budget: what the sum of predictions errs by
_MOST_PRICE = 0.25
_ROUNDS = 3
_BREAKER = CircuitBreaker()


@dataclass(frozen=True)
class DrawProblem:
    """``caps_w``, ``draw_w`` and ``speed`` (n, grid): what each unit's cap at a grid point is, lets
    it draw and lets it work. ``budget_w`` is for draws with ``price`` times their rooms.
    """

    units: Units
    caps_w: Floats
    draw_w: Floats
    speed: Floats
    budget_w: float
    price: float = 0.0

    @classmethod
    def of(cls, units: Units, sightings: Sightings, budget_w: float) -> DrawProblem:
        """From what was seen. Raises Infeasible naming the smallest feasible budget."""
        caps = np.clip(GRID * units.max_w[:, None], units.min_w[:, None], None)
        power, speed = identify(sightings)
        draw = np.maximum.accumulate(np.exp(power), axis=1) * units.max_w[:, None]
        rate = np.maximum.accumulate(np.minimum(np.exp(speed), 1.0), axis=1)
        draw, rate = _at(caps, units.max_w, draw), _at(caps, units.max_w, rate)
        draw = np.minimum(draw, caps)
        least, over = float(draw[:, 0].sum()), float(units.overhead_w.sum())
        if budget_w < over + least - 1e-6:
            raise Infeasible(
                f"{budget_w:.6g} W is {over + least - budget_w:.6g} W short of the draw at the "
                f"lowest limits; the smallest feasible budget is {over + least:.6g} W "
                f"({over:.6g} W that no cap reaches)",
                field="budget_w",
            )
        return cls(units, caps, draw, rate, budget_w - over)

    @property
    def cost(self) -> Floats:
        """(n, grid) watts that each cap counts for."""
        return self.draw_w + self.price * (self.caps_w - self.draw_w)

    def table(self) -> CurveTable:
        """Speed over cost of every unit."""
        n, points = self.caps_w.shape
        begin = np.arange(n + 1) * points
        return CurveTable(self.cost.ravel(), self.speed.ravel(), begin, np.ones(n * points, bool))

    def of_caps(self, caps: Floats, values: Floats) -> Floats:
        """(n,) values (n, grid) at caps (n,)."""
        rows = np.arange(self.units.n)
        low = np.clip((self.caps_w <= caps[:, None]).sum(axis=1) - 1, 0, len(GRID) - 2)
        first, second = self.caps_w[rows, low], self.caps_w[rows, low + 1]
        part = np.clip((caps - first) / np.maximum(second - first, 1e-12), 0.0, 1.0)
        return np.asarray(values[rows, low] * (1.0 - part) + values[rows, low + 1] * part)


def _at(caps: Floats, max_w: Floats, values: Floats) -> Floats:
    """(n, k) values (n, grid) at caps (n, k), linear between grid points."""
    place = (caps / max_w[:, None] - GRID[0]) / (GRID[1] - GRID[0])
    low = np.clip(place.astype(int), 0, len(GRID) - 2)
    part = np.clip(place - low, 0.0, 1.0)
    first = np.take_along_axis(values, low, axis=1)
    second = np.take_along_axis(values, low + 1, axis=1)
    return np.asarray(first * (1.0 - part) + second * part)


def solve_draw(
    units: Units,
    sightings: Sightings,
    budget_w: float,
    *,
    shared: bool,
    period_s: float,
    deadline: Deadline,
) -> tuple[DrawProblem, Certified[Floats], float]:
    """The problem less its reserve, caps (n,) with their certificate, and the reserve in watts."""
    problem = DrawProblem.of(units, sightings, budget_w)
    share = min(1.0, sightings.change_rate * period_s)
    reserve = 0.0
    trial = problem
    for _ in range(_ROUNDS):
        room = _room(trial, _hull(trial).value)
        reserve, price = _reserve(room, share)
        reserve += _BASE * problem.budget_w
        # Room is in the reserve already, so the budget for priced draws is larger by its price.
        floor = float((problem.draw_w + price * (problem.caps_w - problem.draw_w))[:, 0].sum())
        left = max(problem.budget_w - reserve + price * float(room.sum()), floor)
        trial = dataclasses.replace(problem, budget_w=left, price=price)
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
    power, _ = identify(sightings)
    draw = np.maximum.accumulate(np.exp(power), axis=1) * units.max_w[:, None]
    return np.minimum(_at(caps[:, None], units.max_w, draw)[:, 0], caps)


def claimed_speed(units: Units, sightings: Sightings, caps: Floats) -> float:
    """Sum of the speeds that caps (n,) are predicted to allow."""
    problem = DrawProblem.of(units, sightings, math.inf)
    return float(problem.of_caps(caps, problem.speed).sum())


def seen_units(units: Units, sightings: Sightings) -> Units:
    """Units whose demand is the draw predicted without a cap."""
    demand = np.maximum(drawn_under(units, sightings, units.max_w), 1.0)
    return dataclasses.replace(
        units, demand_w=demand, p50_w=demand, idle_w=np.minimum(units.idle_w, 0.9 * demand)
    )


def _room(problem: DrawProblem, caps: Floats) -> Floats:
    return np.maximum(caps - problem.of_caps(caps, problem.draw_w), 0.0)


def _reserve(room: Floats, share: float) -> tuple[float, float]:
    """Watts for what new jobs in ``share`` of the units may add, and what room adds to that."""
    mean, square = share * float(room.sum()), share * float((room**2).sum())
    if mean <= 0:
        return 0.0, 0.0
    spread = math.sqrt(square)
    price = min(_MOST_PRICE, share + _DEVIATIONS * square / mean * share / spread)
    # The sum's distribution by Fourier transform; the range is far beyond the quantile.
    width = (mean + 8.0 * spread + 4.0 * float(room.max())) / _BINS
    places = np.minimum(np.ceil(room / width).astype(int), _BINS - 1)
    one = np.bincount(places, minlength=_BINS) / len(room)
    phase = np.fft.rfft(one)
    total = np.fft.irfft(np.exp(share * len(room) * (phase - 1.0)), _BINS)
    at = int(np.searchsorted(np.cumsum(total), 1.0 - _RISK))
    return min(at, _BINS - 1) * width, price


def _candidate(problem: DrawProblem, caps: Floats) -> Candidate[Floats]:
    return Candidate(caps, -float(problem.of_caps(caps, problem.speed).sum()))


def _hull(problem: DrawProblem, **_: Any) -> Candidate[Floats]:
    """Concave-hull greedy over all units."""
    found = allocate_table(problem.table(), budget_w=problem.budget_w)
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
            problem.cost[mine].ravel(), problem.speed[mine].ravel(),
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
    """The linear relaxation over the grid's caps: no choice among them has more speed."""
    return -allocate_table(problem.table(), budget_w=problem.budget_w).upper_bound


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
