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

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.answers import Answer, AnswerBook
from actors.freshness import Report, plan_alarm, planner_alarm
from actors.journal import Journal
from actors.limits import write_synced
from qcluster.errors import NotReady
from qcluster.packed import PackedPlan

__all__ = ["PlanStore", "Seen"]

CONFIGS = "planners.json"

Seen = tuple[str, int]
"""What a caller remembers of a store: its id, and the highest sequence number it was told."""


class PlanStore:
    """Holds the journal and the planners' reports. Thread-safe; every method is idempotent."""

    def __init__(self, state_dir: str, planners: tuple[str, ...], keep: int = 2000) -> None:
        self._journal = Journal(Path(state_dir), keep=keep)
        self._answers = AnswerBook(Path(state_dir))
        self._planners = planners
        self._configs = Path(state_dir) / CONFIGS
        self._reports: dict[str, Report] = {}
        self._started = time.time()
        self._fence: str | None = None
        self._changed = threading.Condition()
        # Versions of later lives of the store are above those of earlier ones.
        self._version = time.time_ns()

    def configs(self) -> dict[str, dict[str, Any]]:
        """What ``configure`` was last told, by planner; also after a restart of this store."""
        found: dict[str, dict[str, Any]] = {}
        if self._configs.exists():
            found = json.loads(self._configs.read_text())
        return found

    def configure(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember the planners' configurations, for hosts that start again."""
        told = {name: dict(config) for name, config in configs.items()}
        if told != self.configs():
            write_synced(self._configs, json.dumps(told))

    def put(self, plan: Mapping[str, Any] | PackedPlan, gpus: str, seen: Seen | None = None) -> int:
        """Store a verified plan, packed or its ``to_dict``; returns its sequence number once it is
        on disk.
        """
        self._check(seen)
        seq = self._journal.append(plan, gpus)
        self._tell()
        return seq

    def report(
        self, planner: str, period_s: float, gpus: str, alarm: str | None, seen: Seen | None = None
    ) -> Seen:
        """A planner host's sign of life; ``alarm`` says why there is no new plan.

        Returns what the host is to remember of this store.
        """
        self._check(seen)
        self._reports[planner] = Report(time.time(), period_s, gpus, alarm)
        self._tell()
        return self.identity()

    def identity(self) -> Seen:
        """What callers remember of this store."""
        return self._journal.store_id, self._journal.last_seq()

    def latest(self, planner: str, seen: Seen | None = None) -> dict[str, Any]:
        """``{planner, plan, alarm}``; the plan with ``stale`` and ``age_s`` added, or None."""
        self._check(seen)
        report, now = self._reports.get(planner), time.time()
        alarm = planner_alarm(planner, report, self._started, now)
        plan = self._journal.newest(planner, gpus=report.gpus if report else None)
        same_gpus = plan is not None
        if plan is None and (plan := self._journal.newest(planner)) is None:
            return {"planner": planner, "plan": None, "alarm": alarm or "no plan yet"}
        expires_at = plan["expires_at"]
        alarm = plan_alarm(alarm, same_gpus=same_gpus, expires_at=expires_at, now=now)
        plan["age_s"] = max(0.0, now - plan["created_at"])
        plan["stale"] = alarm is not None
        plan["alarm"] = alarm
        return {"planner": planner, "plan": plan, "alarm": alarm}

    def all_latest(self) -> dict[str, dict[str, Any]]:
        """``latest`` of every planner."""
        return {planner: self.latest(planner) for planner in self._planners}

    def newest(self, held: Mapping[str, str]) -> dict[str, tuple[str, bytes | None]]:
        """The newest stored plans of the planners in ``held``, of those that have one.

        ``held`` maps planners to the id of the plan that the caller has, or to an empty text. Gives
        the id, and the plan as compressed JSON (see ``qcluster.packed``) where it is another one.
        """
        self._check(None)
        ids = {name: self._journal.newest_id(name) for name in held}
        return {
            name: (found, None if found == held[name] else self._journal.packed(found))
            for name, found in ids.items()
            if found is not None
        }

    def get(self, plan_id: str) -> dict[str, Any]:
        """The plan with this id. Raises NotFound."""
        self._check(None)
        return self._journal.get(plan_id)

    def before(self, plan_id: str) -> str:
        """The id of the plan that its planner made before this one. Raises NotFound."""
        return self._journal.before(plan_id)

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

    def find_answer(self, key: str, question: str) -> Answer | None:
        """The answer given to an idempotency key; see ``AnswerBook.find``."""
        return self._answers.find(key, question)

    def keep_answer(self, key: str, question: str, answer: Answer) -> Answer:
        """Remember an answer; returns the one that counts, the first."""
        return self._answers.keep(key, question, answer)

    def follow(self, version: int, known: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
        """All that deciding on freshness takes, as soon as it differs from ``version``.

        ``known`` maps planners to the plan ids that the follower holds; other plans come along,
        as the compressed JSON that is on disk. Gives ``{version, now, started, planners: {name:
        {report, plan_id, same_gpus, plan}}}``.
        """
        self._check(None)
        deadline = time.monotonic() + min(timeout_s, 30.0)
        with self._changed:
            while self._version == version and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            version = self._version
        planners = {name: self._followed(name, known.get(name)) for name in self._planners}
        now = time.time()
        return {"version": version, "now": now, "started": self._started, "planners": planners}

    def _followed(self, planner: str, known: str | None) -> dict[str, Any]:
        report = self._reports.get(planner)
        plan_id = self._journal.newest_id(planner, gpus=report.gpus if report else None)
        same_gpus = plan_id is not None
        plan_id = plan_id or self._journal.newest_id(planner)
        packed = None if plan_id in (None, known) else self._journal.packed(plan_id)
        return {"report": report, "plan_id": plan_id, "same_gpus": same_gpus, "plan": packed}

    def _tell(self) -> None:
        with self._changed:
            self._version = max(self._version + 1, time.time_ns())
            self._changed.notify_all()

    def health(self) -> dict[str, Any]:
        """Plans stored, last sequence number, each planner's alarm, and why nothing is served."""
        now = time.time()
        return {
            "fence": self._fence,
            "plans": self._journal.count(),
            "last_seq": self._journal.last_seq(),
            "alarms": {
                name: planner_alarm(name, self._reports.get(name), self._started, now)
                for name in self._planners
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
