"""The routes of a server, by name."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import httpx

from qcluster.client.results import ServerEvent, StoredPlan, typed_answer, typed_plan
from qcluster.client.transport import Transport
from qcluster.errors import DeadlineExceeded, InputError, NotReady, QClusterError
from qcluster.record import encode

__all__ = ["Client"]

# The server computes baselines after the answer, with the same time each.
_ANSWER_SHARE, _ANSWER_EXTRA_S = 6.0, 35.0


class Client:
    """A running qcluster server. Thread-safe; a context manager that closes its connections.

    Parameters
    ----------
    url: where the server listens, ``http://127.0.0.1:8000``.
    token: its bearer token, where it wants one.
    patience_s: seconds for which requests are repeated while the server or a part of it is away.
    timeout_s: seconds that one attempt may wait.

    Methods raise the library's own errors: InputError for what the server refuses as content
    (naming the field), NotFound, Refused (also for a wrong token), NotReady when the patience is
    over, DeadlineExceeded when the call's own ``deadline_s`` is.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience_s: float = 90.0,
        timeout_s: float = 30.0,
    ) -> None:
        self._transport = Transport(url, token, patience_s=patience_s, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    # -- the service ------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """``{status}`` of whatever process answers."""
        return self._get("/healthz")

    def ready(self) -> bool:
        """Whether every planner has a fresh plan, asked once."""
        try:
            self._transport.request("GET", "/readyz", patience_s=0.0)
        except QClusterError:
            return False
        return True

    def metrics(self) -> str:
        """Prometheus text."""
        return self._transport.request("GET", "/metrics").text

    # -- stored plans -----------------------------------------------------------------------

    def plans(self) -> dict[str, Any]:
        """``{plans, alarms}`` of every planner, as JSON types; null where there is no plan yet."""
        return self._get("/v1/plans")

    def latest(self, planner: str) -> StoredPlan:
        """The plan of a planner that is safe to carry out now, in the library's type."""
        return typed_plan(planner, self._get(f"/v1/plans/{planner}/latest")["plan"])

    def history(self, planner: str, limit: int = 100) -> list[dict[str, Any]]:
        """Summaries of the stored plans, newest first."""
        found = self._get(f"/v1/plans/{planner}/history", params={"limit": limit})
        plans: list[dict[str, Any]] = found["plans"]
        return plans

    def explain(self, plan_id: str) -> dict[str, Any]:
        """Why a plan is as it is."""
        return self._get(f"/v1/plans/{plan_id}/explain")

    def diff(self, plan_id: str, against: str | None = None) -> dict[str, Any]:
        """What a plan changes against the one before it, or against another."""
        params = {} if against is None else {"against": against}
        return self._get(f"/v1/plans/{plan_id}/diff", params=params)

    def plan(self, planner: str, plan_id: str) -> dict[str, Any]:
        """One stored plan as it was made, as JSON types."""
        return self._get(f"/v1/plans/{planner}/{plan_id}")

    def apply(self, plan_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """The limits that a joint or energy plan sets, and what the nodes' agents say of it.

        ``dry_run`` of the answer is true unless the server was started with ``--apply``. After a
        ``restore`` agents go on with this plan and those that follow. Raises Refused for plans
        that are never carried out, such as those from simulated telemetry.
        """
        return self._post(_carry(plan_id, "apply", dry_run), None, None)

    def restore(self, plan_id: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Undo a plan: every node puts back what stood before it was carried out.

        ``{plan_id, dry_run, nodes: {node: {previous, done: {gpu uuid: what}}}}``; ``dry_run`` as in
        ``apply``. No newer plan is carried out until one is applied. Raises Refused when no node
        carried it out.
        """
        return self._post(_carry(plan_id, "restore", dry_run), None, None)

    # -- questions --------------------------------------------------------------------------

    def ask(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        key: str | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        """Put one question of any kind: ``ask("solve", {"problem": ...})``.

        The answer has the library's type. ``deadline_s`` here is the caller's, repetitions
        included; the solver's own is a field of the body. ``key`` names the question, so that the
        same key and body give the same answer again.
        """
        path = "/v1/" + kind.replace(".", "/")
        content = encode(dict(body))
        seconds = content.get("deadline_s")
        budget = seconds if isinstance(seconds, (int, float)) else 1.0
        answer = self._transport.request(
            *("POST", path),
            body=content,
            key=key,
            deadline_s=deadline_s,
            timeout_s=_ANSWER_EXTRA_S + _ANSWER_SHARE * budget,
        )
        return typed_answer(kind, answer.json())

    def route(self, tokens: Any, model_graph: Any, **more: Any) -> Any:
        """Tokens to experts: a RoutingPlan."""
        return self.ask("routing.plan", {"tokens": tokens, "model_graph": model_graph, **more})

    def place_experts(self, load: Any, **more: Any) -> Any:
        """Expert loads (layers, experts) to a Placement; ``num_slots`` and ``num_gpus`` needed."""
        return self.ask("routing.placement", {"load": load, **more})

    def plan_energy(self, telemetry: Any, **more: Any) -> Any:
        """Power caps within a budget: an EnergyPlan."""
        return self.ask("energy.plan", {"telemetry": telemetry, **more})

    def plan_fabric(self, fabric: Any, jobs: Any, **more: Any) -> Any:
        """Jobs onto an NVLink fabric: an NVLinkPlan."""
        return self.ask("nvlink.plan", {"fabric": fabric, "jobs": jobs, **more})

    def schedule_all_to_all(self, traffic: Any, **more: Any) -> Any:
        """Integer bytes (n, n) to a Schedule."""
        return self.ask("nvlink.all-to-all", {"traffic": traffic, **more})

    def place_gangs(self, racks: Mapping[str, Any], gangs: Any, **more: Any) -> Any:
        """Gangs of pods over racks ``{rack: {node: free GPUs}}``: a GangPlan."""
        return self.ask("nvlink.gangs", {"racks": racks, "gangs": gangs, **more})

    def partition_ranks(self, traffic: Any, capacities: Any, **more: Any) -> Any:
        """Bytes (n, n) and the domains' sizes to a Partition."""
        return self.ask("nvlink.partition", {"traffic": traffic, "capacities": capacities, **more})

    def solve(self, problem: Mapping[str, Any], **more: Any) -> Any:
        """An Ising problem ``{h, J: [[i, j, value]], offset, groups}`` to a Solution."""
        return self.ask("solve", {**problem, **more})

    def batch(self, problems: Sequence[Mapping[str, Any]], *, key: str | None = None) -> list[Any]:
        """Answers to up to 256 questions ``{kind, ...}``, each typed, or the InputError it got."""
        seconds = sum(float(p.get("deadline_s") or 1.0) for p in problems)
        answer = self._transport.request(
            *("POST", "/v1/plans:batch"),
            body={"problems": encode(list(problems))},
            key=key,
            timeout_s=_ANSWER_EXTRA_S + _ANSWER_SHARE * seconds,
        )
        answers = zip(problems, answer.json()["answers"], strict=True)
        return [_one_of_batch(question["kind"], found) for question, found in answers]

    # -- telemetry --------------------------------------------------------------------------

    def telemetry(self) -> dict[str, Any]:
        """``{snapshot, power_history, health}``: the newest picture of the cluster."""
        return self._get("/v1/telemetry/latest")

    def push(self, samples: Any) -> int:
        """Send samples: a dict, a list of dicts, or JSON lines as bytes; how many were taken in."""
        body = samples if isinstance(samples, bytes) else encode(samples)
        return int(self._transport.request("POST", "/v1/telemetry", body=body).json()["samples"])

    def events(self, last_id: str | None = None) -> Iterator[ServerEvent]:
        """Snapshots, plans and heartbeats as they come, without end; connects again when cut."""
        pause = 0.5
        while True:
            headers = {"Accept": "text/event-stream"}
            if last_id is not None:
                headers["Last-Event-ID"] = last_id
            with contextlib.suppress(httpx.TransportError, NotReady):
                for event in _parsed(self._transport.stream("/v1/telemetry/stream", headers)):
                    last_id, pause = event.id or last_id, 0.5
                    yield event
            time.sleep(pause)
            pause = min(2 * pause, 8.0)

    # -- jobs -------------------------------------------------------------------------------

    def submit(self, body: Mapping[str, Any], *, key: str | None = None) -> dict[str, Any]:
        """Start a job: ``{kind, ...}`` or ``{problems: [{kind, ...}]}``; gives ``{id, state}``."""
        return self._post("/v1/jobs", encode(dict(body)), key)

    def job(self, job_id: str) -> dict[str, Any]:
        """State, progress and, once done, the result of a job."""
        return self._get(f"/v1/jobs/{job_id}")

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs that are remembered, newest first, without results."""
        found: list[dict[str, Any]] = self._get("/v1/jobs")["jobs"]
        return found

    def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job and forget it; its last state, also when asked again. Raises NotFound."""
        found: dict[str, Any] = self._transport.request("DELETE", f"/v1/jobs/{job_id}").json()
        return found

    def wait(self, job_id: str, *, deadline_s: float = 3600.0) -> dict[str, Any]:
        """A job once it has ended. Raises DeadlineExceeded."""
        ends = time.monotonic() + deadline_s
        pause = 0.05
        while (job := self.job(job_id))["state"] in ("queued", "running"):
            if time.monotonic() + pause > ends:
                raise DeadlineExceeded(f"job {job_id} is {job['state']} after {deadline_s:g} s")
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)
        return job

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self._transport.request("GET", path, params=params).json()
        return found

    def _post(self, path: str, body: Any, key: str | None) -> dict[str, Any]:
        found: dict[str, Any] = self._transport.request("POST", path, body=body, key=key).json()
        return found


def _carry(plan_id: str, verb: str, dry_run: bool) -> str:
    return f"/v1/plans/{plan_id}/{verb}{'?dry_run=true' if dry_run else ''}"


def _one_of_batch(kind: str, found: Mapping[str, Any]) -> Any:
    if (error := found.get("error")) is not None:
        field = error.get("field")
        return InputError(error["detail"].removeprefix(f"field '{field}': "), field=field)
    return typed_answer(kind, found["result"])


def _parsed(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Server-sent events out of their lines."""
    name, number, data = "message", None, list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield ServerEvent(id=number, event=name, data=json.loads("\n".join(data)))
            name, number, data = "message", None, list[str]()
        elif field == "event":
            name = value
        elif field == "id":
            number = value
        elif field == "data":
            data.append(value)
