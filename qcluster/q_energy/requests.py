"""The energy room's question over HTTP, in a batch or as a job: a power plan."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from qcluster.config import Config
from qcluster.errors import InputError
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.energy_plan import plan_energy
from qcluster.q_energy.plan import EnergyPlan
from qcluster.q_energy.trace import PowerTrace, screen
from qcluster.record import Record
from qcluster.request import REQUESTS, Request
from qcluster.telemetry import Job, Topology

__all__ = ["EnergyPlanRequest", "Reading"]


class Reading(Config):
    """One power reading."""

    ts_s: float
    """Unix seconds, or seconds of any clock that all readings share."""
    node: Annotated[str, Field(min_length=1, max_length=200)]
    """Node id."""
    power_w: float
    """Watts of the node, or of the GPU when ``gpu`` is given."""
    gpu: Annotated[int, Field(ge=0, le=4095)] | None = None
    """Index of the GPU in its node."""


class EnergyPlanRequest(Request):
    """A power plan from readings, topology and jobs."""

    kind: ClassVar[str] = "energy.plan"
    path: ClassVar[str] = "/v1/energy/plan"
    summary: ClassVar[str] = "Power caps within a budget, and a job schedule with a low peak"
    result: ClassVar[type[Record]] = EnergyPlan
    example: ClassVar[dict[str, Any]] = {
        "telemetry": [
            {"ts_s": 0.0, "node": "a", "gpu": 0, "power_w": 640.0},
            {"ts_s": 0.0, "node": "a", "gpu": 1, "power_w": 310.0},
            {"ts_s": 0.0, "node": "b", "gpu": 0, "power_w": 655.0},
            {"ts_s": 0.0, "node": "b", "gpu": 1, "power_w": 120.0},
        ],
        "topology": {
            "nodes": [
                {"id": "a", "gpus": 2, "model": "H100"},
                {"id": "b", "gpus": 2, "model": "H100"},
            ]
        },
        "jobs": [
            {"id": "load", "gpus": 2, "duration_s": 60, "power_w": 300},
            {"id": "train", "gpus": 4, "duration_s": 300, "power_w": 1200, "after": ["load"]},
            {"id": "evaluate", "gpus": 2, "duration_s": 120, "power_w": 600, "after": ["load"]},
        ],
        "budget_w": 1600.0,
    }

    telemetry: Annotated[list[Reading], Field(min_length=1, max_length=1_000_000)]
    """Power readings in any order."""
    topology: dict[str, Any] | None = None
    """Cluster topology as in a topology file; without one whole nodes are planned."""
    jobs: list[dict[str, Any]] | None = None
    """Job profiles; those with ``duration_s`` and ``power_w`` are scheduled."""
    budget_w: Annotated[float, Field(ge=0, le=1e9)] | None = None
    """Watts for everything; without it a share of nameplate."""
    config: EnergyConfig = EnergyConfig()
    """Toggles and limits."""

    def run(self) -> EnergyPlan:
        """The plan. Raises InputError naming reading and field for bad content."""
        if self.config.weights is not None:
            message = "is for the machine's own configuration: a request names no files of it"
            raise InputError(message, field="config.weights")
        names = [r.node if r.gpu is None else f"{r.node}/{r.gpu}" for r in self.telemetry]
        ids, entity = np.unique(names, return_inverse=True)
        times = np.array([r.ts_s for r in self.telemetry])
        watts = np.array([r.power_w for r in self.telemetry])
        rows = 1 + np.arange(len(watts))
        screen(ids.tolist(), entity, times, watts, rows=rows, file="telemetry")
        trace = PowerTrace.screened(tuple(map(str, ids)), entity, times, watts)
        return plan_energy(
            trace,
            None if self.topology is None else Topology.parse(self.topology),
            jobs=None if self.jobs is None else Job.parse_all(self.jobs),
            budget_w=self.budget_w,
            config=self.config,
            deadline_s=self.deadline_s,
            seed=self.seed,
        )


REQUESTS.register(EnergyPlanRequest.kind, EnergyPlanRequest)
