"""Power of a cluster: budgets over GPUs, peaks of dependent jobs, plans from telemetry."""

from __future__ import annotations

from qcluster.q_energy.budget import allocate_budget
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.energy_plan import plan_energy
from qcluster.q_energy.forecast import Forecaster, fit_forecaster, forecast_power
from qcluster.q_energy.formats import read_trace
from qcluster.q_energy.frontier import Frontier, FrontierPoint, Op, one_f_one_b, pipeline_frontier
from qcluster.q_energy.levelling import level_peak
from qcluster.q_energy.nodes import NodeSelection, select_nodes
from qcluster.q_energy.plan import EnergyPlan
from qcluster.q_energy.planner import EnergyPlanner
from qcluster.q_energy.problem import Allocation, Curve, Schedule, Task
from qcluster.q_energy.profiling import LimitChoice, choose_limit
from qcluster.q_energy.psplib import read_psplib
from qcluster.q_energy.recommend import recommend
from qcluster.q_energy.shaping import ShapedPower, shape_power
from qcluster.q_energy.shaping_bound import peak_bound
from qcluster.q_energy.tasks import critical_path
from qcluster.q_energy.trace import PowerTrace

__all__ = [
    "Allocation",
    "Curve",
    "EnergyConfig",
    "EnergyPlan",
    "EnergyPlanner",
    "Forecaster",
    "Frontier",
    "FrontierPoint",
    "LimitChoice",
    "NodeSelection",
    "Op",
    "PowerTrace",
    "Schedule",
    "ShapedPower",
    "Task",
    "allocate_budget",
    "choose_limit",
    "critical_path",
    "fit_forecaster",
    "forecast_power",
    "level_peak",
    "one_f_one_b",
    "peak_bound",
    "pipeline_frontier",
    "plan_energy",
    "read_psplib",
    "read_trace",
    "recommend",
    "select_nodes",
    "shape_power",
]
