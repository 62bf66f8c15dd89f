"""JSON Schemas of result types, made from the dataclasses' own annotations.

The OpenAPI document and the files under ``docs/schemas`` come from here, so they cannot say
anything else than the code does.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcluster.record import Record

__all__ = ["record_schema"]

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number"}


def record_schema(kind: type[Record]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a Record type, nested types in place."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    summary = (inspect.getdoc(kind) or kind.__name__).split("\n\n")[0].replace("\n", " ")
    return {
        "title": kind.__name__,
        "description": summary,
        "type": "object",
        "properties": {f.name: _schema(hints[f.name]) for f in fields},
        "required": [f.name for f in fields],
    }


def _schema(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        # A float that is NaN or infinite has no JSON form and appears as null.
        kind = _PLAIN[hint]
        return {"type": ["number", "null"]} if kind == "number" else {"type": kind}
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is np.ndarray:
        return {"type": "array", "description": f"array of {_dtype(args)}"}
    if isinstance(hint, type) and issubclass(hint, Record):
        return record_schema(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = [a for a in args if a is not Ellipsis]
        same = all(a == inner[0] for a in inner)
        return {"type": "array", "items": _schema(inner[0]) if inner and same else {}}
    return {}


def _union(args: tuple[Any, ...]) -> dict[str, Any]:
    options = [_schema(a) for a in args if a is not type(None)]
    if type(None) in args:
        options.append({"type": "null"})
    return options[0] if len(options) == 1 else {"anyOf": options}


def _dtype(args: tuple[Any, ...]) -> str:
    scalar = typing.get_args(args[1]) if len(args) > 1 else ()
    return np.dtype(scalar[0]).name if scalar else "numbers"
