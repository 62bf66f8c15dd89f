"""The questions about routing that users send over HTTP, in batches and as jobs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.placement import place_experts
from qcluster.q_routing.problem import Placement
from qcluster.q_routing.route import RoutingPlan, route
from qcluster.record import Record
from qcluster.request import REQUESTS, Request

__all__ = ["PlacementRequest", "RouteRequest"]

_Row = Annotated[list[float], Field(max_length=4096)]


@REQUESTS.add("routing.plan")
class RouteRequest(Request):
    """Tokens and a model graph to a routing plan."""

    kind: ClassVar[str] = "routing.plan"
    path: ClassVar[str] = "/v1/routing/plan"
    summary: ClassVar[str] = "Route tokens to experts"
    result: ClassVar[type[Record]] = RoutingPlan
    example: ClassVar[dict[str, Any]] = {
        "tokens": [
            {"id": "t0", "complexity": 1.5, "source_gpu": "g0", "group": "a"},
            {"id": "t1", "complexity": 1.0, "source_gpu": "g0", "group": "a"},
            {"id": "t2", "complexity": 0.5, "source_gpu": "g1", "interacts": ["t3"]},
            {"id": "t3", "complexity": 2.0, "source_gpu": "g1"},
        ],
        "model_graph": {
            "nodes": [
                {"id": "e0", "gpu": "g0", "capacity": 2},
                {"id": "e1", "gpu": "g1", "capacity": 2},
            ],
            "edges": [{"source": "e0", "target": "e1", "bandwidth_gb_s": 450}],
        },
        "config": {"qaoa": True, "hqc": True},
        "seed": 7,
    }

    tokens: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=200_000)]
    """Records with id, and perhaps complexity, bytes, source_gpu, group, interacts."""
    model_graph: dict[str, Any]
    """Node-link JSON: nodes are experts (capacity, gpu), edges carry bandwidth_gb_s."""
    config: RoutingConfig = RoutingConfig()
    """Toggles."""
    queue_length: Annotated[int, Field(ge=0)] = 0
    """Jobs waiting at the quantum device."""

    def run(self) -> RoutingPlan:
        """Route. Raises InputError naming the field that is wrong."""
        return route(
            self.tokens,
            self.model_graph,
            config=self.config,
            deadline_s=self.deadline_s,
            seed=self.seed,
            queue_length=self.queue_length,
        )


@REQUESTS.add("routing.placement")
class PlacementRequest(Request):
    """Expert loads to a certified placement."""

    kind: ClassVar[str] = "routing.placement"
    path: ClassVar[str] = "/v1/routing/placement"
    summary: ClassVar[str] = "Place experts onto GPUs"
    result: ClassVar[type[Record]] = Placement
    example: ClassVar[dict[str, Any]] = {
        "load": [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ],
        "num_slots": 16,
        "num_gpus": 8,
        "num_nodes": 2,
        "num_groups": 4,
        "mode": "hierarchical",
    }

    load: Annotated[list[_Row], Field(min_length=1, max_length=1024)]
    """Layers x experts, any count of at least 0."""
    num_slots: Annotated[int, Field(ge=1, le=100_000)]
    """Slots a layer over all GPUs."""
    num_gpus: Annotated[int, Field(ge=1, le=4096)]
    """GPUs."""
    num_nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Nodes, GPUs in order."""
    num_groups: Annotated[int, Field(ge=1, le=4096)] = 1
    """Groups of consecutive experts."""
    mode: Literal["global", "hierarchical"] = "global"
    """hierarchical keeps groups on nodes."""
    previous: Annotated[list[list[int]], Field(max_length=1024)] | None = None
    """Slots of the placement in force, layers x num_slots."""
    max_moved: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of all slots that may change."""
    slots_per_gpu: Annotated[list[int], Field(max_length=4096)] | None = None
    """Slots of each GPU."""
    speed: Annotated[list[float], Field(max_length=4096)] | None = None
    """Relative speed of each GPU."""
    alive: Annotated[list[bool], Field(max_length=4096)] | None = None
    """False for GPUs that take nothing."""

    def run(self) -> Placement:
        """Place. Raises InputError naming the field that is wrong."""
        fields = self.model_dump(exclude={"deadline_s", "seed", "load"})
        return place_experts(_matrix(self.load, "load"), **_previous(fields))


def _matrix(rows: list[list[float]], name: str) -> Any:
    import numpy as np

    from qcluster.errors import InputError

    if len({len(row) for row in rows}) != 1:
        raise InputError("rows differ in length", field=name)
    return np.array(rows)


def _previous(fields: dict[str, Any]) -> dict[str, Any]:
    if fields["previous"] is not None:
        fields["previous"] = _matrix(fields["previous"], "previous")
    return fields
