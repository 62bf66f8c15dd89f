"""Latest values of all entities of one kind: arrays that blocks are written into.

A table knows neither topology nor sources. It remembers where each form of block goes, so that
taking in a block costs a few array operations whatever its size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.schema import METRICS, Block, Entity, Quality

__all__ = ["Table"]

# How many forms of blocks are remembered; sources send the same few again and again.
MAX_PLACES = 256


class Table:
    """Latest values of one kind of entity: (entities, metrics) arrays in topology order."""

    def __init__(self, entity: Entity, ids: tuple[str, ...]) -> None:
        self.ids, self.index = ids, {name: i for i, name in enumerate(ids)}
        self.metrics = tuple(m.name for m in METRICS.values() if m.entity == entity)
        self._column = {name: i for i, name in enumerate(self.metrics)}
        self._counter = np.array([METRICS[name].kind == "counter" for name in self.metrics])
        shape = (len(ids), len(self.metrics))
        self.value, self.rate = np.full(shape, np.nan), np.full(shape, np.nan)
        self.ts, self.life = np.full(shape, -np.inf), np.zeros(shape)
        self.source = np.zeros(shape, dtype=np.int32)
        self.quality = np.full(shape, int(Quality.MISSING), np.uint8)
        self._places: dict[tuple[tuple[str, ...], tuple[str, ...]], _Place] = {}

    def keep(self, old: Table) -> None:
        """Take over what an earlier table knows of the same entities."""
        both = [(i, old.index[name]) for name, i in self.index.items() if name in old.index]
        if not both:
            return
        here, there = (np.array(side) for side in zip(*both, strict=True))
        for name in ("value", "rate", "ts", "life", "source", "quality"):
            getattr(self, name)[here] = getattr(old, name)[there]

    def take(self, block: Block, ts_s: float, life_s: float, source: int) -> int:
        """Store a block of the source of this number; its values live for ``life_s`` seconds.

        Returns how many of its rows belong to no known entity.
        """
        place = self._place(block)
        values, quality = block.values, block.quality
        if place.known is not None:
            values, quality = values[place.known], quality[place.known]
        where = place.where
        ts = self.ts[where]
        since = ts_s - ts
        fresh = since > 0
        if place.counters.size:
            quality = self._rates(place, values, quality, since, fresh)
        if fresh.all():
            self.value[where], self.quality[where] = values, quality
            self.ts[where], self.life[where], self.source[where] = ts_s, life_s, source
        else:
            self.value[where] = np.where(fresh, values, self.value[where])
            self.quality[where] = np.where(fresh, quality, self.quality[where])
            # The first reading of a time stays; the second shows only as a mark.
            twice = np.uint8(Quality.DUPLICATE) * (since == 0)
            self.quality[where] |= twice.astype(np.uint8)
            self.ts[where] = np.where(fresh, ts_s, ts)
            self.life[where] = np.where(fresh, life_s, self.life[where])
            self.source[where] = np.where(fresh, source, self.source[where])
        return place.unknown

    def _place(self, block: Block) -> _Place:
        key = (block.ids, block.metrics)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            found = self._places[key] = _Place(self.index, self._column, self._counter, block)
        return found

    def _rates(
        self,
        place: _Place,
        values: NDArray[np.float64],
        quality: NDArray[np.uint8],
        since: NDArray[np.float64],
        fresh: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Rates of the counters in a block; returns its quality with resets marked."""
        cols, where = place.counters, place.counter_where
        before, now, dt = self.value[where], values[:, cols], since[:, cols]
        with np.errstate(invalid="ignore"):
            back = now < before
            told = quality[:, cols] & np.uint8(Quality.RESET) > 0
            good = (now >= before) & np.isfinite(dt) & ~told
            rate = np.where(good, (now - before) / np.maximum(dt, 1e-9), np.nan)
        self.rate[where] = np.where(fresh[:, cols], rate, self.rate[where])
        if back.any():
            quality = quality.copy()
            quality[:, cols] |= np.uint8(Quality.RESET) * back.astype(np.uint8)
        return quality

    def fresh(self, now: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values are not stale, ``now`` (sources,) being the time in each source's clock."""
        return np.asarray(now[self.source] - self.ts <= self.life)

    def latest(self, fresh: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Current values; rates for counters; NaN for what is stale."""
        out: dict[str, NDArray[np.float64]] = {}
        seen = np.isfinite(self.ts).any(axis=0)
        for i in np.flatnonzero(seen):
            name, source, scale = self.metrics[i], self.value[:, i], 1.0
            if self._counter[i]:
                name, scale = _rate_name(name)
                source = self.rate[:, i]
            shown = np.where(fresh[:, i], source * scale, np.nan)
            # Some sources count bytes, others report the rate: where both are there, either does.
            out[name] = np.where(np.isnan(shown), out[name], shown) if name in out else shown
        return out

    def marks(self, fresh: NDArray[np.bool_]) -> dict[str, NDArray[np.uint8]]:
        """Quality of every metric that was seen, with what is stale marked."""
        seen = np.isfinite(self.ts).any(axis=0)
        stale = ~fresh & np.isfinite(self.ts)
        quality = self.quality | np.uint8(Quality.STALE) * stale.astype(np.uint8)
        return {self.metrics[i]: quality[:, i].copy() for i in np.flatnonzero(seen)}

    def column(self, metric: str) -> NDArray[np.float64]:
        """Latest values of one metric, stale or not."""
        return self.value[:, self._column[metric]]


class _Place:
    """Where the rows and columns of one form of block go in a table."""

    def __init__(
        self,
        index: dict[str, int],
        column: dict[str, int],
        counter: NDArray[np.bool_],
        block: Block,
    ) -> None:
        rows = np.array([index.get(name, -1) for name in block.ids], dtype=np.int64)
        known = rows >= 0
        self.unknown = int(np.count_nonzero(~known))
        self.known = known if self.unknown else None
        rows = rows[known][:, None]
        columns = np.array([column[name] for name in block.metrics], dtype=np.int64)
        self.where = (rows, columns[None, :])
        self.counters = np.flatnonzero(counter[columns])
        self.counter_where = (rows, columns[self.counters][None, :])


def _rate_name(counter: str) -> tuple[str, float]:
    if counter.endswith("_bytes"):
        return counter.removesuffix("_bytes") + "_gb_s", 1e-9
    if counter == "power_held_s":
        return "power_held", 1.0  # share of time
    return (counter.removesuffix("_j") + "_w", 1.0) if counter == "energy_j" else (counter, 1.0)
