"""Whether a plan is fresh, decided at the moment of asking.

The same rule for the store and for every replica that follows it. Times are in seconds, on the
store's clock; ages come from there, so that clocks of other machines do not matter.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcluster.telemetry import Snapshot

__all__ = ["Report", "gpu_set", "plan_alarm", "planner_alarm"]

# A planner reports at least once a period; three missing are no accident.
SILENT_PERIODS = 3.0


@dataclass(frozen=True)
class Report:
    """What a planner host last said, and when."""

    at: float
    period_s: float
    gpus: str
    alarm: str | None


def planner_alarm(planner: str, report: Report | None, started: float, now: float) -> str | None:
    """Why there is no new plan of this planner; None when all is well."""
    if report is None:
        since = now - started
        return f"no word from the {planner} planner since the store started {since:.0f} s ago"
    silent = now - report.at
    if silent > SILENT_PERIODS * report.period_s + 1.0:
        return f"no word from the {planner} planner for {silent:.0f} s"
    return report.alarm


def plan_alarm(
    alarm: str | None, *, same_gpus: bool, expires_at: float | None, now: float
) -> str | None:
    """The planner's alarm, or why this plan of it is not fresh all the same."""
    if alarm is None and not same_gpus:
        alarm = "the GPUs have changed since the last plan, and no new one is safe yet"
    if alarm is None and expires_at is not None and now > expires_at:
        alarm = "the plan has expired and no newer one has arrived"
    return alarm


def gpu_set(snapshot: Snapshot) -> str:
    """A name for the set of GPUs that answer: plans are safe only on the set they were made for."""
    return hashlib.sha256("\n".join(snapshot.alive_gpus).encode()).hexdigest()[:16]
