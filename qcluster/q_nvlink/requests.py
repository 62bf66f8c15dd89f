"""The questions about fabrics that can be sent over HTTP, in a batch or as a job."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from qcluster.errors import InputError
from qcluster.q_nvlink.alltoall import Schedule, schedule_all_to_all
from qcluster.q_nvlink.config import NVLinkConfig
from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.formats import parse_fabric, parse_node_link
from qcluster.q_nvlink.gangs import GangPlan, list_racks, parse_gangs, place_gangs
from qcluster.q_nvlink.partition import Partition, partition_ranks
from qcluster.q_nvlink.plan import NVLinkPlan, plan_fabric
from qcluster.record import Record
from qcluster.request import REQUESTS, Request
from qcluster.telemetry import Job

__all__ = ["AllToAllRequest", "GangRequest", "NVLinkPlanRequest", "PartitionRequest"]

_EXAMPLE_FABRIC = {
    "directed": False,
    "nodes": [{"id": f"gpu{i}", "kind": "gpu"} for i in range(4)],
    "edges": [
        {"source": "gpu0", "target": "gpu1", "bandwidth_GBps": 50.0, "links": 2},
        {"source": "gpu2", "target": "gpu3", "bandwidth_GBps": 50.0, "links": 2},
        {"source": "gpu0", "target": "gpu2", "bandwidth_GBps": 25.0},
        {"source": "gpu1", "target": "gpu3", "bandwidth_GBps": 25.0},
    ],
}


@REQUESTS.add("nvlink.plan")
class NVLinkPlanRequest(Request):
    """Place jobs on a fabric: assignment, routes, link loads, rounds and a bound."""

    kind: ClassVar[str] = "nvlink.plan"
    path: ClassVar[str] = "/v1/nvlink/plan"
    summary: ClassVar[str] = "Place jobs on an NVLink fabric"
    result: ClassVar[type[Record]] = NVLinkPlan
    example: ClassVar[dict[str, Any]] = {
        "fabric": _EXAMPLE_FABRIC,
        "jobs": [
            {"id": "train", "gpus": 2, "traffic": {"kind": "allreduce", "bytes": 1e9}},
            {"id": "serve", "gpus": 2, "traffic": {"kind": "all_to_all", "bytes": 2e8}},
        ],
        "config": {"qaoa": False},
        "deadline_s": 1.0,
    }

    fabric: dict[str, Any] | str
    """Node-link JSON, or the text of nvidia-smi topo -m or nvlink -s."""
    jobs: Annotated[list[dict[str, Any]], Field(max_length=1024)]
    """Job profiles: id, gpus, traffic, pinned, after."""
    config: NVLinkConfig = NVLinkConfig()
    """Toggles."""

    def run(self) -> NVLinkPlan:
        """Answer; see ``plan_fabric``."""
        fabric = _fabric(self.fabric)
        try:
            jobs = Job.parse_all(self.jobs)
        except InputError as error:
            raise type(error)(error.message, field=f"jobs{error.field or ''}") from None
        return plan_fabric(
            fabric, jobs, config=self.config, deadline_s=self.deadline_s, seed=self.seed
        )


@REQUESTS.add("nvlink.all-to-all")
class AllToAllRequest(Request):
    """Schedule an all-to-all: rounds on one tier, timed transfers on a fabric, with the bound."""

    kind: ClassVar[str] = "nvlink.all-to-all"
    path: ClassVar[str] = "/v1/nvlink/all-to-all"
    summary: ClassVar[str] = "Schedule an all-to-all of any volumes"
    result: ClassVar[type[Record]] = Schedule
    example: ClassVar[dict[str, Any]] = {
        "traffic": [[0, 30, 10, 5], [10, 0, 40, 0], [5, 5, 0, 20], [60, 0, 10, 0]],
    }

    traffic: Annotated[list[list[int]], Field(max_length=1024)]
    """Whole bytes from row to column; the diagonal is ignored."""
    fabric: dict[str, Any] | str | None = None
    """As in nvlink.plan, as many GPUs as the matrix has rows; none: equal ports on one switch."""
    few_rounds: bool = False
    """Pairs may finish before their round does, which takes several times fewer rounds."""

    def run(self) -> Schedule:
        """Answer; see ``schedule_all_to_all``."""
        fabric = None if self.fabric is None else _fabric(self.fabric)
        return schedule_all_to_all(self.traffic, fabric=fabric, few_rounds=self.few_rounds)


@REQUESTS.add("nvlink.gangs")
class GangRequest(Request):
    """Place gangs of pods over racks: all or nothing, evenly, racks kept whole."""

    kind: ClassVar[str] = "nvlink.gangs"
    path: ClassVar[str] = "/v1/nvlink/gangs"
    summary: ClassVar[str] = "Place gangs of pods over racks"
    result: ClassVar[type[Record]] = GangPlan
    example: ClassVar[dict[str, Any]] = {
        "racks": {"a": {"a0": 4, "a1": 4, "a2": 4}, "b": {"b0": 4, "b1": 4, "b2": 4}},
        "gangs": [
            {"id": "train", "pods": 4, "gpus": 4},
            {"id": "serve", "pods": 1, "gpus": 2, "clique": True},
        ],
    }

    racks: dict[str, dict[str, int]] | None = None
    """Rack to node to free GPUs."""
    fabric: dict[str, Any] | str | None = None
    """Instead of racks, as in nvlink.plan: NVLink domains are racks."""
    busy: Annotated[tuple[str, ...], Field(max_length=131_072)] = ()
    """GPUs of the fabric that are taken."""
    gangs: Annotated[list[dict[str, Any]], Field(max_length=4096)]
    """id, pods, gpus (a pod), segment (pods in one rack together), clique (all in one rack)."""

    def run(self) -> GangPlan:
        """Answer; see ``place_gangs``."""
        if (self.racks is None) == (self.fabric is None):
            raise InputError("wants either racks or a fabric", field="racks")
        if self.fabric is not None:
            racks = list_racks(_fabric(self.fabric), busy=self.busy)
        else:
            racks = self.racks or {}
        return place_gangs(racks, parse_gangs(self.gangs))


@REQUESTS.add("nvlink.partition")
class PartitionRequest(Request):
    """Give ranks NVLink domains so that as few bytes as possible cross between these."""

    kind: ClassVar[str] = "nvlink.partition"
    path: ClassVar[str] = "/v1/nvlink/partition"
    summary: ClassVar[str] = "Ranks over NVLink domains"
    result: ClassVar[type[Record]] = Partition
    example: ClassVar[dict[str, Any]] = {
        "traffic": [[0, 1, 9, 1], [1, 0, 1, 9], [9, 1, 0, 1], [1, 9, 1, 0]],
        "capacities": [2, 2],
        "deadline_s": 0.2,
    }

    traffic: Annotated[list[list[float]], Field(max_length=2048)]
    """Bytes from rank to rank."""
    capacities: Annotated[list[int], Field(max_length=2048)]
    """How many ranks each domain holds."""

    def run(self) -> Partition:
        """Answer; see ``partition_ranks``."""
        return partition_ranks(
            self.traffic,
            self.capacities,
            deadline_s=1.0 if self.deadline_s is None else self.deadline_s,
            seed=self.seed or 0,
        )


def _fabric(content: dict[str, Any] | str) -> Fabric:
    """The fabric in a body's field; errors name the field."""
    try:
        return parse_fabric(content) if isinstance(content, str) else parse_node_link(content)
    except InputError as error:
        where = "fabric" if error.field is None else f"fabric.{error.field}"
        raise type(error)(error.message, row=error.row, field=where) from None
