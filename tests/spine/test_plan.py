from __future__ import annotations

import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcluster.errors import SolverFailed
from qcluster.plan import (
    Certificate,
    Plan,
    SolverRef,
    certify,
    describe,
    merge_warnings,
    new_plan_id,
    relative_gap,
)

values = st.floats(-1e6, 1e6)


@given(values, values)
def test_gap_is_zero_at_the_bound_and_never_negative(objective: float, bound: float) -> None:
    assume(bound <= objective)
    gap = relative_gap(objective, bound)
    assert gap >= 0
    assert (gap == 0) == (objective == bound)


def test_a_bound_above_the_objective_is_a_broken_proof() -> None:
    with pytest.raises(SolverFailed, match="below its bound"):
        certify(1.0, lower_bound=1.1)
    # Rounding is not: the bound is then the objective itself.
    assert certify(1.0, lower_bound=1.0 + 1e-12).gap == 0


@pytest.mark.parametrize("objective", [math.nan, math.inf])
def test_an_objective_must_be_a_number(objective: float) -> None:
    with pytest.raises(SolverFailed):
        certify(objective, lower_bound=None)


def test_quantum_gain_is_best_classical_minus_ours() -> None:
    found = certify(5.0, lower_bound=4.0, baselines={"a": 4.5, "b": 6.0}, quantum_used=True)
    assert found.quantum_gain == -0.5
    assert found.gap == pytest.approx(0.2)


def test_every_missing_figure_has_a_reason() -> None:
    found = certify(5.0, lower_bound=None, bound_reason="too large")
    assert (found.lower_bound, found.gap, found.quantum_gain) == (None, None, None)
    assert found.reasons == {"lower_bound": "too large", "quantum_gain": "no quantum solver ran"}
    assert "baseline" in certify(5.0, lower_bound=5.0, quantum_used=True).reasons["quantum_gain"]


def test_plan_survives_json() -> None:
    plan = Plan(
        planner="x",
        config={"a": 1},
        seed=3,
        solver=SolverRef(requested="q", used="c", fallback_reason="busy"),
        objective=2.0,
        baselines={"hash": 3.0},
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_plan_ids_sort_by_time_and_differ() -> None:
    ids = [new_plan_id(now) for now in (1.0, 2.0, 1e9)]
    assert ids == sorted(ids)
    assert new_plan_id(5.0) != new_plan_id(5.0)


def test_describe_names_what_matters() -> None:
    line = describe(certify(5.0, lower_bound=4.0, baselines={"hash": 6.0}), " W")
    assert line == "objective 5 W, bound 4 W (gap 20.00%), best baseline hash 6 W"
    assert "no bound: none" in describe(certify(1.0, lower_bound=None, bound_reason="none"))


def test_certificate_is_json() -> None:
    found = certify(5.0, lower_bound=4.0)
    assert Certificate.from_dict(found.to_dict()) == found


def test_warnings_stand_once() -> None:
    assert merge_warnings(["a", "b"], ["b", "c"]) == ["a", "b", "c"]
