"""What a power plan says of each node: limits, clocks, predicted draw, NVLink traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.q_energy.capping import predicted_speed
from qcluster.q_energy.curves import clock_share
from qcluster.q_energy.dispatch import Dispatch
from qcluster.q_energy.units import Units
from qcluster.record import Record
from qcluster.telemetry import Topology

__all__ = ["NodePower", "Savings", "active_counts", "node_powers", "savings"]

# A cap a few watts below the demand must not cost a whole step of a sparse list of clocks: half a
# percent of clock draws three quarters of a percent more, and demands stand 3 % above the draw.
_CLOCK_SLACK = 1.005


@dataclass(frozen=True, kw_only=True, eq=False)
class NodePower(Record):
    """What one node is to do. Watts, MHz.

    ``caps_w`` maps GPU ids (or the node's own id where its GPUs are not known) to power limits;
    ``freq_cap_mhz`` to the clock that the cap amounts to, where the topology lists clocks.
    ``predicted_power_w`` holds p50 and p95 under the caps, hosts included. ``nvlink_share`` is the
    node's part of all NVLink traffic that is predicted under the caps, None where none is measured.
    """

    id: str
    active: bool
    caps_w: dict[str, float]
    predicted_power_w: dict[str, float]
    freq_cap_mhz: dict[str, int] = field(default_factory=dict)
    nvlink_share: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Savings(Record):
    """Energy saved in the window against a named baseline, joules and share; may be negative."""

    baseline: str
    energy_j: float
    share: float


def node_powers(
    units: Units,
    caps: NDArray[np.float64],
    final: NDArray[np.float64],
    topology: Topology | None,
) -> tuple[NodePower, ...]:
    """What each node is to do under ``caps`` (n,), with the limits ``final`` (n,) to be set."""
    members = np.argsort(units.node, kind="stable")
    ends = np.searchsorted(units.node[members], np.arange(len(units.nodes) + 1)).tolist()
    rows, watts = members.tolist(), final.tolist()
    low, high, runs = (
        np.bincount(units.node, weights=values, minlength=len(units.nodes)).astype(np.float64)
        for values in (
            np.minimum(caps, units.p50_w), np.minimum(caps, units.demand_w), units.p50_w > 0,
        )
    )  # fmt: skip
    if units.kind == "gpu":
        over = units.overhead_w[: len(units.nodes)]
        low, high = low + over, high + over
    clock, traffic = _clocks(units, caps, topology), _nvlink(units, caps)
    out = []
    for index, name in enumerate(units.nodes):
        mine = rows[ends[index] : ends[index + 1]]
        out.append(
            NodePower(
                id=name,
                active=bool(runs[index] > 0),
                caps_w={units.ids[i]: watts[i] for i in mine},
                predicted_power_w={"p50": float(low[index]), "p95": float(high[index])},
                freq_cap_mhz={units.ids[i]: clock[i] for i in mine if i in clock},
                nvlink_share=None if traffic is None else float(traffic[index]),
            )
        )
    return tuple(out)


def _nvlink(units: Units, caps: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(nodes,) shares of the NVLink traffic to come: what is sent now, slowed as the work is."""
    if units.nvlink_gb_s is None:
        return None
    sent = np.nan_to_num(units.nvlink_gb_s) * predicted_speed(units, caps)
    total = float(sent.sum())
    if total <= 0:
        return None
    return np.bincount(units.node, weights=sent, minlength=len(units.nodes)) / total


def _clocks(units: Units, caps: NDArray[np.float64], topology: Topology | None) -> dict[int, int]:
    """Of units whose node lists clocks, the highest listed one that draws no more than the cap, up
    to the demand's own margin.
    """
    listed = {} if topology is None else {n.id: n.clocks_mhz for n in topology.nodes}
    of_node = [listed.get(name, ()) for name in units.nodes]
    share = clock_share(caps, units.demand_w, units.idle_w) * _CLOCK_SLACK
    out: dict[int, int] = {}
    for clocks in set(of_node) - {()}:
        same = np.array([own == clocks for own in of_node])
        rows = np.flatnonzero(same[units.node])
        steps = np.sort(np.asarray(clocks))
        at = np.searchsorted(steps, share[rows] * steps[-1], side="right") - 1
        out.update(zip(rows.tolist(), steps[np.maximum(at, 0)].tolist(), strict=True))
    return out


def savings(units: Units, caps: NDArray[np.float64], window_s: float) -> Savings:
    """Energy of the window under the caps against the same window uncapped."""
    before = float(units.p50_w.sum() + units.overhead_w.sum())
    after = float(np.minimum(caps, units.p50_w).sum() + units.overhead_w.sum())
    saved = (before - after) * window_s
    share = (before - after) / before if before > 0 else 0.0
    return Savings(baseline="uncapped draw", energy_j=saved, share=share)


def active_counts(
    units: Units, topology: Topology | None, dispatch: Sequence[Dispatch] = ()
) -> dict[str, int]:
    """How many units draw power, and accelerators that jobs are sent to, by kind."""
    used = {row.to for row in dispatch}
    counts = {units.kind: int((units.p50_w > 0).sum())}
    for item in () if topology is None else topology.accelerators:
        counts[item.kind] = counts.get(item.kind, 0) + int(item.id in used)
    return counts
