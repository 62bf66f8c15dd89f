"""The questions about fabrics that can be sent over HTTP, in a batch or as a job."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from qcluster.errors import InputError
from qcluster.q_nvlink.alltoall import Schedule, schedule_all_to_all
from qcluster.q_nvlink.config import NVLinkConfig
from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.formats import parse_fabric, parse_node_link
from qcluster.q_nvlink.plan import NVLinkPlan, plan_fabric
from qcluster.record import Record
from qcluster.request import REQUESTS, Request
from qcluster.telemetry import Job

__all__ = ["AllToAllRequest", "NVLinkPlanRequest"]

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


def _fabric(content: dict[str, Any] | str) -> Fabric:
    """The fabric in a body's field; errors name the field."""
    try:
        return parse_fabric(content) if isinstance(content, str) else parse_node_link(content)
    except InputError as error:
        where = "fabric" if error.field is None else f"fabric.{error.field}"
        raise type(error)(error.message, row=error.row, field=where) from None
