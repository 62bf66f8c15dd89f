"""Time-energy frontier of a pipeline: which clock each computation runs at for a given iteration
time (Perseus' problem; Chung et al. 2024).

A directed acyclic graph of operations, each with a time and an energy at every clock. For a
deadline the least energy over piecewise-linear convex costs is a linear programme (the time-cost
trade-off of Kelley 1961): one variable a start, one a segment of each cost curve, one row a
precedence. HiGHS' dual simplex starts each deadline from the last one's basis. Its optimum is the
bound; rounding to real clocks makes fractional operations fast and then slows whatever has slack.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError, SolverFailed
from qcluster.q_energy.problem import check_watts
from qcluster.record import Record

__all__ = ["Frontier", "FrontierPoint", "Op", "one_f_one_b", "pipeline_frontier"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Op(Record):
    """An operation with its time and energy at each clock.

    Parameters
    ----------
    id: unique name or number.
    time_s: seconds at each clock, above 0.
    energy_j: joules at each clock, at least 0.
    after: ids of operations that must have ended.
    clock_mhz: the clocks, for the reader of the plan; may be empty.
    """

    id: Any
    time_s: tuple[float, ...]
    energy_j: tuple[float, ...]
    after: tuple[Any, ...] = ()
    clock_mhz: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.id, Hashable) or self.id in ("", None):
            raise InputError(f"wants a name or number, got {self.id!r}", field="op.id")
        where = f"op {self.id}"
        for name in ("time_s", "energy_j"):
            try:
                values = tuple(map(float, getattr(self, name)))
            except (TypeError, ValueError):
                raise InputError("wants a row of numbers", field=f"{where}.{name}") from None
            least = 0.0 if name == "energy_j" else 1e-12
            if not values or not all(math.isfinite(v) and v >= least for v in values):
                raise InputError("wants finite values above 0", field=f"{where}.{name}")
            object.__setattr__(self, name, values)
        if len(self.time_s) != len(self.energy_j):
            message = f"wants {len(self.time_s)} values, got {len(self.energy_j)}"
            raise InputError(message, field=f"{where}.energy_j")
        if self.clock_mhz and len(self.clock_mhz) != len(self.time_s):
            message = f"wants {len(self.time_s)} clocks, got {len(self.clock_mhz)}"
            raise InputError(message, field=f"{where}.clock_mhz")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrontierPoint(Record):
    """One plan: ``choice`` (n,) indexes each op's clocks; ``start_s`` (n,) seconds.

    ``deadline_s`` is the iteration time asked for, ``time_s`` what the plan takes. ``energy_j``
    counts blocking power as ``pipeline_frontier`` says; ``lower_bound_j`` is a proof for every
    plan within the deadline, clocks in between included.
    """

    deadline_s: float
    time_s: float
    energy_j: float
    lower_bound_j: float
    choice: Ints
    start_s: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier(Record):
    """Plans in order of iteration time; ``ids`` (n,) names the ops of their arrays."""

    ids: tuple[Any, ...]
    points: tuple[FrontierPoint, ...]


def pipeline_frontier(
    ops: Sequence[Op], *, points: int = 20, blocking_w: float = 0.0, devices: int = 0
) -> Frontier:
    """Least-energy plans between the shortest and the longest sensible iteration time.

    Parameters
    ----------
    ops: a directed acyclic graph, at least one.
    points: how many deadlines, evenly spaced, at least 1 (the shortest time).
    blocking_w, devices: a device that waits draws ``blocking_w``; with ``devices`` of them the
        energy of a plan is the sum of ops' energies plus blocking power over all time that no op
        runs. 0: ops' energies alone.

    Raises InputError for bad ops, unknown or cyclic precedence, or points below 1.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 1:
        raise InputError(f"wants a count of at least 1, got {points!r}", field="points")
    blocking_w = check_watts(blocking_w, "blocking_w")
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 0:
        raise InputError(f"wants a count of at least 0, got {devices!r}", field="devices")
    graph = _Graph.of(ops, blocking_w)
    shortest = graph.makespan(graph.fastest())
    longest = graph.makespan(graph.cheapest())
    programme = _Programme(graph)
    found = []
    # From the longest to the shortest: each tightens the last optimum, as dual simplex likes.
    for deadline in np.linspace(longest, shortest, points) if points > 1 else [shortest]:
        bound, times = programme.solve(float(deadline))
        choice = graph.round(times, float(deadline))
        start, span = graph.starts(choice)
        idle = blocking_w * devices
        found.append(
            FrontierPoint(
                deadline_s=float(deadline),
                time_s=span,
                energy_j=graph.cost(choice) + idle * float(deadline),
                lower_bound_j=bound + idle * float(deadline),
                choice=choice,
                start_s=start,
            )
        )
    return Frontier(ids=tuple(op.id for op in ops), points=tuple(found[::-1]))


def one_f_one_b(
    stages: int,
    microbatches: int,
    forward: Sequence[tuple[Sequence[float], Sequence[float]]],
    backward: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> list[Op]:
    """The ops of a 1F1B pipeline schedule (Narayanan et al. 2019).

    ``forward`` and ``backward`` hold (time_s, energy_j) at each clock, one pair a stage. Ids are
    ``f<stage>.<microbatch>`` and ``b<stage>.<microbatch>``. Raises InputError for curves missing.
    """
    if min(len(forward), len(backward)) < stages or stages < 1 or microbatches < 1:
        raise InputError(
            "wants a stage and a microbatch, and curves for each stage", field="stages"
        )
    ops = []
    for s in range(stages):
        warm = min(stages - s, microbatches)
        order = [("f", m) for m in range(warm)]
        for m in range(microbatches):
            order.append(("b", m))
            if warm + m < microbatches:
                order.append(("f", warm + m))
        last: list[str] = []
        for kind, m in order:
            source = s - 1 if kind == "f" else s + 1
            after = [*last, *([f"{kind}{source}.{m}"] if 0 <= source < stages else [])]
            if kind == "b" and s == stages - 1:
                after.append(f"f{s}.{m}")
            time_s, energy_j = (forward if kind == "f" else backward)[s]
            name = f"{kind}{s}.{m}"
            ops.append(Op(name, tuple(time_s), tuple(energy_j), tuple(dict.fromkeys(after))))
            last = [name]
    return ops


@dataclass(frozen=True)
class _Graph:
    """Ops as arrays: ``time``, ``cost`` (n, k) by increasing time, the last repeated; ``index``
    (n, k) back to the op's own order; ``hull`` (n, k) marks convex-hull points, ``width`` (n,)
    how many are real. Edges (before, behind); ``order`` a topological order.
    """

    time: Floats
    price: Floats
    index: Ints
    hull: NDArray[np.bool_]
    width: Ints
    before_ptr: Ints
    before: Ints
    behind: Ints
    order: Ints

    @classmethod
    def of(cls, ops: Sequence[Op], blocking_w: float) -> _Graph:
        from qcluster.q_energy.tasks import index_of, rows_of, topological

        index = index_of(ops, Op, "op")
        before = []
        for op in ops:
            unknown = [other for other in op.after if other not in index]
            if unknown:
                raise InputError(f"op {op.id} waits for {unknown[0]!r}, which is none",
                                 field="after")  # fmt: skip
            before.append([index[other] for other in op.after])
        order = topological(before, [op.id for op in ops])
        k = max(len(op.time_s) for op in ops)
        time, price = np.empty((len(ops), k)), np.empty((len(ops), k))
        back, hull = np.zeros((len(ops), k), np.int64), np.zeros((len(ops), k), bool)
        width = np.empty(len(ops), np.int64)
        for row, op in enumerate(ops):
            kept, convex = _pareto(op, blocking_w)
            width[row] = len(kept)
            padded = np.append(kept, np.repeat(kept[-1], k - len(kept)))
            back[row] = padded
            time[row] = np.array(op.time_s)[padded]
            price[row] = np.array(op.energy_j)[padded] - blocking_w * time[row]
            hull[row, : len(kept)] = convex
        ptr, flat = rows_of(before)
        behind = np.repeat(np.arange(len(ops)), np.diff(ptr))
        return cls(time, price, back, hull, width, ptr, flat, behind, order)

    @property
    def n(self) -> int:
        return len(self.time)

    def fastest(self) -> Ints:
        return np.zeros(self.n, np.int64)

    def cheapest(self) -> Ints:
        return self.width - 1

    def starts(self, choice_of_op: Ints) -> tuple[Floats, float]:
        """Earliest starts and makespan for choices in the ops' own order of clocks."""
        at = np.argmax(self.index == choice_of_op[:, None], axis=1)
        return self._starts(at)

    def makespan(self, at: Ints) -> float:
        return self._starts(at)[1]

    def cost(self, choice_of_op: Ints) -> float:
        at = np.argmax(self.index == choice_of_op[:, None], axis=1)
        return float(self.price[np.arange(self.n), at].sum())

    def round(self, times: Floats, deadline: float) -> Ints:
        """Clocks near the programme's times that keep the deadline, then slower where it pays."""
        from qcluster.q_energy import _kernels

        slack = 1e-9 * max(deadline, 1.0)
        at = np.maximum((self.time <= times[:, None] + slack).sum(axis=1) - 1, 0)
        at = np.minimum(at, self.width - 1)
        _, span = self._starts(at)
        if span > deadline * (1 + 1e-9) + slack:
            raise SolverFailed(f"a rounded plan takes {span:g} s of {deadline:g} s")
        rows = np.arange(self.n)
        step = self.time[rows, np.minimum(at + 1, self.width - 1)] - self.time[rows, at]
        part = np.where(step > 0, (times - self.time[rows, at]) / np.maximum(step, 1e-300), 0.0)
        wanted = np.argsort(-part, kind="stable")
        wanted = wanted[part[wanted] > 1e-6]
        _kernels.try_slower(
            wanted, self.time, self.width, self.before_ptr, self.before, self.order,
            deadline * (1 + 1e-12), at,
        )  # fmt: skip
        _kernels.slow_down(
            self.time, self.price, self.width, self.before_ptr, self.before, self.order,
            deadline * (1 + 1e-12), at,
        )  # fmt: skip
        chosen: Ints = self.index[rows, at]
        return chosen

    def _starts(self, at: Ints) -> tuple[Floats, float]:
        from qcluster.q_energy import _kernels

        took = self.time[np.arange(self.n), at]
        start = np.zeros(self.n)
        span = _kernels.longest_path(self.order, self.before_ptr, self.before, took, start)
        return start, float(span)


class _Programme:
    """The linear programme, kept between deadlines with its basis.

    Columns: a start an op, then the finish, then segment lengths. Rows: start of the later op, or
    the finish, minus start and segments of the earlier is at least its shortest time.
    """

    def __init__(self, graph: _Graph) -> None:
        self.graph = graph
        n = graph.n
        self._owner, length, slope = _segments(graph)
        columns = n + 1 + len(length)
        last = np.flatnonzero(np.bincount(graph.before, minlength=n) == 0)
        early = np.concatenate([graph.before, last])
        late = np.concatenate([graph.behind, np.full(len(last), n)])
        rows = len(early)
        count = np.bincount(self._owner, minlength=n)
        first = np.concatenate([[0], np.cumsum(count)])
        row_of, col_of, value = (
            [np.arange(rows)] * 2,
            [late, early],
            [np.ones(rows), -np.ones(rows)],
        )
        spread = np.repeat(np.arange(rows), count[early])
        inside = np.arange(len(spread)) - np.repeat(np.cumsum(count[early]) - count[early],
                                                    count[early])  # fmt: skip
        row_of.append(spread)
        col_of.append(n + 1 + first[early[spread]] + inside)
        value.append(-np.ones(len(spread)))
        import scipy.sparse as sp

        matrix = sp.csc_matrix(
            (np.concatenate(value), (np.concatenate(row_of), np.concatenate(col_of))),
            shape=(rows, columns),
        )
        upper = np.concatenate([np.full(n + 1, np.inf), length])
        cost = np.concatenate([np.zeros(n + 1), slope])
        self._base = float(graph.price[:, 0].sum())
        self._solver = _highs(cost, upper, graph.time[early, 0], matrix)

    def solve(self, deadline: float) -> tuple[float, Floats]:
        """(least cost, time of each op) for a deadline."""
        n = self.graph.n
        self._solver.changeColBounds(n, 0.0, deadline * (1 + 1e-12))
        self._solver.run()
        status = self._solver.modelStatusToString(self._solver.getModelStatus())
        if status != "Optimal":
            raise SolverFailed(f"HiGHS ended with '{status}' at a deadline of {deadline:g} s")
        x = np.array(self._solver.getSolution().col_value)
        longer = np.bincount(self._owner, weights=x[n + 1 :], minlength=n)
        bound = self._base + float(self._solver.getInfo().objective_function_value)
        return bound, self.graph.time[:, 0] + longer


def _segments(graph: _Graph) -> tuple[Ints, Floats, Floats]:
    """Hull segments of all ops: op, seconds, joules per second (negative, rising)."""
    owner, length, slope = [], [], []
    for row in range(graph.n):
        at = np.flatnonzero(graph.hull[row])
        step = np.diff(graph.time[row, at])
        owner.append(np.full(len(step), row))
        length.append(step)
        slope.append(np.diff(graph.price[row, at]) / step)
    return np.concatenate(owner).astype(np.int64), np.concatenate(length), np.concatenate(slope)


def _pareto(op: Op, blocking_w: float) -> tuple[Ints, NDArray[np.bool_]]:
    """Indices of clocks worth using, by rising time and falling cost; which lie on the hull."""
    time = np.array(op.time_s)
    price = np.array(op.energy_j) - blocking_w * time
    order = np.lexsort((price, time))
    ahead = np.minimum.accumulate(np.concatenate([[np.inf], price[order][:-1]]))
    kept = order[price[order] < ahead]
    convex: list[int] = []
    for q in range(len(kept)):
        while len(convex) >= 2:
            a, b = kept[convex[-2]], kept[convex[-1]]
            c = kept[q]
            left = (price[b] - price[a]) * (time[c] - time[a])
            if left < (price[c] - price[a]) * (time[b] - time[a]):
                break
            convex.pop()
        convex.append(q)
    return kept, np.isin(np.arange(len(kept)), convex)


def _highs(cost: Floats, upper: Floats, low: Floats, matrix: Any) -> Any:
    """A HiGHS instance with minimise cost @ x, matrix @ x >= low, 0 <= x <= upper."""
    core, solver = _bindings()
    model = core.HighsLp()
    model.num_col_, model.num_row_ = len(cost), len(low)
    model.col_cost_, model.col_lower_, model.col_upper_ = cost, np.zeros(len(cost)), upper
    model.row_lower_, model.row_upper_ = low, np.full(len(low), np.inf)
    model.a_matrix_.format_ = core.MatrixFormat.kColwise
    model.a_matrix_.start_ = matrix.indptr
    model.a_matrix_.index_ = matrix.indices
    model.a_matrix_.value_ = matrix.data
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(model)
    return solver


def _bindings() -> tuple[Any, Any]:
    """HiGHS' Python bindings and a new solver: highspy where it is installed, else SciPy's own.

    linprog cannot start from a basis; the bindings can. Raises SolverFailed where neither is there,
    as SciPy may move what it does not promise.
    """
    try:
        highspy = importlib.import_module("highspy")
    except ImportError:
        try:
            from scipy.optimize._highspy import _core

            return _core, _core._Highs()  # noqa: SLF001 - SciPy offers no other name
        except (ImportError, AttributeError) as error:
            raise SolverFailed(
                f"finds no HiGHS bindings in this SciPy ({error}): install highspy"
            ) from None
    return highspy, highspy.Highs()
