"""Records of the energy room refuse what makes no sense, naming it."""

from __future__ import annotations

import numpy as np
import pytest

from qcluster.errors import InputError
from qcluster.q_energy import Curve, Schedule, Task
from qcluster.q_energy.problem import check_watts


def test_curve_takes_points_in_any_order_and_keeps_it() -> None:
    curve = Curve([300, 100, 200], [3, 1, 2])
    assert curve.power_w.tolist() == [300, 100, 200]
    assert curve.allowed.all()


def test_curve_limits_exclude_points() -> None:
    curve = Curve([100, 200, 300], [1, 2, 3], min_w=150, max_w=250)
    assert curve.allowed.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("power", "value", "words"),
    [
        ([], [], "row of numbers"),
        ([100, 200], [1], "wants 2 values"),
        ([100, float("nan")], [1, 2], r"nan at \[1\]"),
        ([100, 200], [1, float("inf")], r"inf at \[1\]"),
        ([-5, 200], [1, 2], "negative"),
        ([[1, 2]], [1], "row of numbers"),
        (["a"], [1], "wants numbers"),
        (np.array([True]), [1], "booleans"),
    ],
)
def test_curve_refuses(power: object, value: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Curve(power, value)


def test_curve_without_any_allowed_point_says_what_there_is() -> None:
    with pytest.raises(InputError, match="points span 100 to 200 W"):
        Curve([100, 200], [1, 2], min_w=300)


def test_task_options_are_its_modes_or_itself() -> None:
    assert Task("a", 3, 10.0).options == ((3, 10.0),)
    assert Task("a", 3, 10.0, modes=((3, 10), (5, 6))).options == ((3, 10.0), (5, 6.0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", 1, 1.0), "task.id"),
        ((True, 1, 1.0), "task.id"),
        (("a", 1.5, 1.0), "whole number of time steps"),
        (("a", True, 1.0), "whole number of time steps"),
        (("a", -1, 1.0), "0 to"),
        (("a", 10**9, 1.0), "0 to"),
        (("a", 1, -1.0), "at least 0"),
        (("a", 1, float("nan")), "finite"),
        (("a", 1, "5"), "wants watts"),
        (("a", 1, True), "wants watts"),
        (("a", 1, 1.0, "b"), "tuple of task ids"),
        (("a", 1, 1.0, (), ((1,),)), r"modes\[0\]"),
        (("a", 1, 1.0, (), "ab"), "modes"),
    ],
)
def test_task_refuses(arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Task(*arguments)


def test_records_survive_json() -> None:
    curve = Curve([100, 200], [1, 2], min_w=50)
    assert Curve.from_dict(curve.to_dict()) == curve
    task = Task("a", 3, 10.0, ("b",), ((3, 10), (5, 6)))
    assert Task.from_dict(task.to_dict()) == task


def test_watts_accept_numpy_numbers() -> None:
    assert check_watts(np.float32(2.5), "x") == 2.5


def test_schedule_from_dict_names_a_missing_field() -> None:
    with pytest.raises(InputError, match="needs it"):
        Schedule.from_dict({"start": {}})
