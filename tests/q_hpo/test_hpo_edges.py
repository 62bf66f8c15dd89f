"""Spaces, arguments and values at the edge: refused in one line, or searched like any other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from actors.studies import StudyHost
from qcluster.errors import InputError
from qcluster.q_hpo import Study

U: dict[str, Any] = {"type": "uniform", "low": 0, "high": 1}
HUGE = 10**400


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ({"a": U, "a/b": U}, "group"),
        ({"a/b": U, "a": 3}, "group"),
        ({"a/": U}, "empty part"),
        ({"/a": U}, "empty part"),
        ({"x": {"type": "uniform", "low": -1e308, "high": 1e308}}, "too far apart"),
        ({"x": {"type": "int", "low": 1, "high": HUGE}}, "not finite"),
        ({"x": {"type": "quniform", "low": 0, "high": 1, "q": HUGE}}, "positive step"),
    ],
)
def test_spaces_at_the_edge_are_refused(space: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as found:
        Study(space)
    assert len(str(found.value)) < 200


@pytest.mark.parametrize(
    "options",
    [
        {"points": [1]}, {"points": "ab"}, {"points": {"x": 1}}, {"pool": "x"}, {"pool": [None]},
        {"pool": []}, {"max_step": "a"}, {"max_step": 0}, {"max_step": True}, {"strategy": 1},
        {"strategy": None}, {"strategy": {"name": [1]}}, {"strategy": []}, {"seed": None},
        {"mode": 1}, {"points": [{"x": math.nan}]},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_refused_in_python_and_by_the_host(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        Study({"x": U}, **options)
    host = StudyHost(str(tmp_path))
    with pytest.raises(InputError):
        host.create("s", {"x": U}, options)
    assert host.list() == []


SPACES: list[dict[str, Any]] = [
    {"x": {"type": "loguniform", "low": 5e-324, "high": 1e308}},
    {"x": {"type": "randint", "low": 0, "high": 10**15}},
    {"x": {"type": "quniform", "low": 0, "high": 1, "q": 1e-15}},
    {"x": {"type": "randn", "mean": 1e6, "sd": 1e-6}},
    {"x": {"type": "choice", "values": [[1, 2], {"a": 1}, None, True, 1, "1"]}},
    {"x": {"type": "choice", "values": list(range(300))}},
    {"x": {"type": "int", "low": 1, "high": 100, "log": True, "step": 3}},
    {"x": {"type": "randint", "low": 3, "high": 4}},
    {"optimizer": {"type": {"type": "choice", "values": ["sgd", "adam"]}, "lr": U}},
    {"学习率": U, "a b": U, "empty": {}},
    {"k": {"type": "choice", "values": ["a", "b", "c"]},
     "x": {**U, "when": {"parent": "k", "in": ["a", "b"]}},
     "z": {"type": "randint", "low": 0, "high": 5, "when": {"parent": "k", "in": ["b"]}},
     "y": {"type": "choice", "values": [1, 2], "when": {"parent": "z", "in": [3, 4]}},
     "w": {"type": "constant", "value": 7, "when": {"parent": "k", "in": ["c"]}}},
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=range(len(SPACES)))
def test_unusual_spaces_are_searched_saved_and_resumed(
    space: dict[str, Any], tmp_path: Path
) -> None:
    """Every suggestion is a configuration of the space, and a study from disk suggests the same."""
    study = Study(space, seed=1)
    for i in range(9):
        trial = study.ask()
        assert study.space.config(study.space.point(trial.config)) == trial.config
        study.tell(trial.id, float(i % 4))
    study.save(tmp_path / "s")
    again = Study.load(tmp_path / "s")
    assert again.ask().config == study.ask().config


def test_a_value_beyond_all_floats_is_not_finite() -> None:
    study = Study({"x": U})
    assert study.tell(study.ask().id, HUGE).status == "nan"
