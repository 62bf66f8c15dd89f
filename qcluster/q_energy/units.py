"""What a budget is shared over: GPUs, or whole nodes where no topology tells their GPUs.

Joins telemetry and topology to one row a unit: limits, predicted demand, idle power. Demand is
what the unit would draw uncapped: the 95 % quantile of its power over the window (forecast by
``window`` where telemetry is live), or its highest limit when it now runs into its cap, because
then nobody knows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError, NotReady
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.curves import IDLE_SHARE
from qcluster.q_energy.demand import Demand, follow
from qcluster.q_energy.identify import Sight, Sightings, sight
from qcluster.q_energy.trace import PowerTrace
from qcluster.q_energy.window import window_quantiles
from qcluster.telemetry import Snapshot, Topology

__all__ = ["Units", "believable", "sighted", "units_from_snapshot", "units_from_trace", "watched"]

# Rest as a share of the lowest settable limit, at most.
_REST_BELOW_FLOOR = 0.7
# Lowest cap of a node whose GPUs are not known, as a share of its highest reading.
_NODE_FLOOR = 0.4
# Room above the demand so that a cap does not clip ordinary noise.
_MARGIN = 1.03
# A reading above this many times the highest limit is no GPU's draw, spikes included.
_MOST_OF_LIMIT = 1.5
# How far a node's window may lie from its power now; a checkpoint draws a fifth of training.
_MOST_FACTOR = 10.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """One row a unit, arrays (n,), watts.

    ``node`` indexes ``nodes``. ``p50_w`` and ``demand_w`` describe its draw when not capped by
    us; ``memory`` is the share of its time that does not follow the clock. ``overhead_w`` is
    everything that no cap reaches: hosts, and accelerators at rest. ``kind`` is "gpu" or "node".
    ``nvlink_gb_s`` is what each sends over NVLink now, gigabytes a second, NaN where not known;
    None where nothing tells.
    """

    kind: str
    ids: tuple[str, ...]
    nodes: tuple[str, ...]
    node: NDArray[np.int64]
    min_w: Floats
    max_w: Floats
    p50_w: Floats
    demand_w: Floats
    idle_w: Floats
    memory: Floats
    overhead_w: Floats
    nvlink_gb_s: Floats | None = None
    warnings: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """How many units."""
        return len(self.ids)

    @property
    def nameplate_w(self) -> float:
        """Sum of the highest limits and of what no cap reaches."""
        return float(self.max_w.sum() + self.overhead_w.sum())


def units_from_trace(trace: PowerTrace, topology: Topology | None, config: EnergyConfig) -> Units:
    """Units of a recorded trace.

    With a topology, GPUs: from their own readings (ids ``node/index``) or, where only nodes are
    metered, an equal part each of what ``host_share`` leaves. Without one, each entity of the
    trace is one unit between rest and its highest reading.

    Raises InputError when the trace has entities that the topology lacks.
    """
    quantiles = trace.quantiles((0.5, 0.95), config.window_s)
    if topology is None or not topology.nodes:
        return _bare(trace, quantiles, config)
    gpus, nodes = topology.gpu_ids, [node.id for node in topology.nodes]
    known = set(gpus) | set(nodes)
    strange = [name for name in trace.ids if name not in known]
    if strange:
        raise InputError(f"'{strange[0]}' of the telemetry is not in it", field="topology.nodes")
    row = {name: i for i, name in enumerate(trace.ids)}
    draw = np.full((len(gpus), 2), np.nan)
    overhead = np.zeros(len(nodes))
    owner = topology.owner
    for index, name in enumerate(nodes):
        mine = np.flatnonzero(owner == index)
        if name in row:
            part = config.host_share if len(mine) else 1.0
            overhead[index] = part * quantiles[row[name], 1]
            if len(mine):
                draw[mine] = (1 - config.host_share) * quantiles[row[name]] / len(mine)
    metered = np.array([name in row for name in gpus], bool)
    for index in np.flatnonzero(metered).tolist():
        name = gpus[index]
        draw[index] = quantiles[row[name]]
        _believable(name, trace.series(row[name])[1], topology.nodes[owner[index]].max_w)
    for index, name in enumerate(nodes):
        mine = np.flatnonzero(owner == index)
        if name in row and len(mine) and metered[mine].all():
            overhead[index] = max(quantiles[row[name], 1] - draw[mine, 1].sum(), 0.0)
    return _gpu_units(topology, owner, draw, overhead, config, list(trace.warnings))


def _believable(gpu: str, watts: Floats, limit_w: float) -> None:
    most = float(watts.max())
    if limit_w > 0 and most > _MOST_OF_LIMIT * limit_w:
        raise InputError(
            f"{gpu} reads {most:g} W, more than {_MOST_OF_LIMIT:g} times its highest limit of "
            f"{limit_w:g} W: wrong unit, wrong model or several GPUs in one reading",
            field="telemetry",
        )


def believable(snapshot: Snapshot) -> tuple[Snapshot, list[str]]:
    """A live snapshot without readings of more than 1.5 times a GPU's highest limit, and a line on
    those left out: one broken sensor must not stop the planning of all others.
    """
    board = snapshot.gpu.get("power_w")
    if board is None:
        return snapshot, []
    high = np.array([node.max_w for node in snapshot.topology.nodes])[snapshot.topology.owner]
    wrong = np.isfinite(board) & (high > 0) & (board > _MOST_OF_LIMIT * high)
    if not wrong.any():
        return snapshot, []
    first = int(np.argmax(wrong))
    line = (
        f"{int(wrong.sum())} power readings are more than {_MOST_OF_LIMIT:g} times the GPU's "
        f"highest limit and left out, {board[first]:g} W of '{snapshot.topology.gpu_ids[first]}' "
        "for one"
    )
    gpu = {**snapshot.gpu, "power_w": np.where(wrong, np.nan, board)}
    return dataclasses.replace(snapshot, gpu=gpu), [line]


def watched(snapshot: Snapshot, before: Demand | None) -> Demand:
    """The estimate of every GPU's uncapped draw after this snapshot's readings."""
    owner = snapshot.topology.owner
    high = np.array([node.max_w for node in snapshot.topology.nodes])[owner]
    board = snapshot.gpu.get("power_w", np.full(len(owner), np.nan))
    limit = snapshot.gpu.get("power_limit_w", np.full(len(owner), np.nan))
    return follow(before, board, limit, high, snapshot.ts_s, snapshot.gpu.get("power_held"))


def sighted(snapshot: Snapshot, before: Sightings | None) -> Sightings:
    """What is known of every GPU's present job after this snapshot's readings."""
    owner = snapshot.topology.owner
    high = np.array([node.max_w for node in snapshot.topology.nodes])[owner]
    blank = np.full(len(owner), np.nan)
    names = ("power_w", "power_limit_w", "power_held", "work_rate")
    now = Sight(*(snapshot.gpu.get(name, blank) for name in names))
    return sight(before, now, high, snapshot.ts_s)


def units_from_snapshot(
    snapshot: Snapshot, config: EnergyConfig, demand: Demand | None = None
) -> Units:
    """Units of a live snapshot: GPUs from board power, or from node power where boards have none.

    ``demand`` is what is remembered of what caps hide (``watched``); without it GPUs at their cap
    are taken to want all. A GPU that does not answer is left out of the history but keeps its
    floor in the budget.

    Raises NotReady when the snapshot has no topology or no power.
    """
    topology = snapshot.topology
    if not topology.gpu_ids:
        raise NotReady("no GPU is known yet: the telemetry has described no topology")
    owner = topology.owner
    board = snapshot.gpu.get("power_w", np.full(len(owner), np.nan))
    hosts = snapshot.node.get("node_power_w", np.full(len(topology.nodes), np.nan))
    if not np.isfinite(board).any() and not np.isfinite(hosts).any():
        raise NotReady("no power reading yet: neither power_w of a GPU nor node_power_w")
    warnings: list[str] = []
    gpus = np.bincount(owner, minlength=len(topology.nodes))
    metered = np.bincount(owner, weights=np.nan_to_num(board), minlength=len(topology.nodes))
    overhead = np.where(
        np.isfinite(hosts) & (metered > 0),
        np.clip(hosts - metered, 0, None),
        np.nan_to_num(hosts) * np.where(gpus > 0, config.host_share, 1.0),
    )
    share = ((1 - config.host_share) * hosts / np.maximum(gpus, 1))[owner]
    if not np.isfinite(board).all() and np.isfinite(share).any():
        warnings.append("GPUs without own readings get an equal part of their node's power")
    if demand is None:
        demand = watched(snapshot, None)
    blind = ~np.isfinite(board)
    now = np.where(blind & np.isinf(demand.age_s), share, demand.uncapped_w)
    draw = now[:, None] * _window_factors(snapshot, config.window_s)[owner]
    held = np.isinf(demand.age_s) & ~blind
    units = _gpu_units(topology, owner, draw, overhead, config, warnings, held)
    return _with_counters(units, snapshot)


def _window_factors(snapshot: Snapshot, window_s: float) -> Floats:
    """(nodes, 2) forecast median and 95 % quantile of the coming window over the power now.

    Ones where a node's history is too short or unknown. The high quantile is never below now.
    """
    power, times = snapshot.power_w, snapshot.power_ts_s
    factors = np.ones((len(snapshot.topology.nodes), 2))
    if len(times) < 2 or power.shape[1] != len(factors):
        return factors
    period = float(np.median(np.diff(times)))
    found = window_quantiles(power, round(window_s / period) if period > 0 else 1)
    now = power[-1]
    known = np.isfinite(found).all(axis=1) & np.isfinite(now) & (now > 0)
    factors[known] = np.clip(found[known] / now[known, None], 0.0, _MOST_FACTOR)
    factors[:, 1] = np.maximum(factors[:, 1], 1.0)
    return factors


def _with_counters(units: Units, snapshot: Snapshot) -> Units:
    """The memory-bound share from DRAM and SM activity and the NVLink rate, where reported."""
    units = dataclasses.replace(units, nvlink_gb_s=snapshot.gpu.get("nvlink_tx_gb_s"))
    dram, sm = snapshot.gpu.get("dram_active"), snapshot.gpu.get("sm_active")
    if dram is None or sm is None:
        return units
    total = dram + sm
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(total > 0.05, dram / total, np.nan)
    memory = np.where(np.isfinite(share), np.clip(share, 0.0, 0.9), units.memory)
    return dataclasses.replace(units, memory=memory)


def _gpu_units(
    topology: Topology,
    owner: NDArray[np.int64],
    draw: Floats,
    overhead: Floats,
    config: EnergyConfig,
    warnings: list[str],
    held: NDArray[np.bool_] | None = None,
) -> Units:
    low = np.array([node.min_w for node in topology.nodes])[owner]
    high = np.array([node.max_w for node in topology.nodes])[owner]
    if (high <= 0).any():
        node = topology.nodes[int(owner[np.argmax(high <= 0)])]
        raise InputError(
            f"node '{node.id}' has no power limits: {_unknown(node.model)}give min_w and max_w",
            field="topology.nodes",
        )
    if (low <= 0).any():
        node = topology.nodes[int(owner[np.argmax(low <= 0)])]
        warnings.append(
            f"{int((low <= 0).sum())} GPUs, those of '{node.id}' for one, have no lowest limit "
            "(min_w): caps may fall below what their driver takes"
        )
    blind = ~np.isfinite(draw[:, 1])
    if blind.any():
        warnings.append(f"{int(blind.sum())} GPUs have no power reading; full demand is assumed")
    capped = np.zeros(len(owner), bool) if held is None else held
    if capped.any():
        warnings.append(f"{int(capped.sum())} GPUs run at their limit; full demand is assumed")
    # A GPU under its lowest limit still runs, so that limit lies well above rest.
    idle = np.minimum(IDLE_SHARE * high, np.where(low > 0, _REST_BELOW_FLOOR * low, np.inf))
    median = np.where(blind, high, np.clip(draw[:, 0], 0.0, high))
    demand = np.where(blind | capped, high, np.clip(draw[:, 1] * _MARGIN, idle, high))
    rest = sum(item.idle_w for item in topology.accelerators)
    return Units(
        kind="gpu",
        ids=topology.gpu_ids,
        nodes=tuple(node.id for node in topology.nodes),
        node=owner,
        min_w=low,
        max_w=high,
        p50_w=np.minimum(median, demand),
        demand_w=demand,
        idle_w=np.minimum(idle, 0.9 * demand),
        memory=np.full(len(owner), config.memory_bound),
        overhead_w=np.append(overhead, rest),
        warnings=tuple(warnings),
    )


def _unknown(model: str) -> str:
    return f"GPU model '{model}' is not known, " if model else "it names no GPU model, "


def _bare(trace: PowerTrace, quantiles: Floats, config: EnergyConfig) -> Units:
    metered = set(trace.ids)
    # A node's meter holds what its GPUs draw.
    whole = [i for i, n in enumerate(trace.ids) if n.rpartition("/")[0] not in metered]
    ids, quantiles = tuple(trace.ids[i] for i in whole), quantiles[whole]
    inside = len(trace.ids) - len(ids)
    top = np.maximum([trace.series(i)[1].max() for i in whole], 1.0)
    demand = np.minimum(np.maximum(quantiles[:, 1] * _MARGIN, IDLE_SHARE * top), top)
    line = "no topology: each node's highest reading is taken for its nameplate"
    parts = [f"{inside} GPUs are counted in their nodes' readings"] if inside else []
    return Units(
        kind="node",
        ids=ids,
        nodes=ids,
        node=np.arange(len(ids)),
        min_w=_NODE_FLOOR * top,
        max_w=top,
        p50_w=np.minimum(quantiles[:, 0], demand),
        demand_w=demand,
        idle_w=np.minimum(IDLE_SHARE * top, 0.9 * demand),
        memory=np.full(len(ids), config.memory_bound),
        overhead_w=np.zeros(1),
        warnings=(*trace.warnings, *parts, line),
    )
