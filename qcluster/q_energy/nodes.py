"""Fewest accelerators that do a piece of work in time, under a power budget.

Work is shared over the active ones, so it takes work / (sum of their throughput). Which are on and
at which operating point is a multiple-choice knapsack with a count to minimise: an integer
programme for HiGHS, with a search by prices on watts (Everett 1963) in front, which also proves a
bound, and which answers alone where the programme would be too large to end in time. Idle power of
accelerators that are off is not counted; give it as part of what the budget excludes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, Infeasible, InputError, SolverFailed
from qcluster.fallback import Candidate, CircuitBreaker, Stage, certified
from qcluster.plan import SolverRef
from qcluster.q_energy.budget import allocate_table
from qcluster.q_energy.curve_table import CurveTable
from qcluster.q_energy.problem import Curve, check_watts
from qcluster.record import Record

__all__ = ["NodeSelection", "select_nodes"]

Choice = NDArray[np.int64]

_BREAKER = CircuitBreaker()
# Operating points up to which HiGHS keeps its time limit.
_MILP_POINTS = 4_000
_PRICES = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeSelection(Record):
    """Which accelerators are active and how they run.

    ``choice`` (n,) indexes each curve's points, -1 for off; ``active`` counts the others and is
    the objective, ``lower_bound`` a proof. ``time_s`` is what the work takes, ``power_w`` the sum
    of active watts.
    """

    choice: Choice
    active: int
    lower_bound: int
    time_s: float
    power_w: float
    slo_s: float
    budget_w: float
    solver: SolverRef
    baselines: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Problem:
    table: CurveTable
    need: float
    budget_w: float


def select_nodes(
    curves: Sequence[Curve],
    *,
    slo_s: float,
    budget_w: float,
    work: float = 1.0,
    deadline_s: float = 1.0,
) -> NodeSelection:
    """The smallest set of accelerators, with operating points, that meets the objective.

    Parameters
    ----------
    curves: throughput over power of each accelerator, at least one; throughput at least 0.
    slo_s: seconds within which ``work`` must be done, above 0.
    budget_w: watts that the active ones may draw.
    work: in the curves' unit of work, above 0.
    deadline_s: seconds for the answer.

    Raises InputError for bad values; Infeasible with the shortest time that the budget allows.
    """
    if isinstance(curves, Curve) or not isinstance(curves, Sequence) or not len(curves):
        raise InputError("wants a list of at least one curve", field="curves")
    for name, value in (("slo_s", slo_s), ("work", work)):
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise InputError(f"wants a number above 0, got {value!r}", field=name)
    problem = _Problem(_with_off(curves), work / slo_s, check_watts(budget_w, "budget_w"))
    answer = certified(
        problem,
        stages=[Stage("milp", _milp)] if len(problem.table.power) <= _MILP_POINTS else [],
        fallback=Stage("greedy", _greedy),
        baselines=[],
        bound=_bound,
        verify=_check,
        deadline=Deadline.after(deadline_s),
        breaker=_BREAKER,
    )
    table, choice = problem.table, answer.value
    return NodeSelection(
        choice=np.where(choice == table.begin[1:] - 1, -1, choice - table.begin[:-1]),
        active=int(answer.certificate.objective),
        lower_bound=math.ceil((answer.certificate.lower_bound or 0.0) - 1e-6),
        time_s=work / float(table.value[choice].sum()),
        power_w=float(table.power[choice].sum()),
        slo_s=slo_s,
        budget_w=problem.budget_w,
        solver=answer.solver,
        baselines=answer.certificate.baselines,
    )


def _with_off(curves: Sequence[Curve]) -> CurveTable:
    """The curves with one more point each, last: off, no watts and no work."""
    extended = []
    for index, curve in enumerate(curves):
        if not isinstance(curve, Curve):
            message = f"wants a Curve, got {type(curve).__name__}"
            raise InputError(message, field=f"curves[{index}]")
        if (curve.throughput < 0).any():
            raise InputError("wants throughput of at least 0", field=f"curves[{index}]")
        extended.append(
            (np.append(curve.power_w, 0.0), np.append(curve.throughput, 0.0),
             np.append(curve.allowed, True))
        )  # fmt: skip
    power, value, allowed = (np.concatenate(part) for part in zip(*extended, strict=True))
    begin = np.concatenate([[0], np.cumsum([len(p) for p, _, _ in extended])])
    return CurveTable(power, value, begin, allowed)


def _greedy(problem: _Problem, **_: Any) -> Candidate[Choice]:
    """The least count that is found to be in time, with the most that is proven not to be.

    Raises Infeasible when even all of them are not, naming the shortest time found.
    """
    low, high = max(1, int(_bound(problem))), problem.table.n
    proven, found, m = low, None, low
    while low <= high:
        # The most throughput of m accelerators grows with m; few more than the bound are the rule.
        choice, too_few = _few(problem, m)
        if choice is not None:
            found, high = choice, m - 1
        else:
            proven = max(proven, m + 1) if too_few else proven
            low = m + 1
        m = (low + high) // 2 if found is not None else min(2 * m, high)
    if found is None:
        return _candidate(problem, _rescue(problem))
    return _candidate(problem, found, float(proven))


def _few(problem: _Problem, m: int) -> tuple[Choice | None, bool]:
    """A choice of at most m accelerators that is in time, or whether none is, by proof.

    At a price on watts every accelerator has one best point, and the m that are worth most are
    the best set at that price; its worth with the budget's bounds the throughput of all sets.
    """
    t = problem.table
    owner = np.repeat(np.arange(t.n), np.diff(t.begin))
    drawing = t.allowed & (t.power > 0)
    low, high = 0.0, float((t.value[drawing] / t.power[drawing]).max(initial=0.0)) * 1.001
    price, bound = 0.0, math.inf
    sets: list[NDArray[np.int64]] = []
    for _ in range(_PRICES):
        score = np.where(t.allowed, t.value - price * t.power, -np.inf)
        worth = np.maximum.reduceat(score, t.begin[:-1])
        taken = np.argpartition(-worth, m - 1)[:m] if m < t.n else np.arange(t.n)
        bound = min(bound, float(worth[taken].sum()) + price * problem.budget_w)
        if bound < problem.need * (1 - 1e-9):
            return None, True
        best = np.flatnonzero(score == worth[owner])
        first = best[np.searchsorted(owner[best], taken)]
        within = float(t.power[first].sum()) <= problem.budget_w
        sets = [*sets[-1:], taken]
        if within and t.value[first].sum() >= problem.need * (1 - 1e-12):
            choice = t.begin[1:] - 1
            choice[taken] = first
            return choice, False
        if within and price == 0.0:
            break
        low, high = (low, price) if within else (price, high)
        price = (low + high) / 2
    best_ones = np.maximum.reduceat(np.where(t.allowed, t.value, 0.0), t.begin[:-1])
    for members in (*sets, np.argsort(-best_ones, kind="stable")[:m]):
        filled = _filled(problem, members)
        if filled is not None:
            return filled, False
    return None, False


def _filled(problem: _Problem, members: NDArray[np.int64]) -> Choice | None:
    """The budget shared over these accelerators, None when that is not in time."""
    t = problem.table
    on = np.zeros(t.n, bool)
    on[members] = True
    off = np.zeros(len(t.power), bool)
    off[t.begin[1:] - 1] = True
    owner = np.repeat(np.arange(t.n), np.diff(t.begin))
    few = CurveTable(t.power, t.value, t.begin, t.allowed & (on[owner] | off))
    shared = allocate_table(few, budget_w=problem.budget_w)
    in_time = shared.value >= problem.need * (1 - 1e-12)
    return shared.choice + t.begin[:-1] if in_time else None


def _rescue(problem: _Problem) -> Choice:
    """When sharing falls just short: the integer programme for the most throughput."""
    whole = allocate_table(problem.table, budget_w=problem.budget_w)
    if whole.upper_bound >= problem.need and len(problem.table.power) <= _MILP_POINTS:
        try:
            return _milp(problem, deadline=Deadline.after(5.0)).value
        except (SolverFailed, DeadlineExceeded):
            pass
    if whole.value <= 0:
        t = problem.table
        least = float(t.power[t.allowed & (t.value > 0)].min(initial=math.inf))
        short = f"the first needs {least - problem.budget_w:g} W more"
        why = short if math.isfinite(least) else "no point has any throughput"
        message = f"within {problem.budget_w:g} W none of {t.n} can be on: {why}"
        raise Infeasible(message, field="budget_w")
    raise Infeasible(
        f"within {problem.budget_w:g} W all {problem.table.n} together take "
        f"{problem.need / whole.value:.4g} times as long as allowed",
        field="slo_s",
    )


def _milp(problem: _Problem, *, deadline: Deadline, **_: Any) -> Candidate[Choice]:
    """Least count, ties by watts, as an integer programme over the points."""
    import scipy.sparse as sp
    from scipy.optimize import Bounds, LinearConstraint, milp

    t = problem.table
    off = np.zeros(len(t.power), bool)
    off[t.begin[1:] - 1] = True
    on = np.flatnonzero(t.allowed & ~off & (t.value > 0))
    owner = np.repeat(np.arange(t.n), np.diff(t.begin))[on]
    one = sp.csr_matrix((np.ones(len(on)), (owner, np.arange(len(on)))), shape=(t.n, len(on)))
    rows = sp.vstack([one, sp.csr_matrix(t.power[on]), sp.csr_matrix(t.value[on])])
    low = np.concatenate([np.full(t.n + 1, -np.inf), [problem.need]])
    high = np.concatenate([np.ones(t.n), [problem.budget_w], [np.inf]])
    # All watts together weigh less than one accelerator.
    cost = 1.0 + 0.5 * t.power[on] / max(problem.budget_w, 1e-9)
    found = milp(
        cost,
        constraints=LinearConstraint(rows.tocsc(), low, high),
        integrality=np.ones(len(on)),
        bounds=Bounds(0, 1),
        options={"time_limit": min(max(deadline.remaining(), 0.01), 1e6)},
    )
    if found.x is None:
        raise SolverFailed(f"HiGHS found no selection: {found.message}")
    choice = t.begin[1:] - 1
    taken = on[found.x > 0.5]
    choice[owner[found.x > 0.5]] = taken
    # cost <= count + 0.5 within the budget, so count >= bound - 0.5.
    return _candidate(problem, choice, max(0.0, found.mip_dual_bound - 0.5))


def _bound(problem: _Problem) -> float:
    """Fewest that could be enough with no budget: the fastest first."""
    t = problem.table
    best = np.sort(np.maximum.reduceat(np.where(t.allowed, t.value, 0.0), t.begin[:-1]))[::-1]
    return float(np.searchsorted(np.cumsum(best), problem.need * (1 - 1e-9)) + 1)


def _check(problem: _Problem, choice: Choice) -> None:
    """Raise SolverFailed when a selection is late or over budget."""
    t = problem.table
    if not t.allowed[choice].all() or (choice < t.begin[:-1]).any():
        raise SolverFailed("a selection uses a point that is not allowed")
    if t.power[choice].sum() > problem.budget_w + 1e-6 * max(1.0, problem.budget_w):
        raise SolverFailed("a selection is over the budget")
    if t.value[choice].sum() < problem.need * (1 - 1e-6):
        raise SolverFailed("a selection is late")


def _candidate(
    problem: _Problem, choice: Choice, lower_bound: float | None = None
) -> Candidate[Choice]:
    active = int((choice != problem.table.begin[1:] - 1).sum())
    bound = None if lower_bound is None else float(math.ceil(lower_bound - 1e-6))
    return Candidate(choice, float(active), bound)
