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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from qcluster.errors import FormatError

__all__ = ["Record", "encode"]


class Record:
    """Mixin for frozen dataclasses: JSON out and in, and equality that understands arrays."""

    def to_dict(self) -> dict[str, Any]:
        """The object as JSON types: dict, list, str, int, float, bool, None."""
        return {name: encode(getattr(self, name)) for name in _names(type(self))}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from ``to_dict``'s output.

        Raises FormatError for a missing or unknown field, naming it.
        """
        owner: Any = cls
        hints = _hints(owner)
        unknown = data.keys() - hints.keys()
        if unknown:
            raise FormatError(f"{cls.__name__} has no such field", field=min(unknown))
        missing = [n for n in _required(owner) if n not in data]
        if missing:
            raise FormatError(f"{cls.__name__} needs it", field=missing[0])
        return cls(**{name: _decoder(hints[name])(value, name) for name, value in data.items()})

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
    kind = type(value)
    # Plans are mostly short strings and numbers: the common types are told by identity.
    if kind in _AS_IT_IS:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is dict:
        return {str(key): encode(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [encode(item) for item in value]
    if kind is np.ndarray:
        return _encode_array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, name)) for name in _names(kind)}  # type: ignore[arg-type]
    return _encode_other(value)


_AS_IT_IS = frozenset({str, int, bool, type(None)})


def _encode_array(value: np.ndarray[Any, Any]) -> Any:
    if value.dtype.kind in "iub" or (value.dtype.kind == "f" and np.isfinite(value).all()):
        return value.tolist()
    return encode(value.tolist())


def _encode_other(value: Any) -> Any:
    """Subclasses of plain types, NumPy scalars, pydantic models, sets."""
    if hasattr(value, "model_dump"):
        return encode(value.model_dump(mode="json"))
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(encode(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [encode(item) for item in value]
    return value


@functools.cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


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


_Decoder = Callable[[Any, str], Any]


@functools.cache
def _decoder(hint: Any) -> _Decoder:
    """What turns JSON into a value of this annotation; made once for each annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = _decoder(next(a for a in args if a is not type(None)))
        if type(None) not in args:
            return inner
        return lambda value, name: None if value is None else inner(value, name)
    if origin is np.ndarray:
        return lambda value, name: _decode_array(args, value, name)
    if isinstance(hint, type) and issubclass(hint, Record):
        return lambda value, _: hint.from_dict(value) if isinstance(value, Mapping) else value
    if origin is tuple and args:
        return _tuple_decoder(args)
    if isinstance(origin, type) and issubclass(origin, Mapping) and args:
        item_of = _decoder(args[1])
        return lambda value, name: {
            _key(args[0], key): item_of(item, f"{name}.{key}") for key, item in value.items()
        }
    if isinstance(origin, type) and issubclass(origin, Sequence) and args:
        each = _decoder(args[0])
        return lambda value, name: [each(item, name) for item in value]
    return lambda value, _: value


def _tuple_decoder(args: tuple[Any, ...]) -> _Decoder:
    if len(args) == 2 and args[1] is Ellipsis:
        each = _decoder(args[0])
        return lambda value, name: tuple([each(item, name) for item in value])
    parts = [_decoder(arg) for arg in args]
    return lambda value, name: tuple(
        [part(item, name) for part, item in zip(parts, value, strict=True)]
    )


def _decode_array(args: tuple[Any, ...], value: Any, name: str) -> np.ndarray[Any, Any]:
    dtype = np.dtype(typing.get_args(args[1])[0])
    if dtype.kind == "f":
        value = _null_to_nan(value)
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise FormatError(f"not an array of {dtype}: {error}", field=name) from None


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
