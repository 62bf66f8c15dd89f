"""The strict JSON reader: what Python's parser lets pass and ours does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.bodies import check_depth, read_json, read_object
from qcluster.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_json_is_read_as_it_is(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert read_json(text.encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": 1e400}', "1e400 is beyond"),
        (b'{"a": -1e400}', "beyond"),
        (b'{"a": 1, "b": 2, "a": 3}', "field 'a': stands twice"),
        (b'{"x": {"a": 1, "a": 1}}', "stands twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"\x80\x04\x95", "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"&a [*a, *a]", "is not JSON"),
        (b"9" * 5000, "is not JSON"),
    ],
)
def test_what_is_not_json_is_refused_by_name(body: bytes, says: str) -> None:
    with pytest.raises(InputError) as error:
        read_json(body)
    assert says in str(error.value)
    str(error.value).encode("ascii", "backslashreplace")


def test_a_whole_surrogate_pair_is_text() -> None:
    assert read_json(b'"\\ud83d\\ude00"') == "\U0001f600"


def test_only_objects_are_objects() -> None:
    assert read_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(InputError, match="not list"):
        read_object(b"[]")


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"[" * 65 + b"]" * 65])
def test_depth_is_limited(body: bytes) -> None:
    with pytest.raises(InputError, match="deeper than 64"):
        check_depth(body, 64)


@pytest.mark.parametrize(
    "body", [b"[" * 64 + b"]" * 64, b"[" + b"[]," * 9999 + b"[]]", b'["[[", "]"]']
)
def test_what_is_wide_or_quoted_is_not_deep(body: bytes) -> None:
    check_depth(body, 64)
