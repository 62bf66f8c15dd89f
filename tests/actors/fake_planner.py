"""A planner whose behaviour is chosen by its configuration; imported by worker processes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from qcluster.deadline import Deadline
from qcluster.errors import NotReady, SolverFailed
from qcluster.plan import Plan, SolverRef
from qcluster.telemetry import Snapshot


@dataclass(frozen=True, kw_only=True, eq=False)
class FakePlan(Plan):
    seen_seq: int
    previous_seq: int | None
    peers: tuple[str, ...]


class FakePlanner:
    name: ClassVar[str] = "fake"
    plan_type: ClassVar[type[Plan]] = FakePlan

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.mode = config.get("mode", "ok")
        self.config = dict(config)
        if config.get("fail_to_start"):
            raise SolverFailed("it does not start")

    def warm_up(self) -> None:
        pass

    def plan(
        self,
        snapshot: Snapshot,
        previous: Plan | None,
        peers: Mapping[str, Plan],
        *,
        deadline: Deadline,
    ) -> FakePlan:
        if self.mode == "stuck":
            time.sleep(600)
        if self.mode == "crash":
            os._exit(9)
        if self.mode == "not_ready":
            raise NotReady("no expert load yet")
        assert previous is None or isinstance(previous, FakePlan)
        return FakePlan(
            planner="fake",
            config=self.config,
            seed=0,
            solver=SolverRef(requested="fake", used="fake"),
            objective=1.0,
            lower_bound=1.0,
            gap=0.0,
            seen_seq=snapshot.seq,
            previous_seq=previous.seen_seq if previous else None,
            peers=tuple(sorted(peers)),
        )

    def verify(self, plan: Plan, snapshot: Snapshot) -> None:
        if self.mode == "invalid":
            raise SolverFailed("expert 3 sits nowhere")
