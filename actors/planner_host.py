"""The one host for every live planner: waits for telemetry, plans in a killable process, stores.

The host holds time and state (which plan is in force, when the last one came), never an algorithm.
Each cycle: the next snapshot, the plan in force and the peers' latest plans go to the warm worker
process; the plan comes back verified; it is stamped with its telemetry and expiry and stored. When
a cycle fails the host says why, in its report to the store, and goes on with the next snapshot.
While the store is away the host plans on, and delivers what it has kept when the store is back.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from actors.freshness import gpu_set
from actors.store import Seen
from qcluster.deadline import Deadline
from qcluster.errors import DeadlineExceeded, NotReady, QClusterError
from qcluster.packed import PackedPlan
from qcluster.telemetry import Snapshot
from qcluster.worker import SolverProcess

__all__ = ["Hub", "PlannerHost", "Store"]

STARVED_PERIODS = 2.0
# Passing a snapshot to the worker and a plan back takes time of its own.
SLACK_S = 1.0
# Plans kept for an absent store; the oldest go first.
KEPT = 64
# Between two plans at least, also while GPUs come and go.
LEAST_S = 0.2
# For the process of a new configuration to be warm.
WARM_S = 120.0


class Hub(Protocol):
    """What a host asks of the telemetry hub; calls may block, and raise when it is away."""

    def wait(self, since: int, timeout_s: float) -> Snapshot | None:
        """A newer snapshot than ``since``, or None."""
        ...

    def wait_other(self, gpus: str, timeout_s: float) -> bool:
        """Whether other GPUs answer than those of this name, as soon as it is so."""
        ...


class Store(Protocol):
    """What a host asks of the plan store; calls may block, and raise when it is away."""

    def put(self, plan: PackedPlan, gpus: str, seen: Seen | None) -> int:
        """Store a plan."""
        ...

    def report(
        self, planner: str, period_s: float, gpus: str, alarm: str | None, seen: Seen | None
    ) -> Seen:
        """Give a sign of life; learn which store this is."""
        ...

    def newest(self, held: Mapping[str, str]) -> dict[str, tuple[str, bytes | None]]:
        """Ids of the newest stored plans, and those plans whose id is not the one in ``held``."""
        ...

    def configs(self) -> dict[str, dict[str, Any]]:
        """Configurations by planner that hosts were last given."""
        ...


class PlannerHost:
    """Runs one planner for as long as the process lives.

    Parameters
    ----------
    hub, store: where snapshots come from and plans go to.
    config: the planner's configuration.
    period_s: at most one plan in this time, in seconds.
    deadline_s: time for one plan; a solve that goes on beyond it is killed.
    """

    name: ClassVar[str]
    path: ClassVar[str]
    """``module:Class`` of the planner."""
    nice: ClassVar[int] = 0
    """How far its worker steps back behind other planners' on a machine with few processors."""
    peers: ClassVar[Mapping[str, str]] = {}
    """Other planners' names and paths, to rebuild their plans."""

    def __init__(
        self,
        hub: Hub,
        store: Store,
        config: Mapping[str, Any] | None = None,
        period_s: float = 2.0,
        deadline_s: float = 1.0,
    ) -> None:
        self._hub, self._store = hub, store
        self._config = dict(config or {})
        self._period_s, self._deadline_s = period_s, deadline_s
        self._since, self._gpus, self._cycles, self._failures = 0, "", 0, 0
        self._alarm: str | None = "warming up"
        self._fed = time.monotonic()
        self._outbox: deque[tuple[PackedPlan, str]] = deque(maxlen=KEPT)
        # Id and body of the newest plans, of this planner and its peers.
        self._known: dict[str, tuple[str, bytes]] = {}
        self._seen: Seen | None = None
        # The worker's process id and the newest plans' ids that it was given.
        self._held: tuple[int, dict[str, str]] = (0, {})
        self._process = self._made(self._config)
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=f"{self.name}-planner", daemon=True).start()

    def health(self) -> dict[str, Any]:
        """Cycles so far, failures, the current alarm and the worker's process id."""
        return {
            "planner": self.name,
            "cycles": self._cycles,
            "failures": self._failures,
            "alarm": self._alarm,
            "undelivered": len(self._outbox),
            "worker_pid": self._process.pid,
        }

    def configure(self, config: Mapping[str, Any]) -> bool:
        """Plan with another configuration, without a gap: the old one plans on until a process for
        the new one is warm. Returns False where it is the same.

        Raises InputError for a wrong configuration, DeadlineExceeded when warming up takes too
        long; then nothing has changed.
        """
        if dict(config) == self._config:
            return False
        process = self._made(dict(config))
        try:
            process.wait_ready(Deadline.after(WARM_S))
        except BaseException:
            process.close()
            raise
        with self._turn:
            old, self._process, self._config = self._process, process, dict(config)
        old.close()
        return True

    def _made(self, config: dict[str, Any]) -> SolverProcess:
        warm_up = ("qcluster.planner:build_planner", (self.path, config))
        return SolverProcess(warm_up, nice=self.nice)

    def _catch_up(self) -> None:
        """A host that Ray has started again was given what the first one was given."""
        with contextlib.suppress(Exception):
            config = self._store.configs().get(self.name)
            if config is not None:
                self.configure(config)

    def stop(self) -> None:
        """End the loop and the worker process."""
        self._stopped.set()
        self._process.close()

    def _run(self) -> None:
        self._catch_up()
        while not self._stopped.is_set():
            started = time.monotonic()
            cycles, failures = self._cycles, self._failures
            try:
                self._alarm = self._cycle()
            except NotReady as error:
                self._alarm = str(error)
            except QClusterError as error:
                self._failures += 1
                self._alarm = f"planning failed: {error}"
            except Exception as error:  # the hub or the store is restarting
                self._failures += 1
                self._alarm = f"{type(error).__name__}: {error}".splitlines()[0]
            self._deliver()
            self._tell()
            # A cycle that waited for telemetry in vain has rested: the next sample may come now.
            if self._cycles != cycles or self._failures != failures:
                self._stopped.wait(LEAST_S)
            self._rest(started + self._period_s)

    def _rest(self, until: float) -> None:
        """Until the period is over; a GPU that is lost or back is not kept waiting."""
        while not self._stopped.is_set() and (left := until - time.monotonic()) > 0:
            try:
                if self._gpus and self._hub.wait_other(self._gpus, min(left, 1.0)):
                    return
            except Exception:  # the hub is away: then there is nothing to plan for
                self._stopped.wait(min(left, 1.0))
            if not self._gpus:
                self._stopped.wait(left)

    def _cycle(self) -> str | None:
        """One plan; returns the alarm of this cycle, None when all is well."""
        try:
            # Before the snapshot is taken, so that no plan is made from one that has grown old.
            self._process.wait_ready(Deadline.after(self._period_s))
        except DeadlineExceeded:
            return "warming up"
        # Read while there is time: between a sample and its plan every millisecond counts.
        self._learn()
        self._hand_in()
        snapshot = self._hub.wait(self._since, self._period_s)
        if snapshot is None:
            starved = time.monotonic() - self._fed
            # One late batch is a hiccup of the source, not a reason to call the plan stale.
            if starved < STARVED_PERIODS * self._period_s + 1.0:
                return self._alarm
            return f"no new telemetry for {starved:.0f} s"
        self._fed = time.monotonic()
        self._gpus = gpu_set(snapshot)
        with self._turn:
            self._hand_in()  # again, where the process is another one by now
            plan = self._process.call(
                "qcluster.planner:run_planner",
                {self.name: self.path, **self.peers},
                self.name,
                self._config,
                snapshot,
                {name: plan_id for name, (plan_id, _) in self._known.items()},
                self._deadline_s,
                # A plan outlives a restart of its planner, not its planner's death.
                5 * max(self._period_s, self._deadline_s),
                deadline=Deadline.after(self._deadline_s + SLACK_S),
            )
        self._known[self.name] = (plan.plan_id, plan.body)
        self._outbox.append((plan, self._gpus))
        self._since = snapshot.seq
        self._cycles += 1
        return None

    def _learn(self) -> None:
        """The newest plans from the store, or what we know of them while it is away."""
        if self._outbox:
            return
        held = {name: self._known.get(name, ("", b""))[0] for name in (self.name, *self.peers)}
        with contextlib.suppress(Exception):
            for name, (plan_id, body) in self._store.newest(held).items():
                if body is not None:
                    self._known[name] = (plan_id, body)

    def _hand_in(self) -> None:
        """Give the worker those of the newest plans that it has not been given yet."""
        # Another thread may put a process for a new configuration in its place.
        process = self._process
        pid = process.pid
        had = {} if self._held[0] != pid else self._held[1]
        fresh = {name: body for name, (own, body) in self._known.items() if had.get(name) != own}
        if fresh:
            paths = {self.name: self.path, **self.peers}
            limit = Deadline.after(self._deadline_s + SLACK_S)
            process.call("qcluster.planner:take_in", paths, fresh, deadline=limit)
        ids = {name: plan_id for name, (plan_id, _) in self._known.items()}
        self._held = (pid, ids)

    def _deliver(self) -> None:
        """Hand over what is in the outbox, oldest first; what fails stays in it."""
        try:
            while self._outbox:
                plan, gpus = self._outbox[0]
                seq = self._store.put(plan, gpus, self._seen)
                self._outbox.popleft()
                if self._seen is not None:
                    self._seen = (self._seen[0], max(seq, self._seen[1]))
        except Exception as error:
            if not isinstance(error, NotReady):
                self._failures += 1
            first = (str(error) or type(error).__name__).splitlines()[0]
            self._alarm = f"{len(self._outbox)} plans wait for the store: {first}"

    def _tell(self) -> None:
        try:
            report = (self.name, self._period_s, self._gpus, self._alarm, self._seen)
            self._seen = self._store.report(*report)
        except Exception as error:  # the store is restarting: it will hear from us next time
            self._alarm = f"the store is away: {type(error).__name__}"
