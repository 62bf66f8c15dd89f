"""Frozen dataclasses that turn into plain JSON and back.

``Record`` is the mixin behind every result type: ``to_dict`` gives what ``json.dumps`` accepts
without options, ``from_dict`` gives an equal object. Arrays carry their dtype in the annotation
(``NDArray[np.float64]``), so the JSON needs no type tags. Not-a-number and infinities have no JSON
form and become null; float arrays read null back as NaN, plain floats as None.

It knows no domain: it walks the dataclass fields and their annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from qcluster.errors import FormatError

__all__ = ["Record", "encode"]


class Record:
    """Mixin for frozen dataclasses: JSON out and in, and equality that understands arrays."""

    def to_dict(self) -> dict[str, Any]:
        """The object as JSON types: dict, list, str, int, float, bool, None."""
        return {f.name: encode(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises FormatError for a missing or unknown field, naming it.
        """
        owner: Any = cls
        hints = _hints(owner)
        unknown = set(data) - set(hints)
        if unknown:
            raise FormatError(f"{cls.__name__} has no such field", field=min(unknown))
        missing = [n for n in _required(owner) if n not in data]
        if missing:
            raise FormatError(f"{cls.__name__} needs it", field=missing[0])
        return cls(**{name: _decode(hints[name], value, name) for name, value in data.items()})

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(
            _same(getattr(self, f.name), getattr(other, f.name))
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
        )

    def __hash__(self) -> int:
        return object.__hash__(self)


def encode(value: Any) -> Any:
    """``value`` as JSON types; NaN and infinities become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return encode(value.model_dump(mode="json"))
    if isinstance(value, np.ndarray):
        return encode(value.tolist())
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(encode(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [encode(item) for item in value]
    return value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def _required(cls: Any) -> tuple[str, ...]:
    none = dataclasses.MISSING
    return tuple(
        f.name for f in dataclasses.fields(cls) if f.default is none and f.default_factory is none
    )


def _decode(hint: Any, value: Any, name: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _decode(next(a for a in args if a is not type(None)), value, name)
    if origin is np.ndarray:
        return _decode_array(args, value, name)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value) if isinstance(value, Mapping) else value
    if origin is tuple and args:
        return _decode_tuple(args, value, name)
    if isinstance(origin, type) and issubclass(origin, Mapping) and args:
        return {
            _key(args[0], key): _decode(args[1], item, f"{name}.{key}")
            for key, item in value.items()
        }
    if isinstance(origin, type) and issubclass(origin, Sequence) and args:
        return [_decode(args[0], item, name) for item in value]
    return value


def _decode_array(args: tuple[Any, ...], value: Any, name: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(typing.get_args(args[1])[0])
    if dtype.kind == "f":
        value = _null_to_nan(value)
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise FormatError(f"not an array of {dtype}: {error}", field=name) from None


def _decode_tuple(args: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_decode(args[0], item, name) for item in value)
    return tuple(_decode(arg, item, name) for arg, item in zip(args, value, strict=True))


def _null_to_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_null_to_nan(item) for item in value]
    return math.nan if value is None else value


def _key(hint: Any, key: str) -> Any:
    return int(key) if hint is int else key


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        floats = a.dtype.kind == "f" and b.dtype.kind == "f"
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=floats))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
