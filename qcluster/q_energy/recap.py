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
from qcluster.q_energy.draw import seen_units
from qcluster.q_energy.nets import readable_nets
from qcluster.q_energy.node_power import node_powers, savings
from qcluster.q_energy.pipelines import learned_units
from qcluster.q_energy.plan import EnergyPlan
from qcluster.q_energy.planner import limited
from qcluster.q_energy.units import Units, units_from_snapshot
from qcluster.telemetry import Snapshot, Topology

__all__ = ["plan_units_of", "recapped"]

Floats = NDArray[np.float64]


def plan_units_of(plan: EnergyPlan, snapshot: Snapshot) -> tuple[Units, Topology]:
    """The units that a plan's caps are for, as the snapshot and the plan's memory show them."""
    part, _ = limited(snapshot)
    units = units_from_snapshot(part, EnergyConfig.read(plan.config), plan.demand)
    if "gnn" in plan.pipeline:
        nets, _ = readable_nets(plan.config.get("weights"), None)
        units, _ = learned_units(units, nets.curves)
    if plan.sightings is not None:
        units = seen_units(units, plan.sightings)
    return units, part.topology


def recapped(plan: EnergyPlan, units: Units, topology: Topology, caps: Floats) -> EnergyPlan:
    """The plan with these caps (n,) in watts and the figures that follow from them.

    Raises InputError when the caps are outside their limits or sum to more than the plan's, and for
    a plan whose budget counts draw and not caps.
    """
    if plan.sightings is not None:
        raise InputError("counts the draw and not the caps", field="plan")
    high = np.maximum(units.max_w, units.min_w)
    if (caps < units.min_w - 1e-6).any() or (caps > high + 1e-6).any():
        raise InputError("a cap is outside its GPU's limits", field="caps")
    before, after = float(plan.caps_w.sum()), float(caps.sum())
    if after > before * (1 + 1e-9) + 1e-6:
        raise InputError(f"caps sum to {after:g} W, the plan's to {before:g} W", field="caps")
    throughput = float(predicted_speed(units, caps).sum())
    allocated = float(np.minimum(caps, units.demand_w).sum())
    calm = float(np.minimum(caps, units.p50_w).sum())
    bound = plan.lower_bound
    return dataclasses.replace(
        plan,
        caps_w=caps,
        nodes=node_powers(units, caps, caps, topology),
        objective=-throughput,
        gap=None if bound is None else relative_gap(-throughput, bound),
        throughput=throughput,
        slowdown=1.0 - throughput / units.n,
        allocated_w=allocated,
        predicted_power_w={"p50": plan.overhead_w + calm, "p95": plan.overhead_w + allocated},
        predicted_savings=savings(units, caps, plan.window_s),
    )
