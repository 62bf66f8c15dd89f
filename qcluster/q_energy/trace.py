"""Power history of nodes or GPUs, screened: what the readers give and the planner reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.record import Record

__all__ = ["PowerTrace", "late_readings", "screen"]

# Sentinels of exporters for "not known": 2^46 and up, and the 32-bit blanks.
_BLANK = 2.0**46
_BLANK32 = (0x7FFFFFF0, 0x7FFFFFFF)
_MAX_W = 200_000.0  # a rack; a reading above is not one node's watts
_MAX_GPU_W = 20_000.0  # a GPU at rest in milliwatts is above, one under load in watts far below
_OFF_W = 50.0
_MAX_RATIO = 500.0  # between one entity's median power and that of all
_MAX_TS_S = 1e11  # milliseconds since 1970 passed it in 1973
_BACKWARD_S = 5.0  # meters answer out of order by fractions of a second; more is a wrong clock


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerTrace(Record):
    """Readings sorted by entity and time.

    ``ids`` names the entities: nodes, or GPUs as ``node/index``. Readings are ``entity`` (m,)
    indices into ids, ``ts_s`` (m,) Unix or relative seconds and ``power_w`` (m,) watts.
    ``warnings`` tells what was repaired.
    """

    ids: tuple[str, ...]
    entity: NDArray[np.int64]
    ts_s: NDArray[np.float64]
    power_w: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        names: NDArray[np.str_],
        ts_s: NDArray[np.float64],
        power_w: NDArray[np.float64],
        *,
        runs: NDArray[np.str_] | None = None,
        file: object = None,
        first_row: int = 2,
    ) -> PowerTrace:
        """Screen and sort readings; row i of the file is ``first_row + i``.

        ``runs`` (m,) labels separate recordings of one entity, which may stand in any order.

        Raises FormatError naming row and field for NaN, exporters' blanks, negative power, power
        that looks like milliwatts, and time that runs backward by more than 5 s within an entity.
        Repeated times keep the first reading, with a warning.
        """
        if not len(power_w):
            raise FormatError("holds no readings", file=file)
        found, entity = np.unique(names, return_inverse=True)
        ids = tuple(map(str, found))
        rows = first_row + np.arange(len(entity))
        screen(ids, entity, ts_s, power_w, rows=rows, file=file)
        within, owners = entity, ids
        if runs is not None:
            _, run = np.unique(runs, return_inverse=True)
            within = entity * (int(run.max()) + 1) + run
            owners = tuple(name for name in ids for _ in range(int(run.max()) + 1))
        late, worst = late_readings(owners, within, ts_s, rows=rows, file=file)
        line = f"{late} readings came out of order (up to {worst:.3g} s); sorted by time"
        return cls.screened(ids, entity, ts_s, power_w, warnings=(line,) if late else ())

    @classmethod
    def screened(
        cls,
        ids: tuple[str, ...],
        entity: NDArray[np.int64],
        ts_s: NDArray[np.float64],
        power_w: NDArray[np.float64],
        *,
        warnings: tuple[str, ...] = (),
    ) -> PowerTrace:
        """Sort readings that passed ``screen``; of two at one time the first stays."""
        order = np.lexsort((np.arange(len(entity)), ts_s, entity))
        entity, ts_s, power_w = entity[order], ts_s[order], power_w[order]
        again = np.zeros(len(entity), bool)
        again[1:] = (entity[1:] == entity[:-1]) & (ts_s[1:] == ts_s[:-1])
        if again.any():
            line = f"{int(again.sum())} readings repeat a time; the first of each is kept"
            warnings = (*warnings, line)
        entity, ts_s, power_w = entity[~again], ts_s[~again], power_w[~again]
        trace = cls(ids=ids, entity=entity, ts_s=ts_s, power_w=power_w, warnings=warnings)
        shared = trace.shared_meters()
        if shared:
            line = f"{len(ids)} entities give {len(ids) - shared} distinct series: shared meters"
            trace = cls(**{**trace.__dict__, "warnings": (*trace.warnings, line)})
        return trace

    @property
    def newest_s(self) -> float:
        """Time of the newest reading."""
        return float(self.ts_s.max())

    @property
    def period_s(self) -> float:
        """Median time between readings of one entity; 1 when there is only one each."""
        same = self.entity[1:] == self.entity[:-1]
        return float(np.median(np.diff(self.ts_s)[same])) if same.any() else 1.0

    def series(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(times, watts) of one entity, oldest first."""
        lo, hi = np.searchsorted(self.entity, [index, index + 1])
        return self.ts_s[lo:hi], self.power_w[lo:hi]

    def quantiles(self, shares: tuple[float, ...], window_s: float) -> NDArray[np.float64]:
        """(ids, shares) quantiles of each entity's power over its last ``window_s`` seconds."""
        out = np.empty((len(self.ids), len(shares)))
        for index in range(len(self.ids)):
            times, watts = self.series(index)
            out[index] = np.quantile(watts[times >= times[-1] - window_s], shares)
        return out

    def shared_meters(self) -> int:
        """How many entities repeat another's series, reading for reading."""
        seen: set[tuple[object, ...]] = set()
        for index in range(len(self.ids)):
            times, watts = self.series(index)
            # One reading, or a constant, says nothing about who measured it.
            if len(watts) < 8 or np.ptp(watts) == 0:
                seen.add((index,))
            else:
                seen.add((times.tobytes(), watts.tobytes()))
        return len(self.ids) - len(seen)


def screen(
    names: Sequence[str],
    entity: NDArray[np.int64],
    ts_s: NDArray[np.float64],
    power_w: NDArray[np.float64],
    *,
    rows: NDArray[np.int64],
    file: object,
) -> None:
    """Refuse readings that are none; reading i is of ``names[entity[i]]`` and of row ``rows[i]``.

    Raises FormatError naming row and field.
    """

    def refuse(bad: NDArray[np.bool_], field: str, message: str) -> None:
        if bad.any():
            at = int(np.argmax(bad))
            value = (ts_s if field == "time" else power_w)[at]
            text = message.format(value=value, name=names[int(entity[at])])
            raise FormatError(text, file=file, row=int(rows[at]), field=field)

    refuse(~np.isfinite(ts_s), "time", "{value} is not a time")
    line = "{value:.0f} s is no time in seconds; name the column by its unit, such as time_ms"
    refuse(np.abs(ts_s) > _MAX_TS_S, "time", line)
    refuse(np.isnan(power_w), "power_w", "is NaN")
    refuse(np.isinf(power_w), "power_w", "{value} is no power")
    blank = (power_w >= _BLANK) | ((power_w >= _BLANK32[0]) & (power_w <= _BLANK32[1]))
    refuse(blank, "power_w", "{value:.17g} is an exporter's blank marker, not a power")
    refuse(power_w < 0, "power_w", "{value:g} W is negative")
    if np.median(power_w) > _MAX_W:
        refuse(power_w > _MAX_W, "power_w", "{value:g} W looks like milliwatts; wants watts")
    refuse(power_w > _MAX_W, "power_w", "{value:g} W is more than one node can draw")
    gpu = np.array([name.rpartition("/")[2].isdigit() and "/" in name for name in names])[entity]
    line = "{value:g} W looks like milliwatts for the GPU {name}; wants watts"
    refuse(gpu & (power_w > _MAX_GPU_W), "power_w", line)
    medians = _medians(entity, power_w, len(names))
    # Nodes that are off draw a few watts and say nothing about the others' unit.
    on = medians[medians > _OFF_W]
    usual = float(np.median(on)) if len(on) else _MAX_W
    odd = (medians > max(_MAX_RATIO * usual, _MAX_GPU_W))[entity] & (power_w > _MAX_GPU_W)
    line = "{value:g} W of {name} looks like milliwatts beside the others; wants watts"
    refuse(odd, "power_w", line)


def _medians(
    entity: NDArray[np.int64], power_w: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """(n,) the median power of each entity, 0 where it has no reading."""
    order = np.lexsort((power_w, entity))
    begin = np.searchsorted(entity[order], np.arange(n + 1))
    out = np.zeros(n)
    some = begin[1:] > begin[:-1]
    out[some] = power_w[order][(begin[:-1] + begin[1:])[some] // 2]
    return out


def late_readings(
    names: Sequence[str],
    within: NDArray[np.int64],
    ts_s: NDArray[np.float64],
    *,
    rows: NDArray[np.int64],
    file: object,
    since: int = 0,
) -> tuple[int, float]:
    """How many readings from index ``since`` on step back in time, and by how many seconds at most.

    ``within`` groups what one recording of one entity gave; ``names`` is by group.
    Raises FormatError naming the row of a step of more than 5 s.
    """
    order = np.argsort(within, kind="stable")
    step = np.diff(ts_s[order])
    step[within[order][1:] != within[order][:-1]] = 0.0
    step[order[1:] < since] = 0.0
    if not (step < 0).any():
        return 0, 0.0
    worst = int(np.argmin(step))
    if step[worst] < -_BACKWARD_S:
        at = int(order[worst + 1])
        message = f"time of {names[int(within[at])]} runs backward by {-step[worst]:g} s"
        raise FormatError(message, file=file, row=int(rows[at]), field="time")
    return int((step < 0).sum()), float(-step[worst])
