"""The latest plans, kept where they are asked for: reading one asks nobody else.

A thread follows the store and keeps each planner's safe plan as the JSON text that lies on disk.
Age and staleness are worked out at the moment of reading and written behind that text, so a read
costs neither a call to the store nor an encoding. While the store is away, readers go on getting
the last plans, and see them turn stale as their planners' reports grow old.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from dataclasses import dataclass
from typing import Any

from actors.freshness import Report, plan_alarm, planner_alarm
from qcluster.errors import NotReady, QClusterError

__all__ = ["PlanCache", "Text"]

_POLL_S, _PAUSE_S = 10.0, 0.25
_FIRST_S = 20.0
KEPT = 16
"""Plans of each planner whose text is kept for reading by id."""


@dataclass(frozen=True)
class _Held:
    """A planner's safe plan: its text without the closing brace, and what deciding takes."""

    plan_id: str
    text: bytes
    plan: dict[str, Any]
    same_gpus: bool


@dataclass(frozen=True)
class Text:
    """An answer as JSON, its ETag, and whether it can never be another."""

    body: bytes
    tag: bytes
    fixed: bool = False


class PlanCache:
    """Follows a store. Thread-safe. ``store`` has ``follow`` as in ``actors.store.PlanStore``."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._held: dict[str, _Held | None] = {}
        self._texts: dict[str, dict[str, bytes]] = {}
        self._reports: dict[str, Report | None] = {}
        self._started = 0.0
        self._ahead_s = 0.0  # the store's clock minus our monotonic one
        self._filled = threading.Event()
        self._closed = False
        threading.Thread(target=self._run, name="plan-cache", daemon=True).start()

    def close(self) -> None:
        """End the thread, at the latest when its current call to the store returns."""
        self._closed = True

    @property
    def filled(self) -> bool:
        """Whether reading waits for nothing."""
        return self._filled.is_set()

    def latest(self, planner: str) -> dict[str, Any]:
        """``{planner, plan, alarm}`` with ``age_s``, ``stale`` and ``alarm`` in the plan, or None.

        The plan is shared with other readers: do not write to it.
        """
        held, alarm, age_s = self._judged(planner)
        plan = None
        if held is not None:
            plan = {**held.plan, "age_s": age_s, "stale": alarm is not None, "alarm": alarm}
        return {"planner": planner, "plan": plan, "alarm": alarm}

    def all_latest(self) -> dict[str, dict[str, Any]]:
        """``latest`` of every planner."""
        self._await()
        return {planner: self.latest(planner) for planner in list(self._held)}

    def latest_json(self, planner: str) -> bytes | None:
        """``latest`` as JSON text; None where there is no plan."""
        found = self.latest_text(planner)
        return None if found is None else found.body

    def latest_text(self, planner: str) -> Text | None:
        """``latest`` as JSON text with its ETag; None where there is no plan."""
        held, alarm, age_s = self._judged(planner)
        if held is None:
            return None
        told = json.dumps(alarm).encode()
        start = b'{"planner": "%b", "plan": ' % planner.encode()
        body = b"".join((start, _closed(held, told, age_s), b', "alarm": ', told, b"}"))
        return Text(body, _tag(held.plan_id, told))

    def plan_text(self, planner: str, plan_id: str) -> Text | None:
        """One of the planner's newest plans as it was stored; None for those not held here."""
        text = self._texts.get(planner, {}).get(plan_id)
        return None if text is None else Text(text, b'"%b"' % plan_id.encode(), fixed=True)

    def all_json(self) -> bytes:
        """``{plans, alarms}`` of every planner as JSON text."""
        return self.all_text().body

    def all_text(self) -> Text:
        """The same with its ETag."""
        self._await()
        plans, alarms, state = [], [], []
        for planner in list(self._held):
            held, alarm, age_s = self._judged(planner)
            name, told = json.dumps(planner).encode(), json.dumps(alarm).encode()
            plan = b"null" if held is None else _closed(held, told, age_s)
            plans.append(name + b": " + plan)
            alarms.append(name + b": " + told)
            state.append((held.plan_id if held else "").encode() + told)
        parts = (b'{"plans": {', b", ".join(plans), b'}, "alarms": {', b", ".join(alarms), b"}}")
        return Text(b"".join(parts), _tag("all", b"".join(state)))

    def _judged(self, planner: str) -> tuple[_Held | None, str | None, float]:
        """The plan held, the alarm and the plan's age, as of now."""
        self._await()
        now = time.monotonic() + self._ahead_s
        held = self._held.get(planner)
        alarm = planner_alarm(planner, self._reports.get(planner), self._started, now)
        if held is None:
            return None, alarm or "no plan yet", 0.0
        expires_at = held.plan["expires_at"]
        alarm = plan_alarm(alarm, same_gpus=held.same_gpus, expires_at=expires_at, now=now)
        return held, alarm, max(0.0, now - held.plan["created_at"])

    def _await(self) -> None:
        if not self._filled.is_set() and not self._filled.wait(_FIRST_S):
            raise NotReady("the plan store has not answered yet")

    def _run(self) -> None:
        version = 0
        while not self._closed:
            known = {name: held.plan_id for name, held in self._held.items() if held is not None}
            try:
                found = self._store.follow(version, known, _POLL_S)
            except QClusterError:
                time.sleep(_PAUSE_S)  # the store is restarting
                continue
            self._take(found)
            version = found["version"]

    def _take(self, found: dict[str, Any]) -> None:
        for planner, state in found["planners"].items():
            held = self._held.get(planner)
            if state["plan"] is not None:
                text = zlib.decompress(state["plan"])
                held = _Held(state["plan_id"], text[:-1], json.loads(text), state["same_gpus"])
                self._keep(planner, state["plan_id"], text)
            elif state["plan_id"] is None:
                held = None
            elif held is not None and held.same_gpus != state["same_gpus"]:
                held = _Held(held.plan_id, held.text, held.plan, state["same_gpus"])
            # A store that has just restarted has heard of nobody yet; what we know is newer.
            report = state["report"] or self._reports.get(planner)
            self._reports[planner], self._held[planner] = report, held
        self._started = found["started"]
        self._ahead_s = found["now"] - time.monotonic()
        self._filled.set()

    def _keep(self, planner: str, plan_id: str, text: bytes) -> None:
        # Replaced, not changed, because readers are not locked out.
        kept = {**self._texts.get(planner, {}), plan_id: text}
        self._texts[planner] = dict(list(kept.items())[-KEPT:])


def _tag(name: str, state: bytes) -> bytes:
    """A weak ETag: ages differ between two answers that have the same."""
    return b'W/"%b.%08x"' % (name.encode(), zlib.crc32(state))


def _closed(held: _Held, alarm: bytes, age_s: float) -> bytes:
    stale = b"false" if alarm == b"null" else b"true"
    return b'%b, "age_s": %.6f, "stale": %b, "alarm": %b}' % (held.text, age_s, stale, alarm)
