"""A trial: one configuration, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.record import Record

__all__ = [
    "STATUSES", "Trial", "checked_count", "checked_max_step", "checked_outcome", "plain_number",
]  # fmt: skip

STATUSES = ("ok", "failed", "nan", "abandoned")
"""How a trial can end: with a value, with an exception, with a value that is not finite, or
dropped without anything learnt. Before that its status is ``running``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial(Record):
    """One configuration.

    ``value`` is the objective as reported, None unless status is ok. ``step`` is the fidelity
    (training iterations, epochs) it was reached at. ``arm`` names the searcher that proposed it.
    """

    id: str
    config: dict[str, Any]
    number: int
    status: str = "running"
    value: float | None = None
    step: int | None = None
    arm: str = ""


def checked_outcome(
    value: Any, status: str, step: Any, field: str
) -> tuple[float | None, str, int | None]:
    """Value, status and step in their plain form; a value that is not finite has status nan.

    Raises InputError for an unknown status, a value that is no number, or a step below 0.
    """
    if status not in STATUSES:
        raise InputError(f"knows the statuses {', '.join(STATUSES)}, got {status!r}", field=field)
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
            raise InputError(f"wants a step from 0 up, got {step!r}", field=field)
        step = int(step)
    if status != "ok":
        return None, status, step
    if value is None:
        raise InputError("wants a value with status 'ok'", field=field)
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"wants a number as value, got {value!r}", field=field)
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond all floats
        number = math.inf
    return (number, "ok", step) if math.isfinite(number) else (None, "nan", step)


def checked_max_step(step: Any) -> int | None:
    """The full fidelity, or None. Raises InputError if it is not a whole number from 1 up."""
    if step is None:
        return None
    return checked_count(step, "max_step", 1)


def checked_count(count: Any, field: str, least: int = 0) -> int:
    """How many. Raises InputError if it is not a whole number from ``least`` up."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
        raise InputError(f"wants a whole number from {least} up, got {count!r}", field=field)
    return int(count)


def plain_number(value: Any) -> Any:
    """The number in an array or tensor of one element; anything else as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, TypeError, RuntimeError):
        return value
