"""Spaces: points, configurations, conditions, and what a model sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.errors import InputError
from qcluster.q_hpo.domains import parse_space
from qcluster.q_hpo.space import flatten, same_config, unflatten
from qcluster.q_hpo.space_json import space_from_json, space_to_json

MIXED: dict[str, Any] = {
    "lr": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "layers": {"type": "randint", "low": 1, "high": 4},
    "batch": {"type": "qrandint", "low": 16, "high": 128, "q": 16},
    "act": {"type": "choice", "values": ["relu", "tanh", "leaky"]},
    "slope": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "act", "in": ["leaky"]}},
    "opt": {
        "name": {"type": "choice", "values": ["sgd", "adam"]},
        "momentum": {
            "type": "quniform", "low": 0, "high": 0.9, "q": 0.1,
            "when": {"parent": "opt/name", "in": ["sgd"]},
        },
    },
    "seed": 7,
}  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_configuration_and_its_point_belong_together(u: list[float]) -> None:
    space = parse_space(MIXED)
    config = space.config(np.array(u))
    np.testing.assert_allclose(space.point(config), space.snap(np.array([u]))[0], atol=1e-9)
    assert ("slope" in config) == (config["act"] == "leaky")
    assert ("momentum" in config["opt"]) == (config["opt"]["name"] == "sgd")
    assert config["seed"] == 7


def test_children_may_be_named_before_their_parents() -> None:
    names = parse_space(
        {
            "b": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "a", "in": [1]}},
            "a": {"type": "choice", "values": [1, 2]},
        }
    ).names
    assert names == ("a", "b")


def test_grandchildren_need_their_whole_line() -> None:
    space = parse_space(
        {
            "a": {"type": "choice", "values": ["x", "y"]},
            "b": {"type": "choice", "values": [1, 2], "when": {"parent": "a", "in": ["x"]}},
            "c": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "b", "in": [2]}},
        }
    )
    assert space.config(np.array([0.9, 0.9, 0.3])) == {"a": "y"}
    assert space.config(np.array([0.1, 0.9, 0.3])) == {"a": "x", "b": 2, "c": 0.3}
    assert space.config(np.array([0.1, 0.1, 0.3])) == {"a": "x", "b": 1}


def test_a_condition_can_hang_on_a_number() -> None:
    space = parse_space(
        {
            "layers": {"type": "int", "low": 1, "high": 3},
            "width": {"type": "int", "low": 8, "high": 64, "when": {"parent": "layers", "in": [3]}},
        }
    )
    assert set(space.config(np.array([0.99, 0.5]))) == {"layers", "width"}
    assert set(space.config(np.array([0.5, 0.5]))) == {"layers"}


def test_inactive_coordinates_do_not_matter() -> None:
    space = parse_space(MIXED)
    a = np.full(8, 0.1)
    b = a.copy()
    b[space.names.index("slope")] = 0.8
    assert same_config(space.config(a), space.config(b))
    np.testing.assert_array_equal(space.snap(a[None]), space.snap(b[None]))


def test_features_are_in_the_unit_cube_and_know_activity() -> None:
    space = parse_space(MIXED)
    points = space.snap(np.random.default_rng(0).random((40, space.d)))
    seen = space.features(points)
    # lr, layers, batch, 3 of act, slope and its flag, name as one column, momentum and its flag.
    assert seen.shape == (40, 11)
    assert seen.min() >= 0
    assert seen.max() <= 1
    flag = seen[:, 7]
    np.testing.assert_array_equal(flag, [float("slope" in space.config(p)) for p in points])
    for k, column in enumerate(space.column_of):
        if column >= 0:
            np.testing.assert_array_equal(seen[:, column], points[:, k])


def test_a_space_of_constants_has_one_configuration() -> None:
    space = parse_space({"a": 1, "b": {"type": "constant", "value": "x"}})
    assert space.config(np.array([0.3, 0.9])) == {"a": 1, "b": "x"}
    assert space.size == 1
    assert space.features(np.array([[0.5, 0.5]])).shape == (1, 1)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"lr": 1e-3}, "missing"),
        ({"lr": 1e-3, "nope": 1}, "not in the space"),
        ({"lr": 5.0, "layers": 1}, "wants 1e-05 to 0.1"),
    ],
)
def test_foreign_configurations_are_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        parse_space(MIXED).point(config)


def test_rows_are_named() -> None:
    space = parse_space({"a": {"type": "uniform", "low": 0, "high": 1}})
    with pytest.raises(InputError, match="row 2"):
        space.points([{"a": 0.5}, {"a": 2.0}])


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({}, "no parameters"),
        ([1], "wants an object"),
        ({"a": {"type": "gaussian"}}, "no type 'gaussian'"),
        ({"a": {"type": "uniform", "low": 0}}, "wants 'high'"),
        ({"a": {"type": "uniform", "low": 0, "high": 1, "q": 1}}, "'q' is not understood"),
        ({"a": {"type": "uniform", "low": True, "high": 1}}, "wants a number"),
        ({"a": {"type": "choice", "values": []}}, "at least one"),
        ({"a": {"type": "choice", "values": [1, 1]}}, "twice"),
        ({"a": {"type": "choice", "values": [float("nan")]}}, "not finite"),
        ({"a": {"grid_search": [1, 2]}}, "grid_search"),
        ({"a": {"type": "int", "low": 1, "high": 3, "log": 1}}, "true or false"),
        ({"a": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "z", "in": [1]}}},
         "not there"),
        ({"a": {"type": "choice", "values": [1], "when": {"parent": "a", "in": [1]}}}, "itself"),
        ({"a": {"type": "choice", "values": [1]},
          "b": {"type": "choice", "values": [1], "when": {"parent": "a", "in": [9]}}}, "never has"),
        ({"a": {"type": "uniform", "low": 0, "high": 1, "when": {"parent": "b"}}}, "'when'"),
        ({"a": len}, "function"),
        ({"a": float("inf")}, "not finite"),
        ({1: 2}, "names as keys"),
        ({"a": {"type": "constant"}}, "'value'"),
    ],
)  # fmt: skip
def test_wrong_spaces_are_refused_in_one_line(data: Any, word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        parse_space(data)
    assert "\n" not in str(error.value)


def test_json_of_a_space_gives_it_back() -> None:
    space = parse_space(MIXED)
    assert space_from_json(space_to_json(space)) == space


def test_values_that_json_cannot_hold_are_asked_for_again() -> None:
    space = parse_space({"a": {"type": "choice", "values": [(1, 2), (3, 4)]}})
    rows = space_to_json(space)
    assert rows[0]["shown"] == ["(1, 2)", "(3, 4)"]
    with pytest.raises(InputError, match="give the space again"):
        space_from_json(rows)


def test_nested_names_flatten_and_come_back() -> None:
    nested = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert flatten(nested) == {"a": 1, "b/c": 2, "b/d/e": 3}
    assert unflatten(flatten(nested)) == nested


def test_ray_domains_are_read_without_importing_ray() -> None:
    tune = pytest.importorskip("ray.tune")
    space = parse_space(
        {
            "a": tune.uniform(0, 1), "b": tune.quniform(0, 1, 0.25), "c": tune.loguniform(1e-4, 1),
            "d": tune.qloguniform(1e-3, 1, 1e-3), "e": tune.randint(0, 4),
            "f": tune.qrandint(2, 10, 2), "g": tune.lograndint(1, 100),
            "h": tune.qlograndint(4, 64, 4), "i": tune.randn(0, 1), "j": tune.qrandn(1, 2, 0.5),
            "k": {"l": tune.choice(["x", "y"])},
        }
    )  # fmt: skip
    rng = np.random.default_rng(0)
    draws = [flatten(space.config(rng.random(space.d))) for _ in range(300)]
    assert {c["e"] for c in draws} == {0, 1, 2, 3}  # the upper end is excluded
    assert {c["f"] for c in draws} == {2, 4, 6, 8, 10}  # with a step it is included
    assert max(c["g"] for c in draws) <= 99
    assert {c["b"] for c in draws} == {0, 0.25, 0.5, 0.75, 1.0}
    assert {c["k/l"] for c in draws} == {"x", "y"}
    assert all((2 * c["j"]).is_integer() for c in draws)
    for wrong in (tune.grid_search([1]), tune.sample_from(lambda spec: 1)):
        with pytest.raises(InputError):
            parse_space({"a": wrong})
