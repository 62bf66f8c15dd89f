"""A space as JSON and back, exactly: what journals and saved studies hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.parameter import Condition, Parameter
from qcluster.q_hpo.space import Space

__all__ = ["space_from_json", "space_of_file", "space_to_json"]

_FIELDS = ("kind", "low", "high", "log", "q", "origin")


def space_to_json(space: Space) -> list[dict[str, Any]]:
    """One object per parameter. Values that JSON cannot hold become null with their ``repr``."""
    return [_parameter_to_json(p) for p in space.parameters]


def space_from_json(rows: Sequence[Mapping[str, Any]]) -> Space:
    """The space of such objects. Raises InputError where values were not JSON."""
    return Space(tuple(_parameter_from_json(row) for row in rows))


def space_of_file(rows: Sequence[Mapping[str, Any]], given: Space | None) -> Space:
    """The space of such objects, or ``given`` where it is the same one.

    Raises InputError naming the parameter that differs: points of a file mean something else there.
    """
    if given is None:
        return space_from_json(rows)
    ours, theirs = ({row["name"]: _shape(row) for row in side} for side in
                    (space_to_json(given), rows))  # fmt: skip
    differ = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    if differ or list(ours) != list(theirs):
        raise InputError("is not what it was when the study began; a study of the new space can "
                         "take over the trials (warm start)",
                         field=differ[0] if differ else "space")  # fmt: skip
    return given


def _shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same; of values that JSON cannot hold their number."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(row), default=repr))
    return {**plain, "shown": len(row.get("shown", ()))}


def _parameter_to_json(p: Parameter) -> dict[str, Any]:
    row: dict[str, Any] = {"name": p.name, "kind": p.kind}
    if p.kind in ("choice", "constant"):
        if _plain(p.choices):
            row["choices"] = list(p.choices)
        else:
            row["choices"], row["shown"] = None, [repr(value) for value in p.choices]
    else:
        row |= {name: _number(getattr(p, name)) for name in _FIELDS[1:]}
    if p.when is not None:
        row["when"] = {"parent": p.when.parent, "in": list(p.when.values)}
    return row


def _parameter_from_json(row: Mapping[str, Any]) -> Parameter:
    try:
        when = row.get("when")
        condition = None if when is None else Condition(when["parent"], tuple(when["in"]))
        if row["kind"] in ("choice", "constant"):
            if row["choices"] is None:
                raise InputError(
                    "has values that a file cannot hold: give the space again", field=row["name"]
                )
            return Parameter(
                row["name"], row["kind"], choices=tuple(row["choices"]), when=condition
            )
        return Parameter(row["name"], **{name: row[name] for name in _FIELDS}, when=condition)
    except KeyError as error:
        raise FormatError(f"a parameter of the stored space lacks {error}") from None


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _plain(values: Sequence[Any]) -> bool:
    """Whether JSON gives the values back unchanged."""
    try:
        return all(json.loads(json.dumps(v)) == v and not isinstance(v, tuple) for v in values)
    except (TypeError, ValueError):
        return False
