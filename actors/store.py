"""The plan store: versioned plans, what is safe to show, and who has gone silent.

It knows what each planner last reported and on which GPUs; from that it decides, at the moment of
asking, whether the newest plan is fresh. A reader never gets silence: when a planner is slow, dead
or starved it gets the last safe plan (the last that passed its verifier on a snapshot with the
same GPUs), marked stale, with an alarm that says why.

Those who write and read remember which store they have seen, and up to which plan, and say so with
each call. A store that finds itself to be another one, or behind (its disk was lost, it was started
on another machine, an old copy was put in place), refuses to serve rather than to start empty;
planner hosts keep their plans until the right one is back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.journal import Journal
from qcluster.errors import NotReady

__all__ = ["PlanStore", "Seen"]

Seen = tuple[str, int]
"""What a caller remembers of a store: its id, and the highest sequence number it was told."""

# A planner reports at least once a period; three missing are no accident.
SILENT_PERIODS = 3.0


@dataclass
class _Report:
    """What a planner host last said."""

    at: float
    period_s: float
    gpus: str
    alarm: str | None


class PlanStore:
    """Holds the journal and the planners' reports. Thread-safe; every method is idempotent."""

    def __init__(self, state_dir: str, planners: tuple[str, ...], keep: int = 2000) -> None:
        self._journal = Journal(Path(state_dir), keep=keep)
        self._planners = planners
        self._reports: dict[str, _Report] = {}
        self._started = time.time()
        self._fence: str | None = None
        self._changed = threading.Condition()

    def put(self, plan: Mapping[str, Any], gpus: str, seen: Seen | None = None) -> int:
        """Store a verified plan (its ``to_dict``); returns its sequence number once on disk."""
        self._check(seen)
        seq = self._journal.append(plan, gpus)
        with self._changed:
            self._changed.notify_all()
        return seq

    def report(
        self, planner: str, period_s: float, gpus: str, alarm: str | None, seen: Seen | None = None
    ) -> Seen:
        """A planner host's sign of life; ``alarm`` says why there is no new plan.

        Returns what the host is to remember of this store.
        """
        self._check(seen)
        self._reports[planner] = _Report(time.time(), period_s, gpus, alarm)
        with self._changed:
            self._changed.notify_all()
        return self.identity()

    def identity(self) -> Seen:
        """What callers remember of this store."""
        return self._journal.store_id, self._journal.last_seq()

    def latest(self, planner: str, seen: Seen | None = None) -> dict[str, Any]:
        """``{planner, plan, alarm}``; the plan with ``stale`` and ``age_s`` added, or None."""
        self._check(seen)
        report, now = self._reports.get(planner), time.time()
        alarm = self._alarm(planner, report, now)
        plan = self._journal.newest(planner, gpus=report.gpus if report else None)
        if plan is None:
            if (plan := self._journal.newest(planner)) is None:
                return {"planner": planner, "plan": None, "alarm": alarm or "no plan yet"}
            alarm = alarm or "the GPUs have changed since the last plan, and no new one is safe yet"
        expired = plan["expires_at"] is not None and now > plan["expires_at"]
        if expired and alarm is None:
            alarm = "the plan has expired and no newer one has arrived"
        plan["age_s"] = max(0.0, now - plan["created_at"])
        plan["stale"] = alarm is not None
        plan["alarm"] = alarm
        return {"planner": planner, "plan": plan, "alarm": alarm}

    def all_latest(self) -> dict[str, dict[str, Any]]:
        """``latest`` of every planner."""
        return {planner: self.latest(planner) for planner in self._planners}

    def newest(self) -> dict[str, dict[str, Any]]:
        """The newest stored plan of every planner that has one."""
        self._check(None)
        found = {name: self._journal.newest(name) for name in self._planners}
        return {name: plan for name, plan in found.items() if plan is not None}

    def get(self, plan_id: str) -> dict[str, Any]:
        """The plan with this id. Raises NotFound."""
        self._check(None)
        return self._journal.get(plan_id)

    def history(self, planner: str | None, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries, newest first."""
        self._check(None)
        return self._journal.history(planner, max(1, min(limit, 1000)))

    def wait(self, since: int, timeout_s: float) -> int:
        """The last sequence number, as soon as it is above ``since`` or the time is over."""
        deadline = time.monotonic() + min(timeout_s, 30.0)
        self._check((self._journal.store_id, since))
        with self._changed:
            while (last := self._journal.last_seq()) <= since:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        return last

    def health(self) -> dict[str, Any]:
        """Plans stored, last sequence number, each planner's alarm, and why nothing is served."""
        now = time.time()
        return {
            "fence": self._fence,
            "plans": self._journal.count(),
            "last_seq": self._journal.last_seq(),
            "alarms": {
                name: self._alarm(name, self._reports.get(name), now) for name in self._planners
            },
        }

    def _check(self, seen: Seen | None) -> None:
        """Raise NotReady from the first sign on that this is not the store that callers know."""
        if seen is not None and self._fence is None:
            mine, last = self.identity()
            other, seq = seen
            if other != mine:
                self._fence = f"plans are in store {other}, up to {seq}, and this is store {mine}"
            elif seq > last:
                self._fence = f"plans up to {seq} were seen, and this copy has them up to {last}"
        if self._fence is not None:
            raise NotReady(f"the store does not serve: {self._fence}; restart with the right one")

    def _alarm(self, planner: str, report: _Report | None, now: float) -> str | None:
        if report is None:
            since = now - self._started
            return f"no word from the {planner} planner since the store started {since:.0f} s ago"
        silent = now - report.at
        if silent > SILENT_PERIODS * report.period_s + 1.0:
            return f"no word from the {planner} planner for {silent:.0f} s"
        return report.alarm
