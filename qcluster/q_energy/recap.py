"""A power plan with other caps than its own, for whoever knows more than power does.

The watts that a plan's caps count for may be put elsewhere (to the GPUs that hold more of the work,
say); the plan's figures then have to be those of the new caps.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.plan import relative_gap
from qcluster.q_energy.capping import predicted_speed
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.energy_plan import EnergyPlan
from qcluster.q_energy.node_power import node_powers, savings
from qcluster.q_energy.pipelines import learned_units
from qcluster.q_energy.planner import limited
from qcluster.q_energy.units import MARGIN, Units, units_from_snapshot
from qcluster.telemetry import Snapshot, Topology

__all__ = ["counted_w", "plan_units_of", "recapped", "settable"]

Floats = NDArray[np.float64]


def plan_units_of(plan: EnergyPlan, snapshot: Snapshot) -> tuple[Units, Topology]:
    """The units that a plan's caps are for, as the snapshot and the plan's memory show them."""
    part, _ = limited(snapshot)
    units = units_from_snapshot(part, EnergyConfig.read(plan.config), plan.demand)
    if "gnn" in plan.pipeline:
        units, _ = learned_units(units)
    return units, part.topology


def counted_w(plan: EnergyPlan, units: Units, caps: Floats) -> float:
    """Watts that caps count for under the plan's way of holding the budget."""
    if plan.config["hold"] == "draw":
        return float(np.minimum(caps, units.demand_w).sum())
    return float(caps.sum())


def settable(plan: EnergyPlan, units: Units, caps: Floats) -> Floats:
    """The limits to set for these caps: with room for noise where a GPU may draw all it wants and
    only its draw counts.
    """
    if plan.config["hold"] != "draw":
        return caps
    full = np.maximum(units.min_w, np.minimum(MARGIN * units.demand_w, units.max_w))
    return np.where(caps >= units.demand_w - 1e-9, full, caps)


def recapped(plan: EnergyPlan, units: Units, topology: Topology, caps: Floats) -> EnergyPlan:
    """The plan with these caps (n,) in watts and the figures that follow from them.

    Raises InputError when the caps are outside their limits or count for more than the plan's.
    """
    high = np.maximum(units.max_w, units.min_w)
    if (caps < units.min_w - 1e-6).any() or (caps > high + 1e-6).any():
        raise InputError("a cap is outside its GPU's limits", field="caps")
    before, after = counted_w(plan, units, plan.caps_w), counted_w(plan, units, caps)
    if after > before * (1 + 1e-9) + 1e-6:
        raise InputError(f"caps count for {after:g} W, the plan's for {before:g} W", field="caps")
    throughput = float(predicted_speed(units, caps).sum())
    allocated = float(np.minimum(caps, units.demand_w).sum())
    calm = float(np.minimum(caps, units.p50_w).sum())
    bound = plan.lower_bound
    return dataclasses.replace(
        plan,
        caps_w=settable(plan, units, caps),
        nodes=node_powers(units, caps, settable(plan, units, caps), topology),
        objective=-throughput,
        gap=None if bound is None else relative_gap(-throughput, bound),
        throughput=throughput,
        slowdown=1.0 - throughput / units.n,
        allocated_w=allocated,
        predicted_power_w={"p50": plan.overhead_w + calm, "p95": plan.overhead_w + allocated},
        predicted_savings=savings(units, caps, plan.window_s),
    )
