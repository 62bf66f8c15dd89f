"""The ways to make a power plan, and which of them a window gets.

A pipeline is a set of toggles: every node alone, or one shared budget, its speeds predicted by the
physical model or by learned curves, the window at the peak of dependent jobs reworked by QAOA or
not. With the meta toggle, ``meta`` chooses among those that the other toggles allow; this file
tells it what each would have cost in the window that has passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.capping import CapProblem, hull_caps, independent_caps, predicted_speed
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.curve_net import CAPS, CurveNet, EnergyCurves, default_net, fitted_units
from qcluster.q_energy.meta import PIPELINES, SAFE, Choice, MetaState, choose, observe
from qcluster.q_energy.nets import Nets
from qcluster.q_energy.plan import EnergyPlan, Proposal
from qcluster.q_energy.task_graph import unit_graph
from qcluster.q_energy.units import Units

if TYPE_CHECKING:
    from qcluster.telemetry import Job

__all__ = [
    "Picked",
    "category_of",
    "learned_units",
    "pick",
    "pipelines",
    "propose",
    "unlearned",
]

Floats = NDArray[np.float64]

# Pipelines that set the same caps: QAOA only concerns the schedule of dependent jobs.
_CAPS_OF = {
    "independent": "independent", "classical": "classical", "gnn": "gnn", "qaoa": "classical",
    "gnn+qaoa": "gnn",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Picked:
    """The pipeline of a window and its networks; with the meta toggle also who chose it, what is
    remembered, and what each pipeline would have cost in the last window.
    """

    pipeline: str
    nets: Nets = field(default_factory=Nets.default)
    choice: Choice | None = None
    state: MetaState | None = None
    costs: dict[str, float] = field(default_factory=dict)


def pipelines(config: EnergyConfig) -> tuple[str, ...]:
    """The pipelines that the toggles allow.

    Without meta there is one. Meta alone may take any; with other toggles those that are on,
    together or apart, and the safe one.
    """
    on = [name for name, used in (("gnn", config.gnn), ("qaoa", config.qaoa)) if used]
    both = "+".join(on)
    if not config.meta:
        return (both or "independent",)
    if not on:
        return PIPELINES
    return tuple(name for name in PIPELINES if name in {SAFE, both, *on})


def category_of(jobs: Sequence[Job]) -> str:
    """What kind of work it is: how most GPUs' jobs talk, and whether jobs wait for each other."""
    if not jobs:
        return "no jobs"
    gpus: dict[str, int] = {}
    for job in jobs:
        gpus[job.kind] = gpus.get(job.kind, 0) + job.gpus
    kind = min(gpus, key=lambda name: (-gpus[name], name))
    return f"{kind}, dependent" if any(job.after for job in jobs) else kind


def pick(
    config: EnergyConfig,
    units: Units,
    jobs: Sequence[Job],
    previous: EnergyPlan | None,
    nets: Nets | None = None,
) -> Picked:
    """The pipeline for the window to come; ``nets`` None takes the package's own."""
    allowed = pipelines(config)
    nets = nets or Nets.default()
    if not config.meta:
        return Picked(pipeline=allowed[0], nets=nets)
    state = MetaState()
    costs: dict[str, float] = {}
    if previous is not None and previous.meta is not None and previous.choice is not None:
        state = previous.meta
        if previous.gpus == units.ids:
            costs = hindsight(previous, units)
            state = observe(state, previous.choice.category, costs, nets.meta)
    choice = choose(state, category_of(jobs), allowed, nets.meta)
    return Picked(pipeline=choice.pipeline, nets=nets, choice=choice, state=state, costs=costs)


def hindsight(previous: EnergyPlan, units: Units) -> dict[str, float]:
    """What each pipeline would have cost in the window of ``previous``, seen from its end.

    The inverse of the mean speed that its caps allow the demand that came, times one plus the mean
    error of the power it predicted, times the peak of its schedule over the bound. Pipelines whose
    schedule was not computed are left out.
    """
    out = {}
    for name, caps_of in _CAPS_OF.items():
        proposal = previous.proposals.get(caps_of)
        peak = _peak_ratio(previous, quantum="qaoa" in name)
        if proposal is None or peak is None:
            continue
        fast = float(predicted_speed(units, proposal.caps_w).mean())
        drawn = np.minimum(units.p50_w, previous.caps_w)
        error = float(np.abs(proposal.power_w - drawn).sum() / max(drawn.sum(), 1.0))
        out[name] = (1.0 + error) * peak / max(fast, 1e-3)
    return out


def _peak_ratio(previous: EnergyPlan, *, quantum: bool) -> float | None:
    """Peak over bound of the schedule with or without QAOA; None where it was not computed."""
    schedule = previous.schedule
    if schedule is None or schedule.lower_bound <= 0:
        return 1.0
    ran = "qaoa" in previous.pipeline
    if quantum:
        return schedule.peak_w / schedule.lower_bound if ran else None
    peak = schedule.baselines.get("cap-search") if ran else schedule.peak_w
    return None if peak is None else peak / schedule.lower_bound


def propose(
    problem: CapProblem, set_w: Floats, names: Sequence[str], net: CurveNet | None = None
) -> dict[str, Proposal]:
    """Each way's caps for the problem, and the draw that it predicts under the caps ``set_w``."""
    out = {}
    for name in dict.fromkeys(_CAPS_OF[one] for one in names):
        units = learned_units(problem.units, net)[0] if name == "gnn" else problem.units
        own = dataclasses.replace(problem, units=units, held_w=None)
        found = (independent_caps if name == "independent" else hull_caps)(own)
        out[name] = Proposal(caps_w=found.value, power_w=_drawn(problem.units, set_w, name, net))
    return out


def _drawn(units: Units, caps: Floats, name: str, net: CurveNet | None) -> Floats:
    """Median draw predicted under caps: what the cap leaves, or the learned share of it."""
    plain = np.minimum(caps, units.p50_w)
    if name != "gnn":
        return plain
    curves = (net or default_net()).predict(unit_graph(units))
    share = np.clip(caps / units.max_w, CAPS[0], CAPS[-1])
    at = np.clip(np.searchsorted(CAPS, share) - 1, 0, len(CAPS) - 2)
    part = (share - CAPS[at]) / (CAPS[at + 1] - CAPS[at])
    rows = np.arange(units.n)
    power = curves.power[rows, at] * (1 - part) + curves.power[rows, at + 1] * part
    return np.where(curves.learned, np.minimum(power * units.max_w, plain), plain)


def learned_units(units: Units, net: CurveNet | None = None) -> tuple[Units, EnergyCurves]:
    """Units whose speed under a cap is the learned one, where the network knows such units."""
    curves = (net or default_net()).predict(unit_graph(units))
    if not curves.learned.any():
        return units, curves
    idle, memory = fitted_units(curves, units.demand_w, units.max_w, units.idle_w, units.memory)
    return dataclasses.replace(units, idle_w=idle, memory=memory), curves


def unlearned(curves: EnergyCurves) -> str | None:
    """Why some or all of the curves are not learned ones."""
    unknown = int((~curves.learned).sum())
    if not unknown:
        return None
    return (
        f"{unknown} of {len(curves.learned)} units are unlike those the network was trained on: "
        "the physical model predicts their speed"
    )
