"""Things that go wrong, on purpose: which fault, when, for how long, to whom.

A fault is written ``KIND@START[+DURATION][:SUBJECT[:VALUE]]``, times in seconds since the start:

    link_down@30+60:node03/2:9      9 lanes of that GPU's NVLink fail (all lanes without a value)
    gpu_lost@45:node01/0            the GPU falls off the bus, for good without a duration
    hot_expert@20+40:3/17:8         expert 17 of layer 3 gets 8 times its tokens (``*``: all)
    power_step@60+30:node05:0.98    load of a GPU, node or ``*`` steps to that share of its peak

Without a subject a fault hits the first GPU, link, expert or node.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qcluster.errors import InputError

__all__ = ["FAULT_KINDS", "Fault"]

FAULT_KINDS = {"link_down": "link_up", "gpu_lost": "gpu_back", "hot_expert": "clear",
               "power_step": "clear"}  # fmt: skip
"""Kinds of fault, and the event that tells of each one's end."""

_DEFAULT_VALUE = {"link_down": math.inf, "gpu_lost": 0.0, "hot_expert": 8.0, "power_step": 0.98}
_FORM = re.compile(r"(\w+)@([^+:]+)(?:\+([^:]+))?(?::([^:]*))?(?::([^:]+))?")


@dataclass(frozen=True)
class Fault:
    """One fault: active for ``start_s <= t < start_s + duration_s`` seconds after the start.

    ``value`` is lanes (link_down), a factor (hot_expert) or a share of peak load (power_step).
    """

    kind: str
    start_s: float
    duration_s: float = math.inf
    subject: str = ""
    value: float = math.nan

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise InputError(f"'{self.kind}' is none of {', '.join(FAULT_KINDS)}", field="fault")
        if not (math.isfinite(self.start_s) and self.start_s >= 0 and self.duration_s > 0):
            raise InputError("wants a start of at least 0 s and a duration above 0", field="fault")
        value = _DEFAULT_VALUE[self.kind] if math.isnan(self.value) else self.value
        if value < 0 or (self.kind == "power_step" and value > 1):
            raise InputError(f"{self.kind} cannot have the value {value}", field="fault")
        object.__setattr__(self, "value", value)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """A fault as written in a spec.

        Raises InputError with the form that is wanted.
        """
        found = _FORM.fullmatch(text)
        if not found:
            raise InputError(
                f"wants KIND@START[+DURATION][:SUBJECT[:VALUE]], got '{text}'", field="fault"
            )
        kind, start, duration, subject, value = found.groups()
        return cls(
            kind,
            seconds(start, "fault start"),
            math.inf if duration is None else seconds(duration, "fault duration"),
            subject or "",
            math.nan if value is None else seconds(value, "fault value"),
        )

    def active(self, t: float) -> bool:
        """Whether it holds ``t`` seconds after the start."""
        return self.start_s <= t < self.start_s + self.duration_s


def seconds(text: str, field: str) -> float:
    """A finite number of at least 0 from text, or InputError naming the field."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InputError(f"wants a number of at least 0, got '{text}'", field=field)
    return value
