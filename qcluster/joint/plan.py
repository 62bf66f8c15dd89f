"""The joint plan: three parts, what stood in the way between them, and what was done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcluster.plan import Plan
from qcluster.q_energy import EnergyPlan
from qcluster.q_nvlink import NVLinkPlan
from qcluster.q_routing.planner import PlacementPlan
from qcluster.record import Record

__all__ = ["PARTS", "Conflict", "JointPlan"]

PARTS = ("routing", "nvlink", "energy")
"""The planners whose plans a joint plan has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conflict(Record):
    """Two parts that stood in each other's way.

    ``before`` and ``after`` are the stretch of a step without and with the ``resolution``; None
    where the conflict has no such figure.
    """

    kind: Literal["power", "links", "missing", "refused"]
    between: tuple[str, ...]
    what: str
    resolution: str
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class JointPlan(Plan):
    """One plan for the cluster.

    ``objective`` is the stretch: how much longer a step takes than with its work spread evenly over
    all living GPUs at full speed. ``measure`` says what the step is: all layers of experts
    (``experts``), or where no experts are known a step of every job (``jobs``), or where there are
    no jobs a step of every GPU (``gpus``). ``relative_speed`` is its reciprocal and
    ``upper_bound`` the most it could be. ``rate`` (gpus,) is each GPU's share of full speed under
    its cap and with its links, 0 for one that does not answer.

    A part is None where ``absent`` says why; ``made_here`` names parts that the joint planner made
    or changed, the others are the planners' own plans.
    """

    routing: PlacementPlan | None
    nvlink: NVLinkPlan | None
    energy: EnergyPlan | None
    measure: Literal["experts", "jobs", "gpus"]
    gpu_ids: tuple[str, ...]
    rate: NDArray[np.float64]
    relative_speed: float
    upper_bound: float
    absent: dict[str, str] = field(default_factory=dict)
    made_here: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
