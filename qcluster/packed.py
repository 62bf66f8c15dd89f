"""A plan as bytes: how it crosses processes and lies on disk.

A plan of a whole rack is a few hundred kilobytes of nested JSON. Between the process that makes it
and the disk nobody needs more of it than its summary, and reading it takes as long as making it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qcluster.errors import FormatError

__all__ = ["PackedPlan", "unpack"]

_SUMMARY = (
    "plan_id", "planner", "created_at", "expires_at", "objective", "lower_bound", "gap", "solver",
    "wall_s", "quantum_gain", "baselines", "telemetry", "warnings", "reasons",
)  # fmt: skip


@dataclass(frozen=True)
class PackedPlan:
    """``summary``: what a history shows of the plan; ``body``: all of it, as compressed JSON."""

    summary: dict[str, Any]
    body: bytes

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> PackedPlan:
        """From a plan's ``to_dict``. Raises ValueError for NaN and infinity, which JSON has not."""
        summary = {name: plan.get(name) for name in _SUMMARY}
        text = json.dumps(plan, allow_nan=False, separators=(",", ":"))
        return cls(summary, zlib.compress(text.encode(), 1))

    @property
    def plan_id(self) -> str:
        """The plan's id."""
        return str(self.summary["plan_id"])


def unpack(body: bytes) -> dict[str, Any]:
    """The plan in a body, as JSON types. Raises FormatError for a damaged one."""
    try:
        plan: dict[str, Any] = json.loads(zlib.decompress(body))
    except (zlib.error, ValueError) as error:
        raise FormatError(f"a stored plan cannot be read: {error}") from None
    return plan
