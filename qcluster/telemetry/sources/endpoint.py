"""One exporter's texts turned into blocks: which series goes where, blanks, slices, duplicates.

Knows no network and no exporter by name: rules say where a series belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.schema import METRICS, Block, Entity, Quality, is_blank
from qcluster.telemetry.sources.exposition import Reader, Scrape, Series
from qcluster.telemetry.topology import Node

__all__ = ["Endpoint", "Rules", "Target", "gpu_id", "labels_of"]

STALE_PERIODS = 3.0


@dataclass(frozen=True)
class Target:
    """Where one series goes: value times ``scale`` into ``metric`` of ``id``.

    ``part`` is the share of the device that a slice (MIG) is, 1 for the whole device; ``model`` and
    ``device`` are the device's name and serial (UUID) where the exporter tells them.
    """

    entity: Entity
    id: str
    metric: str
    scale: float = 1.0
    part: float = 1.0
    model: str = ""
    device: str = ""


Rules = Callable[[Series, str], Target | None]
"""From a series and the host it was fetched from to its place, or None if it has none."""


def gpu_id(node: str, index: str) -> str | None:
    """``node/index``, None where the index is none."""
    return f"{node}/{int(index)}" if index.isdigit() and len(index) < 5 else None


def labels_of(labels: Mapping[str, str], *names: str) -> str:
    """The first of these labels that is there and not empty, or ''."""
    return next((labels[name] for name in names if labels.get(name)), "")


@dataclass
class _Layout:
    """Where the values of one list of series go; made once, used while the list stays the same."""

    series: list[Series]
    take: dict[Entity, NDArray[np.int64]] = field(default_factory=dict)
    ids: dict[Entity, tuple[str, ...]] = field(default_factory=dict)
    metrics: dict[Entity, tuple[str, ...]] = field(default_factory=dict)
    cell: dict[Entity, NDArray[np.int64]] = field(default_factory=dict)
    scale: dict[Entity, NDArray[np.float64]] = field(default_factory=dict)
    counter: dict[Entity, NDArray[np.bool_]] = field(default_factory=dict)
    marks: dict[Entity, NDArray[np.uint8]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)


class Endpoint:
    """Turns the texts of one exporter into blocks. Holds no connection."""

    def __init__(self, host: str, rules: Rules, period_s: float = 1.0) -> None:
        self.host, self.period_s = host, period_s
        self._rules, self._reader, self._layout = rules, Reader(), _Layout([])

    def blocks(self, text: str, now: float) -> tuple[Block, ...]:
        """Blocks of one scrape.

        Raises FormatError naming the row that is no sample.
        """
        return self.read(self._reader.parse(text), now)

    def read(self, scrape: Scrape, now: float) -> tuple[Block, ...]:
        """Blocks of one scrape that was parsed."""
        swapped: set[str] = set()
        if scrape.series != self._layout.series:
            before = self._layout.devices
            self._layout = _lay_out(scrape.series, self._rules, self.host)
            after = self._layout.devices
            swapped = {one for one in after if before.get(one, after[one]) != after[one]}
        blocks = tuple(self._block(entity, scrape, now) for entity in self._layout.take)
        for block in blocks if swapped else ():
            _mark_swapped(block, swapped)
        return blocks

    def nodes(self) -> tuple[Node, ...]:
        """The nodes and the numbers of their GPUs, as seen in the last scrape."""
        counts: dict[str, int] = dict.fromkeys(self._layout.ids.get("node", ()), 0)
        models: dict[str, str] = {}
        for gpu in self._layout.ids.get("gpu", ()):
            node, _, index = gpu.rpartition("/")
            counts[node] = max(counts.get(node, 0), int(index) + 1)
            models[node] = self._layout.models.get(gpu, "")
        return tuple(Node(id=n, gpus=count, model=models.get(n, "")) for n, count in counts.items())

    def _block(self, entity: Entity, scrape: Scrape, now: float) -> Block:
        layout = self._layout
        ids, metrics, take = layout.ids[entity], layout.metrics[entity], layout.take[entity]
        raw, cells = scrape.values[take], layout.cell[entity]
        # Blanks are told by their raw value; infinity stays one whatever the scale.
        raw = np.where(is_blank(raw, layout.counter[entity]), np.inf, raw)
        values = raw * layout.scale[entity]
        flat = np.full(len(ids) * len(metrics), np.nan)
        flat[cells[::-1]] = values[::-1]
        parts = np.bincount(cells, minlength=flat.size) > 1
        if parts.any():
            finite = np.where(np.isfinite(values), values, 0.0)
            summed = np.bincount(cells, weights=finite, minlength=flat.size)
            additive = layout.marks[entity] & np.uint8(Quality.SHARED | Quality.DUPLICATE) == 0
            flat = np.where(parts & additive, summed, flat)
        grid = flat.reshape(len(ids), len(metrics))
        block = Block.of(entity, ids, {m: grid[:, i] for i, m in enumerate(metrics)})
        block.quality[...] |= layout.marks[entity].reshape(grid.shape)
        old = now - scrape.ts_s[take] > STALE_PERIODS * self.period_s
        if old.any():
            block.quality.ravel()[cells[old]] |= np.uint8(Quality.STALE)
        return block


def _lay_out(series: list[Series], rules: Rules, host: str) -> _Layout:
    layout = _Layout(series)
    targets = [(i, rules(one, host)) for i, one in enumerate(series)]
    for entity in ("gpu", "node", "link"):
        found = [(i, t) for i, t in targets if t is not None and t.entity == entity]
        if not found:
            continue
        ids = tuple(dict.fromkeys(t.id for _, t in found))
        metrics = tuple(dict.fromkeys(t.metric for _, t in found))
        row, column = {n: i for i, n in enumerate(ids)}, {n: i for i, n in enumerate(metrics)}
        cells = np.array([row[t.id] * len(metrics) + column[t.metric] for _, t in found])
        layout.take[entity] = np.array([i for i, _ in found])
        layout.ids[entity], layout.metrics[entity], layout.cell[entity] = ids, metrics, cells
        layout.scale[entity] = np.array([t.scale * _weight(t) for _, t in found])
        layout.counter[entity] = np.array([METRICS[t.metric].kind == "counter" for _, t in found])
        layout.marks[entity] = _marks(cells, [t for _, t in found], len(ids) * len(metrics))
        layout.models |= {t.id: t.model for _, t in found if t.model}
        layout.devices |= {t.id: t.device for _, t in found if t.device}
    return layout


def _mark_swapped(block: Block, swapped: set[str]) -> None:
    """Counters of a place where another device now answers have nothing to do with before."""
    rows = [i for i, name in enumerate(block.ids) if name in swapped]
    columns = [i for i, name in enumerate(block.metrics) if METRICS[name].kind == "counter"]
    block.quality[np.ix_(rows, columns)] |= np.uint8(Quality.RESET)


def _weight(target: Target) -> float:
    """What a slice's figure counts for the device: shares by its size, bytes in full."""
    share = METRICS[target.metric].unit == "1" and target.metric not in ("up", "xid_error")
    return target.part if share else 1.0


def _marks(cells: NDArray[np.int64], targets: list[Target], size: int) -> NDArray[np.uint8]:
    marks = np.zeros(size, dtype=np.uint8)
    seen: set[int] = set()
    for cell, target in zip(cells.tolist(), targets, strict=True):
        per_slice = METRICS[target.metric].unit in ("1", "B") and target.metric != "xid_error"
        if target.part < 1 and not per_slice:
            marks[cell] |= np.uint8(Quality.SHARED)
        elif target.part == 1 and cell in seen:
            marks[cell] |= np.uint8(Quality.DUPLICATE)
        seen.add(cell)
    return marks
