"""Pipeline frontier against brute force, the scipy linear programme, and refusals."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError, SolverFailed
from qcluster.q_energy import Frontier, Op, one_f_one_b, pipeline_frontier
from qcluster.q_energy.frontier import _bindings


def random_ops(seed: int, n: int, k: int) -> list[Op]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        time = np.sort(rng.uniform(1, 5, k))
        energy = np.sort(rng.uniform(1, 9, k))[::-1]
        after = tuple(j for j in range(i) if rng.random() < 0.5)
        out.append(Op(i, tuple(time), tuple(energy), after))
    return out


def span(ops: list[Op], choice: np.ndarray) -> tuple[float, float]:
    """(makespan, energy) recomputed from the ops alone."""
    end: dict[object, float] = {}
    waiting = list(zip(ops, choice, strict=True))
    while waiting:
        op, at = waiting.pop(0)
        if all(o in end for o in op.after):
            end[op.id] = max((end[o] for o in op.after), default=0.0) + op.time_s[at]
        else:
            waiting.append((op, at))
    return max(end.values()), sum(op.energy_j[a] for op, a in zip(ops, choice, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
def test_bound_and_plan_enclose_the_best_discrete_plan(seed: int, n: int, k: int) -> None:
    ops = random_ops(seed, n, k)
    frontier = pipeline_frontier(ops, points=4)
    everything = [span(ops, np.array(c)) for c in itertools.product(range(k), repeat=n)]
    for point in frontier.points:
        took, energy = span(ops, point.choice)
        assert took == pytest.approx(point.time_s)
        assert took <= point.deadline_s * (1 + 1e-9)
        assert energy == pytest.approx(point.energy_j)
        best = min(e for t, e in everything if t <= point.deadline_s * (1 + 1e-9))
        assert point.lower_bound_j <= best + 1e-6
        assert best <= point.energy_j + 1e-9


def test_chain_bound_is_the_relaxation_by_hand() -> None:
    # Two equal ops in a row; at 3 s the relaxation slows both halfway, a plan slows one.
    ops = [Op("a", (1, 2), (10, 4)), Op("b", (1, 2), (10, 4), ("a",))]
    frontier = pipeline_frontier(ops, points=3)
    assert [p.deadline_s for p in frontier.points] == pytest.approx([2, 3, 4])
    assert [p.lower_bound_j for p in frontier.points] == pytest.approx([20, 14, 8])
    assert [p.energy_j for p in frontier.points] == pytest.approx([20, 14, 8])


def test_blocking_power_counts_waiting_devices() -> None:
    ops = [Op("a", (1, 2), (10, 9)), Op("b", (1.0,), (5.0,), ("a",))]
    frontier = pipeline_frontier(ops, points=1, blocking_w=3.0, devices=2)
    point = frontier.points[0]
    # Ops 15 J, and 2 devices over 2 s less 2 s of running, at 3 W. Slowing a no longer pays.
    assert point.energy_j == pytest.approx(15 + 3 * (4 - 2))
    assert len(pipeline_frontier(ops, points=2, blocking_w=3.0, devices=2).points) == 2


def test_pipeline_order_and_quality() -> None:
    share = np.linspace(0.5, 1.0, 40)
    took = 0.01 * (0.3 + 0.7 / share)
    curve = (took, took * (90 + 560 * share**2.6))
    ops = one_f_one_b(4, 6, [curve] * 4, [(2 * curve[0], 2 * curve[1])] * 4)
    assert len(ops) == 48
    assert ops[0].id == "f0.0"
    assert set(next(op.after for op in ops if op.id == "b3.0")) == {"f3.0"}
    frontier = pipeline_frontier(ops, points=8)
    energy = [p.energy_j for p in frontier.points]
    assert energy == sorted(energy, reverse=True)
    for point in frontier.points:
        assert point.energy_j / point.lower_bound_j < 1.005
        assert span(ops, point.choice)[0] <= point.deadline_s * (1 + 1e-9)
    assert Frontier.from_dict(frontier.to_dict()) == frontier


def test_one_clock_leaves_nothing_to_choose() -> None:
    frontier = pipeline_frontier([Op("a", (2.0,), (3.0,))], points=2)
    assert [p.energy_j for p in frontier.points] == [3.0, 3.0]
    assert [p.lower_bound_j for p in frontier.points] == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pipeline_frontier([]), "at least one op"),
        (lambda: pipeline_frontier([Op("a", (1,), (1,), ("x",))]), "'x', which is none"),
        (lambda: pipeline_frontier([Op("a", (1,), (1,), ("a",))]), "wait for each other"),
        (lambda: pipeline_frontier([Op("a", (1,), (1,))] * 2), "stands twice"),
        (lambda: pipeline_frontier([Op("a", (1,), (1,))], points=0), "at least 1"),
        (lambda: pipeline_frontier([Op("a", (1,), (1,))], blocking_w=-1), "watts"),
        (lambda: Op("a", (), ()), "above 0"),
        (lambda: Op("a", (0,), (1,)), "above 0"),
        (lambda: Op("a", (float("nan"),), (1,)), "above 0"),
        (lambda: Op("a", (1, 2), (1,)), "wants 2 values"),
        (lambda: Op("a", (1,), (1,), (), (5, 6)), "wants 1 clocks"),
    ],
)
def test_bad_input_is_named(make, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_without_solver_bindings_the_refusal_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("highspy", "scipy.optimize._highspy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SolverFailed, match="install highspy"):
        _bindings()


def test_missing_curves_are_named() -> None:
    for time_s in (None, ("a",)):
        with pytest.raises(InputError, match=r"op 0.time_s.*row of numbers"):
            Op(0, time_s, (1.0,))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="curves for each stage"):
        one_f_one_b(2, 4, [((1.0,), (1.0,))], [((1.0,), (1.0,))])
