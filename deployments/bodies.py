"""Reading JSON bodies that anybody may have sent: depth first, then strictly.

Python's own parser takes NaN, keeps the last of two equal keys, and hands on lone surrogates that
no answer could be encoded with; here each of them is refused by name.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qcluster.errors import InputError

__all__ = ["check_depth", "read_json", "read_object"]

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def check_depth(body: bytes, limit: int) -> None:
    """Raise InputError when JSON nests deeper than ``limit``, before a parser recurses into it."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    depth = 0
    for match in _BRACKETS.finditer(body):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            if depth > limit:
                raise InputError(f"JSON is nested deeper than {limit} levels")
        elif token in (b"]", b"}"):
            depth -= 1


def read_json(body: bytes) -> Any:
    """The value of a JSON body.

    Raises InputError for text that is not JSON: NaN and infinities, numbers beyond double range,
    an object that says a name twice, half of a surrogate pair, bytes that are not UTF-8.
    """
    try:
        text = body.decode("utf-8")
        data = json.loads(
            text, parse_constant=_constant, parse_float=_float, object_pairs_hook=_unique
        )
        if _SURROGATE.search(body):
            _no_lone_surrogates(data)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}") from None
    return data


def read_object(body: bytes) -> dict[str, Any]:
    """The object in a JSON body. Raises InputError."""
    data = read_json(body)
    if not isinstance(data, dict):
        raise InputError(f"wants a JSON object, not {type(data).__name__}")
    return data


def _constant(name: str) -> None:
    raise InputError(f"{name} is not a number that JSON has")


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise InputError(f"{text[:40]} is beyond the range of numbers")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError("stands twice in one object", field=twice[:80])
    return found


def _no_lone_surrogates(data: Any) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("half of a surrogate pair is no text") from None
