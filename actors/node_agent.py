"""The agent of one node: reads its GPUs into the hub, and carries power plans out where it may.

It sets power limits only when the server was started with ``--apply``, only from plans that were
made from measured telemetry, and only within the range of each board. Old limits are put back on
stop, on expiry of the plan, after a crash, and by a watchdog process when the agent is gone.
A plan can be undone (``undo``): what stood before it is put back, and nothing newer is carried out
until ``resume``.
Without permission to set limits it says what it would do. A sick driver or an absent hub or store
is a state that ``health`` names.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from actors.applied import Applied, AppliedPlans
from actors.limits import PowerLimits
from actors.store import Seen
from actors.watchdog import Watchdog
from qcluster.errors import InputError, NotReady, QClusterError, Refused
from qcluster.telemetry import Batch
from qcluster.telemetry.sources.nvml import NvmlNode

__all__ = ["Hub", "NodeAgent", "Store", "node_caps", "power_part"]

_ASK_HUB_S, _LONGEST_PAUSE_S = 5.0, 10.0


class Hub(Protocol):
    """What an agent asks of the telemetry hub; calls may block, and raise when it is away."""

    def push(self, batches: list[Batch]) -> int:
        """Take batches in."""
        ...

    def knows(self, source: str) -> bool:
        """Whether this source has described its node."""
        ...


class Store(Protocol):
    """What an agent asks of the plan store; calls may block, and raise when it is away."""

    def latest(self, planner: str, seen: Seen | None) -> dict[str, Any]:
        """``{planner, plan, alarm}``."""
        ...

    def identity(self) -> Seen:
        """Which store this is, and its last sequence number."""
        ...


class NodeAgent:
    """One node's agent; runs for as long as the process lives.

    Parameters
    ----------
    hub, store: where telemetry goes and plans come from.
    state_dir: directory of this machine; old limits are kept under ``nodes/NAME`` in it.
    node: the node's name in the topology, the host's name by default.
    apply: whether to set limits, or only say what would be set.
    period_s: seconds between readings; three that do not come are a lost node.
    follow: the planner whose newest safe plan is carried out, ``joint`` or ``energy``.
    nv: the NVML module, ``pynvml`` by default.
    """

    def __init__(
        self,
        hub: Hub,
        store: Store,
        state_dir: str | Path,
        *,
        node: str | None = None,
        apply: bool = False,
        period_s: float = 0.7,
        follow: str = "joint",
        nv: Any = None,
    ) -> None:
        if nv is None:
            import pynvml

            nv = pynvml
        self.node = node or socket.gethostname()
        self._hub, self._store, self._nv = hub, store, nv
        self._apply, self._period_s, self._follow = apply, period_s, follow
        directory = Path(state_dir) / "nodes" / self.node
        self._limits, self._watchdog = PowerLimits(nv, directory), Watchdog(directory)
        self._applied = AppliedPlans(directory)
        self._turn = threading.Lock()
        self._plan_id: str | None = None
        self._seen: Seen | None = None
        self._expires_at = 0.0
        self._caps: dict[int, float] = {}
        self._mode = "apply" if apply else "advice"
        self._reading, self._carrying = "starting", "no plan yet"
        self._restored = self._limits.restore()  # what a crashed agent has left behind
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True)
            for name, loop in (("readings", self._keep_reading), ("plans", self._keep_carrying))
        ]
        for thread in self._threads:
            thread.start()

    def health(self) -> dict[str, Any]:
        """What it reads, what it carries out, and what it has set (watts by GPU index)."""
        return {
            "node": self.node,
            "mode": self._mode,
            "reading": self._reading,
            "carrying": self._carrying,
            "plan_id": self._plan_id,
            "expires_at": self._expires_at if self._caps else None,
            "caps_w": dict(self._caps),
            "restored": dict(self._restored),
            "watchdog_pid": self._watchdog.pid,
            "hold": self._applied.hold,
        }

    def restore(self) -> dict[str, str]:
        """Put the old limits back now; says what was done for each GPU, by UUID."""
        with self._turn:
            return self._put_back()

    def undo(self, plan_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Put back what stood before a plan was carried out, and carry nothing out until told.

        That is what the plan before it had set, for as long as that one lasts, or else the boards'
        own limits. Gives ``{node, plan_id, dry_run, previous, done}`` with what was done for each
        GPU by UUID. Raises NotFound when the plan was not carried out here.
        """
        with self._turn:
            found, now = self._applied.find(plan_id), time.time()
            lasts = found.previous is not None and now < found.previous_ends
            dry_run = dry_run or self._mode != "apply"
            told = {"node": self.node, "plan_id": plan_id, "dry_run": dry_run,
                    "previous": found.previous if lasts else None}  # fmt: skip
            if dry_run:
                # Without a plan to go back to, what is on disk as old is what comes back.
                before = found.before_mw if lasts else self._limits.old_mw()
                return {**told, "done": self._limits.revert(before, dry_run=True)}
            self._applied.set_hold(plan_id)
            if not lasts:
                return {**told, "done": self._put_back()}
            self._watchdog.guard(found.previous_ends)
            done = self._limits.revert(found.before_mw)
            self._plan_id, self._expires_at = found.previous, found.previous_ends
            self._caps = self._limits.in_force()
            return {**told, "done": done}

    def resume(self) -> None:
        """Carry plans out again after an ``undo``."""
        with self._turn:
            self._applied.set_hold(None)

    def stop(self) -> None:
        """End: limits are as they were before when this returns."""
        self._stopped.set()
        self.restore()
        self._watchdog.close()
        for thread in self._threads:
            thread.join(self._period_s + 1.0)

    # Readings

    def _keep_reading(self) -> None:
        pause = self._period_s
        while not self._stopped.is_set():
            try:
                with NvmlNode(self._nv, self.node, period_s=self._period_s) as device:
                    pause = self._period_s
                    self._read(device)
            except Exception as error:  # a driver that is reset, unloaded or sick
                self._reading = str(error).splitlines()[0]
                self._stopped.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _read(self, device: NvmlNode) -> None:
        topology, asked = device.topology(), -_ASK_HUB_S
        due = time.monotonic()
        while not self._stopped.is_set():
            batch = device.read()
            try:
                if time.monotonic() - asked >= _ASK_HUB_S:
                    asked = time.monotonic()
                    if not self._hub.knows(batch.source):  # it is new, or has been restarted
                        batch = dataclasses.replace(batch, topology=topology)
                self._hub.push([batch])
                self._reading = "live"
            except NotReady as error:
                self._reading, asked = f"readings are lost: {error}", -_ASK_HUB_S
            due = max(due + self._period_s, time.monotonic())
            self._stopped.wait(due - time.monotonic())

    # Plans

    def _keep_carrying(self) -> None:
        while not self._stopped.is_set():
            try:
                view = self._store.latest(self._follow, self._seen)
                self._seen = self._store.identity()
            except NotReady as error:
                view = {"plan": None, "alarm": str(error)}
            with self._turn:
                try:
                    self._carrying = self._carry(view, time.time())
                except Exception as error:  # expiry and the watchdog do not depend on this round
                    self._carrying = f"{type(error).__name__}: {error}"
            self._stopped.wait(self._period_s)

    def _carry(self, view: Mapping[str, Any], now: float) -> str:
        """Take one look at the newest plan; returns what came of it, in words."""
        if self._stopped.is_set():
            return "stopped"
        said = ""
        if self._caps and now >= self._expires_at:
            self._put_back()
            said = "the plan has expired, old limits are back; "
        plan = view["plan"]
        if plan is None or plan["stale"]:
            return said + str(view["alarm"])
        if self._applied.hold is not None:
            return f"{said}held: {self._applied.hold} was undone; apply a plan to go on"
        if plan["plan_id"] == self._plan_id and self._caps:
            return self._carrying
        try:
            caps = node_caps(plan, self.node, now)
            if self._mode == "advice":
                return said + self._advise(plan, caps)
            self._remember(plan["plan_id"], caps)
            self._watchdog.guard(plan["expires_at"])
            self._caps = self._limits.apply(caps)
        except Refused as error:
            self._applied.forget(plan["plan_id"])
            return said + self._refuse(error)
        except QClusterError as error:
            self._applied.forget(plan["plan_id"])
            self._forget()
            return f"{said}{plan['plan_id']} is not carried out: {error}"
        self._plan_id, self._expires_at = plan["plan_id"], plan["expires_at"]
        return f"{plan['plan_id']} is in force on {len(caps)} GPUs"

    def _remember(self, plan_id: str, caps: Mapping[int, float]) -> None:
        before = {uuid: now for uuid, now, _ in self._limits.check(caps).values()}
        previous = self._plan_id if self._caps else None
        ends = self._expires_at if previous else 0.0
        self._applied.record(
            Applied(plan_id=plan_id, before_mw=before, previous=previous, previous_ends=ends)
        )

    def _advise(self, plan: Mapping[str, Any], caps: Mapping[int, float]) -> str:
        changes = self._limits.check(caps)
        self._plan_id = plan["plan_id"]
        wanted = [
            f"GPU {index} from {now / 1e3:g} to {target / 1e3:g} W"
            for index, (_, now, target) in changes.items()
            if now != target
        ]
        why = "no permission to set limits" if self._apply else "started without --apply"
        return f"{why}; {plan['plan_id']} would set {', '.join(wanted) or 'nothing'}"

    def _refuse(self, error: Refused) -> str:
        self._forget()
        if "setting the power limit" in str(error):
            self._mode = "advice"
        return str(error)

    def _forget(self) -> None:
        if not self._limits.held():  # a board refused, and everything has been put back
            self._caps = {}

    def _put_back(self) -> dict[str, str]:
        self._restored = self._limits.restore()
        self._caps = {}
        return self._restored


def power_part(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The energy plan itself, or the one in a joint plan. Raises Refused when there is none."""
    if plan["planner"] != "joint":
        return plan
    if plan["energy"] is None:
        raise Refused(
            f"the joint plan sets no power: {plan['absent'].get('energy', 'none planned')}"
        )
    power: Mapping[str, Any] = plan["energy"]
    return power


def node_caps(plan: Mapping[str, Any], node: str, now: float) -> dict[int, float]:
    """The watts that an energy or joint plan gives each GPU of a node, by GPU index.

    Raises Refused when the plan may not be carried out: simulated telemetry, expired, or none of
    its own; InputError when it has no caps for the node's GPUs.
    """
    telemetry = plan.get("telemetry") or {}
    if telemetry.get("simulated", True) or not telemetry.get("snapshot_hash"):
        raise Refused("plans from simulated telemetry are never carried out")
    if plan.get("expires_at") is None or now >= plan["expires_at"]:
        raise Refused("the plan has expired or never expires, so it is not carried out")
    power = power_part(plan)
    mine = next((one for one in power["nodes"] if one["id"] == node), None)
    if mine is None or not mine["caps_w"]:
        raise InputError(f"the plan has no caps for {node}", field="nodes")
    caps = {}
    for gpu, watts in mine["caps_w"].items():
        owner, _, index = gpu.rpartition("/")
        if owner != node or not index.isdigit():
            raise InputError(f"'{gpu}' is not a GPU of {node}", field="caps_w")
        caps[int(index)] = float(watts)
    return caps
