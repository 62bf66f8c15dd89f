from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.record import Record, encode


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner(Record):
    name: str
    value: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer(Record):
    ids: NDArray[np.int64]
    load: NDArray[np.float64]
    inner: Inner
    several: tuple[Inner, ...] = ()
    by_name: dict[str, Inner] = field(default_factory=dict)
    by_number: dict[int, float] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "a")
    note: str | None = None


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.integers(-(2**60), 2**60), max_size=5),
    st.lists(numbers, max_size=5),
    st.dictionaries(st.text(max_size=4), numbers, max_size=3),
)
def test_json_round_trip_gives_an_equal_object(
    ids: list[int], load: list[float], by_name: dict[str, float]
) -> None:
    made = Outer(
        ids=np.array(ids, dtype=np.int64),
        load=np.array(load),
        inner=Inner(name="x", value=1.5),
        several=(Inner(name="y"),),
        by_name={k: Inner(name=k, value=v) for k, v in by_name.items()},
        by_number={3: 0.5},
    )
    back = Outer.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False)))
    assert back == made
    assert back.ids.dtype == np.int64
    assert list(back.by_number) == [3]


def test_not_a_number_becomes_null_and_comes_back_in_arrays() -> None:
    made = Outer(ids=np.arange(2), load=np.array([np.nan, 1.0]), inner=Inner(name="x"))
    data = made.to_dict()
    assert data["load"] == [None, 1.0]
    assert np.isnan(Outer.from_dict(data).load[0])
    assert Outer.from_dict(data) == made
    assert encode(math.inf) is None


def test_differences_are_seen() -> None:
    base = Outer(ids=np.arange(2), load=np.zeros(2), inner=Inner(name="x"))
    assert base != Outer(ids=np.arange(3), load=np.zeros(2), inner=Inner(name="x"))
    assert base != Outer(ids=np.arange(2), load=np.ones(2), inner=Inner(name="x"))
    assert base != Outer(ids=np.arange(2), load=np.zeros(2), inner=Inner(name="z"))
    assert base != 3


def test_wrong_fields_are_named() -> None:
    with pytest.raises(FormatError, match="'extra'"):
        Inner.from_dict({"name": "x", "extra": 1})
    with pytest.raises(FormatError, match="'name'"):
        Inner.from_dict({})
    with pytest.raises(FormatError, match="'ids'"):
        Outer.from_dict({"ids": ["a"], "load": [], "inner": {"name": "x"}})


def test_sets_are_sorted_and_numpy_scalars_plain() -> None:
    assert encode({"a": {3, 1}, "b": np.float64(2.0), "c": np.bool_(True)}) == {
        "a": [1, 3],
        "b": 2.0,
        "c": True,
    }
