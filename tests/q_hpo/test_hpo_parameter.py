"""Parameters: values, places on the unit interval, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_hpo.parameter import Condition, Parameter, same_value

NUMBERS = [
    Parameter("a", "float", -2.0, 3.0),
    Parameter("a", "float", 1e-6, 1e-1, log=True),
    Parameter("a", "float", 0.0, 1.0, q=0.1),
    Parameter("a", "float", 1e-4, 1.0, log=True, q=1e-4),
    Parameter("a", "float", 0.05, 1.0, q=0.1, origin=0.05),
    Parameter("a", "int", 1, 7),
    Parameter("a", "int", 1, 1000, log=True),
    Parameter("a", "int", 16, 256, q=16),
    Parameter("a", "int", 3, 11, q=4, origin=3),
    Parameter("a", "int", 5, 5),
    Parameter("a", "normal", 1.0, 2.0),
    Parameter("a", "normal", 1.0, 2.0, q=0.5),
    Parameter("a", "choice", choices=("x", "y", 3, True, 1.5, None)),
    Parameter("a", "constant", choices=({"k": 1},)),
]


@pytest.mark.parametrize("parameter", NUMBERS, ids=str)
@given(u=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_value_and_its_place_belong_together(parameter: Parameter, u: float) -> None:
    value = parameter.value(u)
    place = parameter.unit(value)
    assert 0 <= place <= 1
    again = parameter.value(place)
    if isinstance(value, float):
        assert again == pytest.approx(value, rel=1e-9, abs=1e-12)
    else:
        assert same_value(again, value)
    assert parameter.snap(np.array([place]))[0] == pytest.approx(place, abs=1e-9)


@pytest.mark.parametrize("parameter", NUMBERS, ids=str)
def test_snapping_twice_changes_nothing_and_keeps_the_value(parameter: Parameter) -> None:
    u = np.linspace(0, 1, 101)
    once = parameter.snap(u)
    np.testing.assert_allclose(parameter.snap(once), once, atol=1e-12)
    for before, after in zip(u, once, strict=True):
        a, b = parameter.value(float(before)), parameter.value(float(after))
        assert a == b or a == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize("parameter", [p for p in NUMBERS if p.kind in ("float", "int")], ids=str)
def test_values_stay_inside_and_on_the_step(parameter: Parameter) -> None:
    for u in np.linspace(0, 1, 57):
        value = parameter.value(float(u))
        assert parameter.low - 1e-12 <= value <= parameter.high + 1e-12
        assert isinstance(value, int) == (parameter.kind == "int")
        if parameter.q is not None:
            steps = (value - parameter.origin) / parameter.q
            assert steps == pytest.approx(round(steps), abs=1e-9)


def test_uniform_draws_reach_every_listed_value_equally() -> None:
    draws = np.random.default_rng(0).random(20_000)
    for parameter in (Parameter("a", "int", 1, 4), Parameter("a", "choice", choices=(1, 2, 3, 4))):
        values = [parameter.value(float(u)) for u in draws]
        share = [values.count(v) / len(values) for v in (1, 2, 3, 4)]
        np.testing.assert_allclose(share, 0.25, atol=0.02)


def test_quantised_values_have_no_stray_digits() -> None:
    tenth = Parameter("a", "float", 0.0, 1.0, q=0.1)
    assert [tenth.value(u) for u in np.linspace(0, 1, 11)] == [i / 10 for i in range(11)]


def test_a_step_can_start_at_the_lower_end() -> None:
    every_fourth = Parameter("a", "int", 3, 11, q=4, origin=3)
    assert {every_fourth.value(u) for u in np.linspace(0, 1, 50)} == {3, 7, 11}


def test_a_normal_parameter_is_normal() -> None:
    normal = Parameter("a", "normal", 5.0, 2.0)
    assert normal.value(0.5) == pytest.approx(5.0)
    assert normal.value(0.8413447) == pytest.approx(7.0, abs=1e-4)
    assert math.isfinite(normal.value(0.0))
    assert math.isfinite(normal.value(1.0))


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"kind": "float", "low": 1, "high": 1}, "low < high"),
        ({"kind": "float", "low": 2, "high": 1}, "low < high"),
        ({"kind": "float", "low": 0, "high": 1, "log": True}, "low > 0"),
        ({"kind": "float", "low": math.nan, "high": 1}, "not finite"),
        ({"kind": "float", "low": 0, "high": math.inf}, "not finite"),
        ({"kind": "float", "low": "0", "high": 1}, "numbers"),
        ({"kind": "int", "low": True, "high": 3}, "numbers"),
        ({"kind": "float", "low": 0, "high": 1, "q": 0}, "positive step"),
        ({"kind": "float", "low": 0.1, "high": 0.2, "q": 5}, "no multiple"),
        ({"kind": "normal", "low": 0, "high": 0}, "standard deviation"),
        ({"kind": "choice"}, "no values"),
    ],
)
def test_impossible_parameters_are_refused_by_name(kwargs: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        Parameter("rate", **kwargs)  # type: ignore[arg-type]
    assert "rate" in str(error.value)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Parameter("a", "float", 0, 1), 1.5),
        (Parameter("a", "float", 0, 1), math.nan),
        (Parameter("a", "float", 0, 1), "0.5"),
        (Parameter("a", "int", 0, 3), True),
        (Parameter("a", "choice", choices=("x", 1)), "y"),
        (Parameter("a", "choice", choices=("x", 1)), True),
    ],
)
def test_foreign_values_are_refused(parameter: Parameter, value: object) -> None:
    with pytest.raises(InputError):
        parameter.unit(value)


def test_true_is_not_one() -> None:
    both = Parameter("a", "choice", choices=(1, True))
    assert both.value(both.unit(True)) is True
    assert both.value(both.unit(1)) is not True
    assert same_value([1, "a"], (1, "a"))
    assert not same_value([1], [True])


def test_a_condition_names_its_parent() -> None:
    assert Condition("act", ("relu",)).parent == "act"
