"""What stood on a node's boards before each plan was carried out, so that a plan can be undone.

On disk, synced, before the plan's first limit is set. A plan that was undone leaves a hold behind:
the planners go on planning, but nothing is carried out until somebody says so.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.limits import write_synced
from qcluster.errors import NotFound

__all__ = ["Applied", "AppliedPlans"]

FILE = "applied.json"
KEPT = 256
"""Plans that can be undone; the oldest are forgotten first."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One plan that was carried out.

    ``before_mw`` are the limits in force just before it, in milliwatts by UUID. They were set by
    the plan ``previous``, which ends at ``previous_ends`` (Unix seconds); where there was none,
    they were the boards' own.
    """

    plan_id: str
    before_mw: dict[str, int]
    previous: str | None = None
    previous_ends: float = 0.0


class AppliedPlans:
    """The node's record, in ``directory``. For one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._plans: dict[str, Applied] = {}
        self.hold: str | None = None
        """The plan whose undoing keeps newer ones from being carried out."""
        if self._path.exists():
            found = json.loads(self._path.read_text())
            self._plans = {one["plan_id"]: Applied(**one) for one in found["plans"]}
            self.hold = found["hold"]

    def find(self, plan_id: str) -> Applied:
        """What stood before this plan. Raises NotFound when it was never carried out here."""
        if plan_id not in self._plans:
            raise NotFound(f"'{plan_id}' was not carried out here, or is forgotten")
        return self._plans[plan_id]

    def record(self, applied: Applied) -> None:
        """Remember a plan that is about to be carried out; the first word on a plan counts."""
        if applied.plan_id not in self._plans:
            self._plans[applied.plan_id] = applied
            self._plans = dict(list(self._plans.items())[-KEPT:])
            self._save()

    def forget(self, plan_id: str) -> None:
        """A plan was not carried out after all."""
        if self._plans.pop(plan_id, None) is not None:
            self._save()

    def set_hold(self, plan_id: str | None) -> None:
        """Hold all plans because this one was undone, or with None let them be carried out."""
        if plan_id != self.hold:
            self.hold = plan_id
            self._save()

    def _save(self) -> None:
        plans = [asdict(one) for one in self._plans.values()]
        write_synced(self._path, json.dumps({"hold": self.hold, "plans": plans}))
