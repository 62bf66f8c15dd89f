"""Recorded power and counters: node power, or one row a GPU and time.

Real recordings have traps, and each shows up in what is delivered: a node that is silent for more
than three periods gives a ``gap`` event; a second reading of the same node and time is dropped;
rows that step back in time are put in order; nodes whose series are identical share one meter and
are marked SHARED but for the first; the pause between two runs is cut to one period.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.telemetry.schema import METRICS, Batch, Block, Entity, Event, Quality
from qcluster.telemetry.sources.replay.cells import Cells
from qcluster.telemetry.topology import Node, Topology

__all__ = ["read_table"]

GAP_PERIODS = 3.0
# Names that recordings use, ours, and the factor between their units. What is known to be a wrong
# unit and is not here is refused: guessing a factor of 1000 would be worse than an error.
_ALIASES: dict[str, tuple[str, float]] = {
    "temp_c": ("temperature_c", 1.0),
    "gpu_util_pct": ("utilization", 0.01),
    "energy_mj": ("energy_j", 1e-3),
    "nvlink_tx_bytes_s": ("nvlink_tx_gb_s", 1e-9),
    "nvlink_rx_bytes_s": ("nvlink_rx_gb_s", 1e-9),
    "sm_clock": ("sm_clock_mhz", 1.0),
    "limit_w": ("power_limit_w", 1.0),
    "memory_used_mib": ("memory_used_bytes", 2.0**20),
}
_TIMES = {"ts_s": 1.0, "t_s": 1.0, "time_s": 1.0, "time_ms": 1e-3, "ts_ms": 1e-3}
_WRONG_UNITS = {"power_mw": "power_w", "power_kw": "power_w", "energy_kj": "energy_j",
                "sm_clock_hz": "sm_clock_mhz", "temperature_f": "temperature_c"}  # fmt: skip


@dataclass(frozen=True)
class _Table:
    """Rows in order of time: time (n,), who (n,) as index into ids, columns metric -> (n,)."""

    ts: NDArray[np.float64]
    who: NDArray[np.int64]
    ids: tuple[str, ...]
    entity: Entity
    columns: dict[str, NDArray[np.float64]]
    topology: Topology


def read_table(
    cells: Cells, path: Path, source: str, *, run: str | None = None, period_s: float | None = None
) -> Iterator[Batch]:
    """Batches of a table, one a period, stamped with the newest row in it.

    ``period_s`` of None takes the median step of the rows of one node.
    Raises FormatError naming row and column.
    """
    table = _load(cells, path, run)
    period = period_s or _median_step(table)
    shared = _shared(table)
    tick = np.floor((table.ts - table.ts[0]) / period + 1e-6).astype(np.int64)
    bounds = np.flatnonzero(np.diff(tick, prepend=-1))
    last = np.full(len(table.ids), np.nan)
    for start, stop in zip(bounds, [*bounds[1:], len(tick)], strict=True):
        rows = slice(int(start), int(stop))
        events = _gaps(table, rows, last, period)
        yield Batch(
            source=source,
            ts_s=float(table.ts[stop - 1]),
            period_s=period,
            blocks=(_block(table, rows, shared),),
            topology=table.topology if start == 0 else None,
            events=events,
        )


def _load(cells: Cells, path: Path, run: str | None) -> _Table:
    for name, ours in _WRONG_UNITS.items():
        if name in cells.columns:
            raise FormatError(f"wants {ours} ({METRICS[ours].unit})", file=path, field=name)
    time_name = next((name for name in _TIMES if name in cells.columns), None)
    if time_name is None:
        raise FormatError(f"needs one of {', '.join(_TIMES)}", file=path, field="ts_s")
    ts = _numbers(cells, time_name, path) * _TIMES[time_name]
    if not np.isfinite(ts).all():
        bad = int(np.flatnonzero(~np.isfinite(ts))[0])
        raise FormatError("wants a time", file=path, row=cells.rows[bad], field=time_name)
    ts, keep = _in_runs(ts, cells.columns.get("run"), run, path)
    return _ordered(ts, keep, cells, path)


def _ordered(ts: NDArray[np.float64], keep: NDArray[np.int64], cells: Cells, path: Path) -> _Table:
    nodes = cells.columns.get("node", ("node0",) * len(ts))
    gpus = _indices(cells, path)
    entity: Entity = "node" if gpus is None else "gpu"
    names = nodes if gpus is None else tuple(map("/".join, zip(nodes, gpus, strict=True)))
    topology = _topology(nodes, gpus)
    known = topology.gpu_ids if gpus else tuple(node.id for node in topology.nodes)
    position = {name: i for i, name in enumerate(known)}
    who = np.array([position[name] for name in names], dtype=np.int64)
    columns = _metrics(cells, entity, path)
    # Backward steps are put in order; of two readings at one time the first in the file stays.
    order = keep[np.lexsort((keep, who[keep], ts[keep]))]
    twin = np.zeros(len(order), dtype=bool)
    twin[1:] = (np.diff(ts[order]) == 0) & (np.diff(who[order]) == 0)
    order = order[~twin]
    columns = {name: values[order] for name, values in columns.items()}
    return _Table(ts[order], who[order], known, entity, columns, topology)


def _metrics(cells: Cells, entity: Entity, path: Path) -> dict[str, NDArray[np.float64]]:
    out: dict[str, NDArray[np.float64]] = {}
    for name in cells.columns:
        ours, scale = _ALIASES.get(name, (name, 1.0))
        if entity == "node" and ours == "power_w":
            ours = "node_power_w"
        if ours in METRICS and METRICS[ours].entity == entity:
            out[ours] = _numbers(cells, name, path) * scale
    if not out:
        known = ", ".join(m.name for m in METRICS.values() if m.entity == entity)
        raise FormatError(f"has no column of a {entity}; there are: {known}", file=path)
    return out


def _numbers(cells: Cells, name: str, path: Path) -> NDArray[np.float64]:
    """A column of numbers; an empty cell is a missing value."""
    texts = cells.columns[name]
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        for row, text in zip(cells.rows, texts, strict=True):
            try:
                float(text or "nan")
            except ValueError:
                message = f"wants a number, got '{text[:40]}'"
                raise FormatError(message, file=path, row=row, field=name) from None
        raise


def _indices(cells: Cells, path: Path) -> tuple[str, ...] | None:
    """The column of GPUs' indices on their nodes, None where each row is a node's."""
    texts = cells.columns.get("gpu")
    if texts is None:
        return None
    for row, text in zip(cells.rows, texts, strict=True):
        if not text.isdigit() or len(text) > 4:
            message = f"wants the index of a GPU, got '{text[:40]}'"
            raise FormatError(message, file=path, row=row, field="gpu")
    return texts


def _topology(nodes: tuple[str, ...], gpus: tuple[str, ...] | None) -> Topology:
    counts = dict.fromkeys(nodes, 0)
    if gpus is not None:
        for node, gpu in set(zip(nodes, gpus, strict=True)):
            counts[node] = max(counts[node], int(gpu) + 1)
    return Topology(nodes=tuple(Node(id=node, gpus=n) for node, n in counts.items()))


def _in_runs(
    ts: NDArray[np.float64], runs: tuple[str, ...] | None, wanted: str | None, path: Path
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times with runs put one after another, and the rows to keep."""
    every = np.arange(len(ts))
    if runs is None:
        if wanted is not None:
            raise FormatError("has no column of runs", file=path, field="run")
        return ts, every
    labels = np.array(runs)
    if wanted is not None:
        keep = np.flatnonzero(labels == wanted)
        if not len(keep):
            known = ", ".join(sorted(set(runs))[:20])
            raise FormatError(f"has no run '{wanted}'; there are: {known}", file=path, field="run")
        return ts, keep
    names, which = np.unique(labels, return_inverse=True)
    first = np.array([ts[which == i].min() for i in range(len(names))])
    last = np.array([ts[which == i].max() for i in range(len(names))])
    moved, end = ts.copy(), float(first.min())
    for i in np.argsort(first):
        moved[which == i] = ts[which == i] - first[i] + end
        end += float(last[i] - first[i]) + 1.0
    return moved, every


def _median_step(table: _Table) -> float:
    order = np.lexsort((table.ts, table.who))
    steps = np.diff(table.ts[order])[np.diff(table.who[order]) == 0]
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0


def _shared(table: _Table) -> NDArray[np.bool_]:
    """Whose power series is, number for number, that of one before it, (ids,)."""
    out = np.zeros(len(table.ids), dtype=bool)
    power = table.columns.get("node_power_w")
    if power is None:
        return out
    seen: set[bytes] = set()
    for i in range(len(table.ids)):
        series = power[table.who == i]
        key = series.tobytes()
        # Two or three equal readings prove nothing.
        out[i] = key in seen and len(series) >= 8 and bool(np.ptp(series) > 0)
        seen.add(key)
    return out


def _gaps(
    table: _Table, rows: slice, last: NDArray[np.float64], period: float
) -> tuple[Event, ...]:
    events = []
    for ts, who in zip(table.ts[rows], table.who[rows], strict=True):
        silent = ts - last[who]
        if silent > GAP_PERIODS * period:
            events.append(
                Event(ts_s=float(ts), kind="gap", subject=table.ids[who], detail=f"{silent:.1f} s")
            )
        last[who] = ts
    return tuple(events)


def _block(table: _Table, rows: slice, shared: NDArray[np.bool_]) -> Block:
    """The newest row of everybody in this period."""
    who = table.who[rows]
    # np.unique keeps first occurrences: reversed, they are the newest.
    found, back = np.unique(who[::-1], return_index=True)
    newest = len(who) - 1 - back
    ids = tuple(table.ids[i] for i in found)
    columns = {name: values[rows][newest] for name, values in table.columns.items()}
    block = Block.of(table.entity, ids, columns)
    block.quality[shared[found]] |= np.uint8(Quality.SHARED)
    return block
