"""What changes from one plan to another, for any planner: figures, names, arrays in few words.

Plans are compared as JSON types, so it knows no domain. Fields that differ between any two plans
(ids, times, snapshots) are left out; long arrays are summarised, because nobody reads 16,384
expert slots: how many entries differ, by how much at most, and the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["diff_plans", "tell_diff"]

_ALWAYS_NEW = frozenset(
    {"plan_id", "created_at", "expires_at", "wall_s", "telemetry", "seq", "age_s", "stale", "alarm"}
)
_SHOWN = 10
_SHORT = 8


def diff_plans(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that ``new`` makes against ``old``.

    Returns ``{planner, plan_id, against, seconds_between, improved, changes: [{field, ...}]}``.
    ``improved`` says whether the objective, which is minimised, went down; None where it stayed. A
    change has ``before`` and ``after``, figures also ``change``, and arrays instead ``length``,
    ``changed``, ``largest_change`` and ``first: [[index, before, after]]``. Fields of mappings are
    named by their path, ``solver.used``.
    """
    before, after = old.get("objective"), new.get("objective")
    improved = None
    if isinstance(before, (int, float)) and isinstance(after, (int, float)) and before != after:
        improved = after < before
    return {
        "planner": new.get("planner"),
        "plan_id": new.get("plan_id"),
        "against": old.get("plan_id"),
        "seconds_between": float(new.get("created_at") or 0) - float(old.get("created_at") or 0),
        "improved": improved,
        "changes": list(_mapping("", _content(old), _content(new))),
    }


def tell_diff(found: Mapping[str, Any]) -> list[str]:
    """The changes in lines for people."""
    lines = []
    for change in found["changes"]:
        field = change["field"]
        if "changed" in change:
            most = change["largest_change"]
            by = "" if most is None else f", by {most:.6g} at most"
            lines.append(f"{field}: {change['changed']} of {change['length']} entries differ{by}")
            lines += [f"  [{i}] {_short(a)} -> {_short(b)}" for i, a, b in change["first"]]
        else:
            by = f" ({change['change']:+.6g})" if "change" in change else ""
            lines.append(f"{field}: {_short(change['before'])} -> {_short(change['after'])}{by}")
    return lines or ["nothing but times and ids"]


def _content(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in plan.items() if name not in _ALWAYS_NEW}


def _mapping(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in [*old, *(name for name in new if name not in old)]:
        yield from _change(f"{path}.{name}" if path else str(name), old.get(name), new.get(name))


def _change(path: str, old: Any, new: Any) -> Iterator[dict[str, Any]]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if "planner" in old and "planner" in new:  # a plan within a joint one
            yield from _mapping(path, _content(old), _content(new))
        elif max(len(old), len(new)) > 4 * _SHORT:
            yield {"field": path, **_table(old, new)}
        else:
            yield from _mapping(path, old, new)
    elif isinstance(old, list) and isinstance(new, list) and _is_long(old, new):
        yield {"field": path, **_arrays(old, new)}
    else:
        change = {"field": path, "before": old, "after": new}
        if _is_number(old) and _is_number(new):
            change["change"] = new - old
        yield change


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_long(old: list[Any], new: list[Any]) -> bool:
    return max(len(old), len(new)) > _SHORT or any(isinstance(v, (list, dict)) for v in old + new)


def _arrays(old: list[Any], new: list[Any]) -> dict[str, Any]:
    """Entry by entry; nested lists are walked, so an index is a list of positions."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    return _summary(a, b)


def _table(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return _summary(
        {(name,): v for name, v in old.items()}, {(name,): v for name, v in new.items()}
    )


def _summary(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> dict[str, Any]:
    places = [*a, *(place for place in b if place not in a)]
    changed = [place for place in places if a.get(place) != b.get(place)]
    steps = [
        abs(b[p] - a[p]) for p in changed if _is_number(a.get(p)) and _is_number(b.get(p))
    ]  # fmt: skip
    return {
        "length": len(places),
        "changed": len(changed),
        "largest_change": float(max(steps)) if steps else None,
        "first": [[_place(p), a.get(p), b.get(p)] for p in changed[:_SHOWN]],
    }


def _place(place: tuple[Any, ...]) -> Any:
    return place[0] if len(place) == 1 else list(place)


def _leaves(value: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    for i, item in enumerate(value):
        if isinstance(item, list):
            yield from _leaves(item, (*place, i))
        else:
            yield (*place, i), item


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
