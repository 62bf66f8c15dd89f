"""What a power plan says: caps, what they are predicted to draw and save, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.plan import Plan
from qcluster.q_energy.demand import Demand
from qcluster.q_energy.dispatch import Dispatch
from qcluster.q_energy.identify import Sightings
from qcluster.q_energy.meta import Choice, MetaState
from qcluster.q_energy.node_power import NodePower, Savings
from qcluster.q_energy.problem import Schedule
from qcluster.record import Record

__all__ = ["EnergyPlan", "Proposal"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal(Record):
    """What a way of setting caps proposed for a window, watts, (n,) each.

    ``power_w`` is the median draw that it predicted under the caps that were set in the end.
    """

    caps_w: NDArray[np.float64]
    power_w: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyPlan(Plan):
    """Power caps for a window, within a budget.

    ``objective`` is minus ``throughput``, the sum over units of predicted speed as a share of
    full speed; ``upper_bound`` is the most any caps could reach. Where the predicted draw counts
    against the budget the objective also has a part of the doubt about each speed. ``gpus`` lists
    the units' ids in the order of ``caps_w`` (n,) watts. ``allocated_w`` is what the units are
    predicted to draw at most, ``overhead_w`` what no cap reaches, ``predicted_power_w`` p50 and
    p95 of the whole.
    ``active_accelerators`` counts by kind. ``schedule`` is the plan of dependent jobs, if any;
    ``dispatch`` says of each that could run on another accelerator where it goes and why.

    ``pipeline`` made it (see ``pipelines``). With the meta toggle, ``choice`` says who chose that
    and why, ``costs`` what each pipeline would have cost in the last window, ``meta`` what is
    remembered of all windows, ``pipeline_table`` by job category each pipeline's mean cost over the
    best one's (None: never known), ``proposals`` what the pipelines would set now. ``demand`` is
    what each GPU is taken to draw uncapped. Where the predicted draw counts against the budget,
    ``sightings`` is what was seen of each GPU's job and ``reserve_w`` what is kept back for new
    ones.
    """

    window_s: float
    budget_w: float
    gpus: tuple[str, ...]
    caps_w: NDArray[np.float64]
    nodes: tuple[NodePower, ...]
    throughput: float
    upper_bound: float | None
    slowdown: float
    allocated_w: float
    overhead_w: float
    predicted_power_w: dict[str, float]
    predicted_savings: Savings
    active_accelerators: dict[str, int]
    schedule: Schedule | None = None
    dispatch: tuple[Dispatch, ...] = ()
    pipeline: str = "classical"
    choice: Choice | None = None
    meta: MetaState | None = None
    costs: dict[str, float] = field(default_factory=dict)
    proposals: dict[str, Proposal] = field(default_factory=dict)
    pipeline_table: dict[str, dict[str, float | None]] = field(default_factory=dict)
    demand: Demand | None = None
    sightings: Sightings | None = None
    reserve_w: float = 0.0
